"""Least squares on signals with irrelevant frequencies: what gradient descent and signGD make of them.

A linear model is trained on Gaussian signals some of whose DCT coefficients are always zero. Gradient
descent leaves the weights on those frequencies where they started; signGD, and Adam and RMSProp with it,
drives them away from zero, at no cost in standard risk and at a price in adversarial risk.
"""

from ._asymptotics import MAX_RISK_RATIO_FROM_ZERO as MAX_RISK_RATIO_FROM_ZERO
from ._asymptotics import AsymptoticBounds as AsymptoticBounds
from ._asymptotics import asymptotic_bounds as asymptotic_bounds
from ._asymptotics import asymptotic_bounds_published as asymptotic_bounds_published
from ._asymptotics import risk_ratio as risk_ratio
from ._asymptotics import risk_ratio_bounds_published as risk_ratio_bounds_published
from ._asymptotics import standard_risk_bound as standard_risk_bound
from ._covariances import CovarianceSampler as CovarianceSampler
from ._covariances import sample_covariance as sample_covariance
from ._covariances import wishart_covariance as wishart_covariance
from ._drift import FULL_STEP as FULL_STEP
from ._drift import irrelevant_drift as irrelevant_drift
from ._drift import irrelevant_drift_published as irrelevant_drift_published
from ._drift import moving_steps_bounds as moving_steps_bounds
from ._drift import moving_steps_published as moving_steps_published
from ._gradient_descent import expected_gradient_descent_risk as expected_gradient_descent_risk
from ._gradient_descent import gradient_descent as gradient_descent
from ._gradient_descent import gradient_descent_limit as gradient_descent_limit
from ._gradient_descent import max_learning_rate as max_learning_rate
from ._problem import PUBLISHED_EPS as PUBLISHED_EPS
from ._problem import PUBLISHED_LEARNING_RATE as PUBLISHED_LEARNING_RATE
from ._problem import PUBLISHED_SAMPLES as PUBLISHED_SAMPLES
from ._problem import PUBLISHED_STEPS as PUBLISHED_STEPS
from ._problem import LeastSquares as LeastSquares
from ._problem import published_initial_weights as published_initial_weights
from ._problem import published_problem as published_problem
from ._problem import redundant_directions as redundant_directions
from ._problem import robust_minimiser as robust_minimiser
from ._problem import sample as sample
from ._problem import to_frequency as to_frequency
from ._problem import to_space as to_space
from ._recording import Trajectory as Trajectory
from ._recording import log_spaced_steps as log_spaced_steps
from ._regions import InitialRegions as InitialRegions
from ._regions import OscillationRegions as OscillationRegions
from ._regions import initial_regions as initial_regions
from ._regions import oscillation_regions as oscillation_regions
from ._risk import adversarial_risk as adversarial_risk
from ._risk import adversarial_risk_bounds as adversarial_risk_bounds
from ._risk import gaussian_risk as gaussian_risk
from ._risk import standard_risk as standard_risk
from ._risk import worst_perturbation as worst_perturbation
from ._sign_gradient_descent import FirstPhase as FirstPhase
from ._sign_gradient_descent import ab_coordinates as ab_coordinates
from ._sign_gradient_descent import first_phase as first_phase
from ._sign_gradient_descent import sign_gradient as sign_gradient
from ._sign_gradient_descent import sign_gradient_descent as sign_gradient_descent
from ._sign_patterns import SIGN_PATTERNS as SIGN_PATTERNS
from ._sign_patterns import SignPattern as SignPattern
from ._sign_patterns import sign_patterns_of as sign_patterns_of
from ._sign_patterns import sign_update as sign_update
from ._training import train as train
