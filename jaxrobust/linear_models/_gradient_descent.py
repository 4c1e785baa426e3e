"""Gradient descent on the standard risk, in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._problem import FloatLike, LeastSquares, as_weights, robust_minimiser


def gradient_descent(
    problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike, steps: ArrayLike
) -> jax.Array:
    """Weights after any number of steps of gradient descent on the standard risk.

    ``w~_i(t) = w~*_i + (1 - learning_rate sigma~_i^2)^t (w~_i(0) - w~*_i)``: each frequency relaxes on its
    own, at a rate set by its energy, and the weight on an irrelevant frequency stays exactly where it
    started. Gradient descent commutes with orthonormal transforms, so this holds for training in space as
    well.

    Args:
        problem: The problem.
        weights: DCT coefficients to start from, shape ``[d]``.
        learning_rate: Step size; converges below :func:`max_learning_rate`.
        steps: Number of steps ``t``, an integer or an integer array of any shape.

    Returns:
        DCT coefficients, shape ``[*steps.shape, d]``.

    Source: Optimizer-robustness study, eq. (4.11) and (4.12).

    Example:
        >>> from jaxrobust.linear_models import published_initial_weights, published_problem
        >>> late = gradient_descent(published_problem(), published_initial_weights(), 0.01, 10**7)
        >>> [round(float(weight), 3) for weight in late]
        [5.0, 10.0, 0.02]
    """
    weights = as_weights(problem, weights)
    steps = jnp.asarray(steps)[..., None]
    rate = jnp.asarray(learning_rate, weights.dtype) * problem.variances
    # (1 - rate)^t through log1p: in single precision 1 - 1e-5 alone would lose most digits of the rate
    log_factor = jnp.log1p(jnp.where(rate < 1, -rate, rate - 2))
    factor = jnp.exp(steps.astype(weights.dtype) * log_factor)
    factor = jnp.where((rate > 1) & (steps % 2 == 1), -factor, factor)
    factor = jnp.where(steps == 0, 1, factor)
    moved = problem.target + factor * (weights - problem.target)
    return jnp.where(rate == 0, weights, moved)


def gradient_descent_limit(problem: LeastSquares, weights: ArrayLike) -> jax.Array:
    """Limit of gradient descent: the target where there is energy, the initial weight where there is none.

    Its adversarial risk is, for l2, ``eps^2/2 (sum_rel w~*_i^2 + sum_irrel w~_j(0)^2)``, eq. (4.13).

    Args:
        problem: The problem.
        weights: DCT coefficients to start from, shape ``[..., d]``.

    Returns:
        DCT coefficients, shape ``[..., d]``.

    Source: Optimizer-robustness study, section 4.4.2.
    """
    return jnp.where(problem.irrelevant, as_weights(problem, weights), problem.target)


def expected_gradient_descent_risk(problem: LeastSquares, eps: FloatLike, weight_variance: FloatLike) -> jax.Array:
    """Expected l2 adversarial risk of the limit of gradient descent from Gaussian initial weights.

    With ``w~(0) ~ N(0, weight_variance I)`` it is exactly
    ``eps^2/2 (||w~*_rel||_2^2 + |I_irrel| weight_variance)``, which grows with the number of irrelevant
    frequencies.

    Departs from the text, which keeps only the order ``O(eps^2 d sigma^2)``.

    Args:
        problem: The problem.
        eps: l2 budget.
        weight_variance: Variance of each initial weight.

    Returns:
        The expected risk, a scalar.

    Source: Optimizer-robustness study, section 4.4.2, after eq. (4.13).
    """
    dtype = problem.target.dtype
    relevant = jnp.sum(robust_minimiser(problem) ** 2)
    irrelevant = jnp.sum(problem.irrelevant).astype(dtype) * jnp.asarray(weight_variance, dtype)
    return jnp.asarray(eps, dtype) ** 2 / 2 * (relevant + irrelevant)


def max_learning_rate(problem: LeastSquares) -> jax.Array:
    """Learning rate below which, and only there, gradient descent converges: ``2 / max_i sigma~_i^2``.

    Source: Optimizer-robustness study, section 4.4.2, after eq. (4.12).
    """
    return 2 / jnp.max(problem.variances)
