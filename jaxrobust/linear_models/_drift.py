"""How far signGD drives the weight on an irrelevant frequency, in closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._problem import FloatLike, LeastSquares, as_weights
from ._regions import initial_regions, step_units
from ._sign_gradient_descent import ab_coordinates, check_three_frequencies

FULL_STEP = math.sqrt(6) / 3
"""Movement of the irrelevant weight per step, in learning rates, while ``|A| < |B|``; half of it at a tie."""


def irrelevant_drift(problem: LeastSquares, weights: ArrayLike) -> jax.Array:
    """Total movement ``Delta w~_2`` of the irrelevant weight under signGD, to leading order.

    With ``r = sigma~_1^2 / sigma~_0^2``::

        Delta w~_2 = sign(e~_0(0)) min( sqrt(2) |e~_0(0)|, sqrt(3) min(r, 1/3) |e~_1(0)| ) + O(learning_rate)

    for every ``r``. The error is below 5 learning rates for ``r <= 3`` and grows like ``1.3 r`` learning
    rates beyond.

    Beyond the text, which treats ``r < 1/3`` (see :func:`irrelevant_drift_published`) and gives the
    magnitude only. For ``r > 1/3`` the path comes down the diagonal ``|A| = |B|``, crossing it back and
    forth, and only the steps from above it move the weight; each of them takes ``sigma~_1^2 learning_rate``
    off ``|B|``, so ``|B(0)|`` alone says how many there are.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[..., 3]``.

    Returns:
        The signed drift, shape ``[...]``; add it to the initial weight.

    Raises:
        ValueError: If the problem is not of that form.

    Source: completes Optimizer-robustness study, eq. (4.28).

    Example:
        >>> from jaxrobust.linear_models import published_initial_weights, published_problem
        >>> round(float(irrelevant_drift(published_problem(), published_initial_weights())), 3)
        -4.334
    """
    check_three_frequencies(problem)
    error = as_weights(problem, weights) - problem.target
    ratio = problem.variances[1] / problem.variances[0]
    first = math.sqrt(2) * jnp.abs(error[..., 0])
    second = math.sqrt(3) * jnp.minimum(ratio, 1 / 3) * jnp.abs(error[..., 1])
    return jnp.sign(error[..., 0]) * jnp.minimum(first, second)


def irrelevant_drift_published(
    problem: LeastSquares,
    weights: ArrayLike,
    *,
    learning_rate: FloatLike = 0.0,
    unit_step: FloatLike = FULL_STEP,
) -> jax.Array:
    """Magnitude ``|Delta w~_2|`` of the drift as the study prints it.

    With ``r = sigma~_1^2 / sigma~_0^2 < 1/3``: ``C (sqrt(3) |e~_0(0)| - 3 learning_rate)`` where
    ``|A(0)| < |B(0)|``, and ``C ((3 sqrt(2) / 2) r |e~_1(0)| - 3 learning_rate)`` elsewhere, not below 0.
    With ``learning_rate = 0`` this is eq. (4.28); at zero weights it is then (4.29). Not meant for
    ``r > 1/3``.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant and ``r < 1/3``.
        weights: DCT coefficients to start from, shape ``[..., 3]``.
        learning_rate: Constant step size, or 0 to neglect it as the study does.
        unit_step: The study's constant ``C`` in ``[sqrt(6)/6, sqrt(6)/3]``. With population gradients ties
            have probability 0 and ``C`` is the upper end, the default.

    Returns:
        The magnitude, shape ``[...]``.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, proposition 4.D.8, eq. (4.28) and (4.29).
    """
    a, b = ab_coordinates(problem, weights)
    error = jnp.abs(as_weights(problem, weights) - problem.target)
    ratio = problem.variances[1] / problem.variances[0]
    dtype = error.dtype
    from_first = math.sqrt(3) * error[..., 0]
    from_second = 1.5 * math.sqrt(2) * ratio * error[..., 1]
    path = jnp.where(jnp.abs(a) < jnp.abs(b), from_first, from_second) - 3 * jnp.asarray(learning_rate, dtype)
    return jnp.asarray(unit_step, dtype) * jnp.maximum(path, 0)


def moving_steps_bounds(
    problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike
) -> tuple[jax.Array, jax.Array]:
    """Bounds on how many steps of the first phase move the irrelevant weight.

    With ``a``, ``b``, ``r`` and the regions of :func:`initial_regions`::

        P1, P2   0
        P3, P5   [3 (a - 1), 3 (a - 1) + 1]          every step of the phase
        P4       [(b - 2) / r, (b - 1) / r + 1 + 3/2 max(r - 2, 0)]
        P6       [3 (b - 2), 3 (b - 1) + 1]

    Departs from the text, whose counts are in :func:`moving_steps_published`:

    1. The printed counts are not integers; the upper ends here make room for the last, incomplete step.
    2. In P6 ``|A|`` enters the diagonal up to one step below ``|B(0)|``, which takes up to 3 steps off the
       count.
    3. In P4 with ``r > 2``, ``|B|`` may jump across zero without ever falling below one step, which adds
       steps.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[..., 3]``.
        learning_rate: Constant step size.

    Returns:
        Lower and upper bound on ``#{t < T: |A(t)| <= |B(t)|}``, each of shape ``[...]``.

    Raises:
        ValueError: If the problem is not of that form.

    Source: corrects Optimizer-robustness study, proposition 4.D.7.
    """
    _, _, r = step_units(problem, weights, learning_rate)
    regions = initial_regions(problem, weights, learning_rate)
    low, high = moving_steps_published(problem, weights, learning_rate)
    low = jnp.maximum(low - jnp.where(regions.p6, 3, 0).astype(low.dtype), 0)
    high = high + 1 + jnp.where(regions.p4, 1.5 * jnp.maximum(r - 2, 0), 0)
    return low, jnp.where(regions.p1 | regions.p2, 0, high)


def moving_steps_published(
    problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike
) -> tuple[jax.Array, jax.Array]:
    """How many steps of the first phase move the irrelevant weight, as the study prints it.

    Zero in P1 and P2; ``T = 3 (a - 1)`` in P3 and P5; between ``(b - 2) / r`` and ``(b - 1) / r`` in P4;
    ``3 (b - 1)`` in P6. Exact up to the corrections listed at :func:`moving_steps_bounds`.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[..., 3]``.
        learning_rate: Constant step size.

    Returns:
        Lower and upper end, each of shape ``[...]``; equal but in P4.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, proposition 4.D.7.
    """
    a, b, r = step_units(problem, weights, learning_rate)
    every_step = jnp.where(r > 1 / 3, 3 * r * (a - 1) <= b - 1, a <= b)
    low = jnp.where(every_step, 3 * (a - 1), jnp.where(r > 1 / 3, (b - 2) / r, 3 * (b - 1)))
    high = jnp.where(every_step, 3 * (a - 1), jnp.where(r > 1 / 3, (b - 1) / r, 3 * (b - 1)))
    none = (a < 1) | (b < 1)
    return jnp.where(none, 0, low), jnp.where(none, 0, high)
