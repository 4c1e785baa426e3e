"""Linear regression on signals whose spectrum has empty frequencies, and the published instance of it."""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxrobust.frequency import dct_matrix
from jaxrobust.pytree import register_pytree_dataclass

FloatLike: TypeAlias = float | jax.Array

PUBLISHED_LEARNING_RATE = 0.01
"""Constant learning rate of all four optimizers in the published linear study."""

PUBLISHED_STEPS = 200_001
"""Iterations of the published linear study."""

PUBLISHED_SAMPLES = 1000
"""Fresh samples per iteration in the published linear study."""

PUBLISHED_EPS = math.sqrt(2.0)
"""l2 budget of the published linear study: the adversarial risk of a minimiser is then its squared norm."""


@register_pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """Predict ``y = <x~, w~*>`` from a Gaussian signal, with squared error ``1/2 (<x~, w~> - y)^2``.

    Signals are drawn in the frequency domain, ``x~ ~ N(0, diag(variances))``, and seen in space,
    ``x = C^T x~`` with the orthonormal DCT-II matrix ``C``. A frequency with zero variance is *irrelevant*:
    no sample has energy there, so the risk does not constrain the weight on it. Every function of this
    package takes and returns weights as DCT coefficients ``w~ = C w`` unless it says otherwise.

    Attributes:
        variances: Variances ``sigma~_i^2`` of the DCT coefficients, shape ``[d]``, lowest frequency first,
            not negative.
        target: DCT coefficients ``w~*`` of the true model, shape ``[d]``. Those on irrelevant frequencies
            have no effect on the labels.

    Source: Optimizer-robustness study, section 4.4.1.

    Example:
        >>> problem = LeastSquares(jnp.array([1.0, 0.5, 0.0]), jnp.array([2.0, 1.0, 0.0]))
        >>> problem.irrelevant.tolist()
        [False, False, True]
    """

    variances: jax.Array
    target: jax.Array

    @property
    def dimension(self) -> int:
        """The number ``d`` of frequencies and of inputs.

        Raises:
            ValueError: If ``variances`` and ``target`` are not vectors of one length.
        """
        if self.variances.ndim != 1 or self.variances.shape != self.target.shape:
            raise ValueError(
                "LeastSquares wants variances and target of one shape [d], got "
                f"{self.variances.shape} and {self.target.shape}; use jax.vmap for a batch of problems"
            )
        return self.variances.shape[0]

    @property
    def irrelevant(self) -> jax.Array:
        """Which frequencies carry no energy, boolean ``[d]``."""
        return self.variances == 0

    @property
    def covariance(self) -> jax.Array:
        """Covariance of the inputs in space, ``Sigma = C^T diag(variances) C``, shape ``[d, d]``."""
        basis = dct_matrix(self.dimension, self.variances.dtype)
        return jnp.matmul(basis.T * self.variances, basis, precision=jax.lax.Precision.HIGHEST)


def as_weights(problem: LeastSquares, weights: ArrayLike) -> jax.Array:
    """Weights ``[..., d]`` in the dtype of the problem; ValueError if the last axis does not fit."""
    weights = jnp.asarray(weights, problem.target.dtype)
    if weights.shape[-1:] != (problem.dimension,):
        raise ValueError(
            f"weights must have the problem's {problem.dimension} frequencies on the last axis, got shape "
            f"{weights.shape}"
        )
    return weights


def to_space(coefficients: jax.Array) -> jax.Array:
    """Signals or weights in space, ``C^T x~``, from DCT coefficients ``[..., d]``."""
    basis = dct_matrix(coefficients.shape[-1], coefficients.dtype)
    return jnp.matmul(coefficients, basis, precision=jax.lax.Precision.HIGHEST)


def to_frequency(signals: jax.Array) -> jax.Array:
    """DCT coefficients ``C x`` of signals or weights in space, ``[..., d]``."""
    basis = dct_matrix(signals.shape[-1], signals.dtype)
    return jnp.matmul(signals, basis.T, precision=jax.lax.Precision.HIGHEST)


def sample(key: jax.Array, problem: LeastSquares, count: int) -> tuple[jax.Array, jax.Array]:
    """Draw inputs in space and their labels.

    Args:
        key: Random key.
        problem: The problem.
        count: Number ``n`` of samples.

    Returns:
        Inputs ``x = C^T x~``, shape ``[n, d]``, and noise-free labels ``<x~, w~*>``, shape ``[n]``.
    """
    noise = jax.random.normal(key, (count, problem.dimension), problem.variances.dtype)
    coefficients = jnp.sqrt(problem.variances) * noise
    labels = jnp.matmul(coefficients, problem.target, precision=jax.lax.Precision.HIGHEST)
    return to_space(coefficients), labels


def redundant_directions(problem: LeastSquares) -> jax.Array:
    """Directions in space along which no input varies: the DCT basis vectors of the irrelevant frequencies.

    Each empty frequency makes one input dimension redundant: ``<v, x> = 0`` for every sample. Adding ``c v``
    to the weights in space changes no prediction, and ``||w* + c v||^2 = ||w*||^2 + c^2`` where ``w*`` has
    no weight on the irrelevant frequencies.

    Departs from the text: the study prints ``||w* + c v|| = ||w*|| + |c|``, which does not hold for
    orthogonal vectors.

    Args:
        problem: The problem, with concrete variances (the number of rows depends on their values, so this
            does not work inside ``jit``).

    Returns:
        Orthonormal rows in space, shape ``[number of irrelevant frequencies, d]``.

    Source: Optimizer-robustness study, appendix 4.D.3.

    Example:
        >>> (direction,) = redundant_directions(published_problem())
        >>> [round(float(entry), 4) for entry in direction * 6**0.5]
        [1.0, -2.0, 1.0]
    """
    return dct_matrix(problem.dimension, problem.variances.dtype)[problem.irrelevant]


def robust_minimiser(problem: LeastSquares) -> jax.Array:
    """The most robust minimiser of the standard risk: no weight on irrelevant frequencies.

    Of all minimisers it has the least l2 norm, hence the least l2 adversarial risk; gradient descent finds it
    from zero.

    Returns:
        DCT coefficients, shape ``[d]``.

    Source: Optimizer-robustness study, eq. (4.6).
    """
    return jnp.where(problem.irrelevant, 0, problem.target)


def published_problem(dtype: DTypeLike = jnp.float32) -> LeastSquares:
    """The three-dimensional problem of the published study: the highest frequency is irrelevant.

    ``variances = (0.01, 0.0025, 0)`` and ``w~* = (5, 10, 0)``.

    Source: Optimizer-robustness study, figure 4.7.
    """
    return LeastSquares(jnp.array([0.01, 0.0025, 0.0], dtype), jnp.array([5.0, 10.0, 0.0], dtype))


def published_initial_weights(dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initial weights of the published study, ``w~(0) = (0.01, -0.01, 0.02)``, as DCT coefficients."""
    return jnp.array([0.01, -0.01, 0.02], dtype)
