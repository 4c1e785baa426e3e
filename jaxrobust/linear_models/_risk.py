"""Standard, Gaussian-noise and adversarial risk of a linear model, in closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxrobust.threat import ThreatModel

from ._problem import FloatLike, LeastSquares, as_weights, to_frequency, to_space


def _error_variance(problem: LeastSquares, weights: jax.Array) -> jax.Array:
    """Variance ``Q = sum_i sigma~_i^2 (w~_i - w~*_i)^2`` of the prediction error, ``[...]``."""
    return jnp.sum(problem.variances * (weights - problem.target) ** 2, axis=-1)


def _sqrt(values: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0, not infinite."""
    positive = values > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1)), 0)


def _check_unbounded(threat: ThreatModel) -> None:
    if threat.bounds is not None:
        raise ValueError(
            f"the inputs of the linear study are not pixels and the closed form knows no bounds, got "
            f"{threat}; pass {type(threat).__name__}(eps, bounds=None)"
        )


def _dual_norm(threat: ThreatModel, weights: jax.Array) -> jax.Array:
    """Dual norm of the weights in space, ``[...]``, where the weights are DCT coefficients ``[..., d]``."""
    _check_unbounded(threat)
    rows = to_space(weights).reshape(-1, weights.shape[-1])
    return threat.dual_norm(rows).reshape(weights.shape[:-1])


def standard_risk(problem: LeastSquares, weights: ArrayLike) -> jax.Array:
    """Expected loss on clean inputs, ``R_s = 1/2 sum_i sigma~_i^2 (w~_i - w~*_i)^2``.

    Irrelevant frequencies do not enter: every weight there is equally good.

    Args:
        problem: The problem.
        weights: DCT coefficients of the model, shape ``[..., d]``.

    Returns:
        The risk, shape ``[...]``.

    Source: Optimizer-robustness study, section 4.4.1.

    Example:
        >>> from jaxrobust.linear_models import published_initial_weights, published_problem
        >>> round(float(standard_risk(published_problem(), published_initial_weights())), 6)
        0.249751
    """
    return _error_variance(problem, as_weights(problem, weights)) / 2


def adversarial_risk(problem: LeastSquares, weights: ArrayLike, threat: ThreatModel) -> jax.Array:
    """Expected loss under the worst perturbation of each input.

    With ``Q = 2 R_s`` and ``||w||_*`` the dual norm, of the threat model, of the weights in space::

        R_a = 1/2 Q + eps sqrt(2 Q / pi) ||w||_* + 1/2 eps^2 ||w||_*^2

    because the error ``Z = <x~, w~ - w~*>`` is ``N(0, Q)``, the worst perturbation makes it
    ``|Z| + eps ||w||_*``, and ``E|Z| = sqrt(2 Q / pi)``. For l2 the domain does not matter (the DCT is
    orthonormal); for any other norm the perturbation is one of the input in space.

    Beyond the text: the study prints the l2 case; the other norms follow by the same argument.

    Args:
        problem: The problem.
        weights: DCT coefficients of the model, shape ``[..., d]``.
        threat: Threat model without bounds, for example ``L2(0.5, bounds=None)``; ``eps`` must broadcast to
            the result.

    Returns:
        The risk, shape ``[...]``. Its gradient is finite where ``Q = 0``.

    Raises:
        ValueError: If the threat model has pixel bounds.

    Source: Optimizer-robustness study, eq. (4.7) and (4.9); at a minimiser of the standard risk, (4.10).

    Example:
        >>> from jaxrobust.linear_models import PUBLISHED_EPS, published_problem
        >>> from jaxrobust.threat import L2
        >>> problem = published_problem()
        >>> round(float(adversarial_risk(problem, problem.target, L2(PUBLISHED_EPS, bounds=None))), 3)
        125.0
    """
    weights = as_weights(problem, weights)
    variance = _error_variance(problem, weights)
    shift = jnp.asarray(threat.eps, weights.dtype) * _dual_norm(threat, weights)
    return variance / 2 + math.sqrt(2 / math.pi) * _sqrt(variance) * shift + shift**2 / 2


def adversarial_risk_bounds(
    problem: LeastSquares, weights: ArrayLike, threat: ThreatModel
) -> tuple[jax.Array, jax.Array]:
    """Bounds on the adversarial risk that are perfect squares.

    ``1/2 (sqrt(2 Q / pi) + eps ||w||_*)^2 <= R_a <= 1/2 (sqrt(Q) + eps ||w||_*)^2``, by Jensen's inequality
    below and ``E|Z| <= sqrt(E Z^2)`` above; all three agree where ``Q = 0``.

    Args:
        problem: The problem.
        weights: DCT coefficients of the model, shape ``[..., d]``.
        threat: Threat model without bounds.

    Returns:
        The two bounds, each of shape ``[...]``.

    Raises:
        ValueError: If the threat model has pixel bounds.
    """
    weights = as_weights(problem, weights)
    deviation = _sqrt(_error_variance(problem, weights))
    shift = jnp.asarray(threat.eps, weights.dtype) * _dual_norm(threat, weights)
    return (math.sqrt(2 / math.pi) * deviation + shift) ** 2 / 2, (deviation + shift) ** 2 / 2


def gaussian_risk(problem: LeastSquares, weights: ArrayLike, variance: FloatLike) -> jax.Array:
    """Expected loss when white Gaussian noise is added to the input, ``R_s + 1/2 variance ||w||_2^2``.

    Args:
        problem: The problem.
        weights: DCT coefficients of the model, shape ``[..., d]``.
        variance: Noise variance (not standard deviation) per input, broadcastable to the result.

    Returns:
        The risk, shape ``[...]``.
    """
    weights = as_weights(problem, weights)
    noise = jnp.asarray(variance, weights.dtype) * jnp.sum(weights**2, axis=-1)
    return _error_variance(problem, weights) / 2 + noise / 2


def worst_perturbation(problem: LeastSquares, weights: ArrayLike, inputs: jax.Array, threat: ThreatModel) -> jax.Array:
    """The perturbation of each input that maximises the squared error.

    ``eps * sign(<x, w - w*>) * steepest(w)``, for l2 ``eps * sign(<x, w - w*>) * w / ||w||_2``.

    Departs from the text: where the model errs by exactly 0 the printed ``sign`` gives no perturbation at
    all; both directions are maximisers there, and the positive one is returned.

    Args:
        problem: The problem.
        weights: DCT coefficients of one model, shape ``[d]``.
        inputs: Inputs in space, shape ``[n, d]``, as :func:`sample` draws them.
        threat: Threat model without bounds; ``eps`` a scalar or ``[n]``.

    Returns:
        Perturbations in space, shape ``[n, d]``.

    Raises:
        ValueError: If the threat model has pixel bounds.

    Source: Optimizer-robustness study, eq. (4.8).
    """
    _check_unbounded(threat)
    weights = as_weights(problem, weights)
    error = jnp.matmul(to_frequency(inputs), weights - problem.target, precision=jax.lax.Precision.HIGHEST)
    signed_eps = jnp.where(error >= 0, 1, -1) * jnp.asarray(threat.eps, weights.dtype)
    return signed_eps[:, None] * threat.steepest(to_space(weights)[None])
