"""signGD on the population risk, step by step: the memory-free limit of Adam and RMSProp."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxrobust.frequency import dct_matrix

from ._problem import FloatLike, LeastSquares, as_weights
from ._recording import RecordAt, Trajectory, record_steps, scan_and_record


def _drop_rounding(values: jax.Array) -> jax.Array:
    """Set to 0 what is rounding error beside the largest entry: 1e-12 of it, or a few ulps in float32."""
    tolerance = max(1e-12, 8 * float(jnp.finfo(values.dtype).eps))
    largest = jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    return jnp.where(jnp.abs(values) <= tolerance * largest, 0, values)


def sign_gradient(problem: LeastSquares, errors: jax.Array) -> jax.Array:
    """The direction ``u`` of signGD in the frequency domain, ``u = C sign(C^T diag(variances) e~)``.

    The gradient ``Sigma e`` is formed and its sign taken in space, then transformed. Entries of the gradient
    below 1e-12 of the largest count as 0 (a few rounding units in float32), because sums that should cancel
    leave rounding errors behind; this matters only for exact ties.

    Args:
        problem: The problem.
        errors: ``e~ = w~ - w~*``, shape ``[..., d]``.

    Returns:
        The direction, shape ``[..., d]``; signGD does ``w~ <- w~ - learning_rate * u``.

    Source: Optimizer-robustness study, eq. (4.14) and (4.15).
    """
    basis = dct_matrix(problem.dimension, errors.dtype)
    gradient = jnp.matmul(problem.variances * errors, basis, precision=lax.Precision.HIGHEST)
    signs = jnp.sign(_drop_rounding(gradient))
    return _drop_rounding(jnp.matmul(signs, basis.T, precision=lax.Precision.HIGHEST))


def sign_gradient_descent(
    problem: LeastSquares,
    weights: ArrayLike,
    learning_rate: FloatLike,
    steps: int,
    *,
    record_at: RecordAt | None = None,
) -> Trajectory:
    """Simulate signGD on the population risk, exactly and for every dimension.

    The same run as ``train(problem, optax.sign_sgd(learning_rate), ...)`` but computed on the error in the
    frequency domain, so that ties are exact and frequencies that are at rest stay there to the last bit.

    Args:
        problem: The problem.
        weights: DCT coefficients to start from, shape ``[d]``.
        learning_rate: Constant step size.
        steps: Number of updates.
        record_at: Steps to record, strictly increasing; by default 200 evenly spaced on a logarithmic axis.
            Every step: ``range(steps + 1)``.

    Returns:
        The recorded steps and weights (DCT coefficients).

    Raises:
        ValueError: If ``record_at`` is not increasing within ``[0, steps]``.

    Source: Optimizer-robustness study, eq. (4.15).
    """
    weights = as_weights(problem, weights)
    recorded = jnp.asarray(record_steps(steps, record_at))
    rate = jnp.asarray(learning_rate, weights.dtype)
    return Trajectory(recorded, _simulate(problem, weights, rate, recorded))


@jax.jit
def _simulate(problem: LeastSquares, weights: jax.Array, rate: jax.Array, recorded: jax.Array) -> jax.Array:
    def step(index: jax.Array, errors: jax.Array) -> jax.Array:
        return errors - rate * sign_gradient(problem, errors)

    errors = weights - problem.target
    return problem.target + scan_and_record(step, errors, recorded, lambda errors: errors)


def ab_coordinates(problem: LeastSquares, weights: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The two numbers whose signs decide every step of signGD in three dimensions.

    ``A = sqrt(1/3) sigma~_0^2 e~_0`` and ``B = sqrt(1/2) sigma~_1^2 e~_1``: the gradient in space is
    ``(A + B, A, A - B)``.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients, shape ``[..., 3]``.

    Returns:
        A and B, each of shape ``[...]``.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, section 4.4.2, before eq. (4.16).
    """
    check_three_frequencies(problem)
    scaled = problem.variances * (as_weights(problem, weights) - problem.target)
    return scaled[..., 0] / math.sqrt(3), scaled[..., 1] / math.sqrt(2)


def check_three_frequencies(problem: LeastSquares) -> None:
    """Raise ValueError unless ``d = 3`` and, if values are known, only the last frequency is irrelevant."""
    wanted = "the analysis of signGD is for three frequencies of which only the last is irrelevant"
    if problem.dimension != 3:
        raise ValueError(f"{wanted}, got {problem.dimension}; sign_gradient_descent simulates any dimension")
    if not isinstance(problem.variances, jax.core.Tracer):
        empty = np.asarray(problem.variances) == 0
        if empty.tolist() != [False, False, True]:
            raise ValueError(f"{wanted}, got variances {np.asarray(problem.variances).tolist()}")


class FirstPhase(NamedTuple):
    """What happens until the weight on the lowest frequency starts to oscillate.

    Attributes:
        steps: ``T``, the first step at which ``|e~_0| < sqrt(3) learning_rate``, integer.
        moving_steps: On how many of the steps before ``T`` the irrelevant weight moved,
            ``#{t < T: |A| <= |B|}``.
        weights: DCT coefficients at step ``T``, shape ``[3]``.
    """

    steps: jax.Array
    moving_steps: jax.Array
    weights: jax.Array


@jax.jit
def _simulate_first_phase(problem: LeastSquares, weights: jax.Array, rate: jax.Array) -> FirstPhase:
    def running(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return jnp.abs(state[2][0]) >= math.sqrt(3) * rate

    def step(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        steps, moving, errors = state
        direction = sign_gradient(problem, errors)
        return steps + 1, moving + (direction[2] != 0).astype(jnp.int32), errors - rate * direction

    zero = jnp.zeros((), jnp.int32)
    steps, moving, errors = lax.while_loop(running, step, (zero, zero, weights - problem.target))
    return FirstPhase(steps, moving, problem.target + errors)


def first_phase(problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike) -> FirstPhase:
    """Simulate signGD until the weight on the lowest frequency is as close to its target as it will get.

    Until then the irrelevant weight drifts; afterwards it moves by at most ``sqrt(6) learning_rate``. The
    phase lasts ``T`` steps; each takes at least a third of ``sigma~_0^2 learning_rate`` off ``|A|``, so
    ``T`` is at most ``sqrt(3) |e~_0(0)| / learning_rate``.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[3]``.
        learning_rate: Constant step size, positive.

    Returns:
        The length of the phase, the steps on which the irrelevant weight moved, and the weights at its end.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, appendix 4.D.2, before eq. (4.22).

    Example:
        >>> from jaxrobust.linear_models import published_initial_weights, published_problem
        >>> int(first_phase(published_problem(), published_initial_weights(), 0.01).steps)
        638
    """
    check_three_frequencies(problem)
    weights = as_weights(problem, weights)
    return _simulate_first_phase(problem, weights, jnp.asarray(learning_rate, weights.dtype))
