"""Where signGD ends: bounds on its oscillation, and its adversarial risk relative to gradient descent."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._drift import irrelevant_drift
from ._gradient_descent import gradient_descent_limit
from ._problem import FloatLike, LeastSquares
from ._sign_gradient_descent import ab_coordinates, check_three_frequencies

MAX_RISK_RATIO_FROM_ZERO = 9 / 7
"""Largest adversarial risk of signGD relative to gradient descent, both from zero weights, over all problems.

``1 + min(2 w~*_0^2, w~*_1^2 / 3) / (w~*_0^2 + w~*_1^2)`` is largest where ``w~*_1^2 = 6 w~*_0^2`` and
``r >= 1/3``.
"""


class AsymptoticBounds(NamedTuple):
    """Bounds on signGD's errors in the long run, scalars.

    Attributes:
        first_error: On ``limsup |e~_0(t)|``.
        second_error: On ``limsup |e~_1(t)|``.
        late_drift: On ``|e~_2(t) - e~_2(T)|`` for all ``t >= T``, the end of the first phase.
    """

    first_error: jax.Array
    second_error: jax.Array
    late_drift: jax.Array


def asymptotic_bounds(problem: LeastSquares, learning_rate: FloatLike) -> AsymptoticBounds:
    """Bounds on where signGD with a constant learning rate stays for good.

    ``limsup |e~_0| <= sqrt(3) learning_rate``, ``limsup |e~_1| <= sqrt(2) learning_rate max(1, 1/(2r))`` with
    ``r = sigma~_1^2 / sigma~_0^2``, and after the first phase the irrelevant weight moves by at most
    ``sqrt(6) learning_rate``.

    Departs from the text (:func:`asymptotic_bounds_published`):

    1. ``|e~_0|`` may alternate between regions R31 and R12 forever, above the printed bound ``2 sqrt(3)/3``.
    2. The printed ``limsup |e~_1| = sqrt(2) learning_rate`` is an upper bound only, and only for
       ``r >= 1/2``: for smaller ``r``, ``e~_1`` rests wherever it is once ``|A| > |B|`` on both sides of the
       oscillation.
    3. The last bound sums from step ``T``, not ``T + 1``, which is one full step more.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        learning_rate: Constant step size.

    Returns:
        The three bounds.

    Raises:
        ValueError: If the problem is not of that form.

    Source: corrects Optimizer-robustness study, remark 4.D.5 and eq. (4.22).
    """
    check_three_frequencies(problem)
    rate = jnp.asarray(learning_rate, problem.variances.dtype)
    ratio = problem.variances[1] / problem.variances[0]
    return AsymptoticBounds(
        math.sqrt(3) * rate, math.sqrt(2) * rate * jnp.maximum(1, 1 / (2 * ratio)), math.sqrt(6) * rate
    )


def asymptotic_bounds_published(problem: LeastSquares, learning_rate: FloatLike) -> AsymptoticBounds:
    """The bounds as the study prints them: ``2 sqrt(3)/3``, ``sqrt(2)`` and ``2 sqrt(6)/3`` learning rates.

    They do not hold; see :func:`asymptotic_bounds`.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        learning_rate: Constant step size.

    Source: Optimizer-robustness study, remark 4.D.5 and eq. (4.22).
    """
    check_three_frequencies(problem)
    rate = jnp.asarray(learning_rate, problem.variances.dtype)
    return AsymptoticBounds(2 / math.sqrt(3) * rate, math.sqrt(2) * rate, 2 * math.sqrt(6) / 3 * rate)


def standard_risk_bound(problem: LeastSquares, learning_rate: FloatLike) -> jax.Array:
    """Bound on the standard risk that signGD keeps in the long run.

    ``1/2 learning_rate^2 (3 sigma~_0^2 + sigma~_1^2 max(2, 1 / (2 r^2)))`` with
    ``r = sigma~_1^2 / sigma~_0^2``.

    Beyond the text, which gives the order ``O((sigma~_0^2 + sigma~_1^2) learning_rate^2)``.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        learning_rate: Constant step size.

    Returns:
        The bound, a scalar.

    Raises:
        ValueError: If the problem is not of that form.

    Source: makes Optimizer-robustness study, eq. (4.24), explicit.
    """
    bounds = asymptotic_bounds(problem, learning_rate)
    variances = problem.variances
    return (variances[0] * bounds.first_error**2 + variances[1] * bounds.second_error**2) / 2


def risk_ratio(problem: LeastSquares, weights: ArrayLike) -> jax.Array:
    """l2 adversarial risk of signGD's limit relative to that of gradient descent, to leading order.

    ``(||w~*_rel||^2 + (w~_2(0) + Delta w~_2)^2) / (||w~*_rel||^2 + w~_2(0)^2)`` with the drift of
    :func:`irrelevant_drift`; the budget cancels. From zero weights it lies between 1 and 9/7.

    Departs from the text, which says that the ratio is always above 1: it is below 1 where the drift cancels
    a large initial weight on the irrelevant frequency.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[..., 3]``.

    Returns:
        The ratio, shape ``[...]``; exact as the learning rate tends to 0.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, eq. (4.17) and (4.18).

    Example:
        >>> from jaxrobust.linear_models import published_problem
        >>> round(float(risk_ratio(published_problem(), [0.0, 0.0, 0.0])), 4)
        1.15
    """
    limit = gradient_descent_limit(problem, weights)
    drifted = limit.at[..., 2].add(irrelevant_drift(problem, weights))
    return jnp.sum(drifted**2, axis=-1) / jnp.sum(limit**2, axis=-1)


def risk_ratio_bounds_published(problem: LeastSquares, weights: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The interval that the study predicts for the ratio of adversarial risks, signGD over gradient descent.

    With ``r = sigma~_1^2 / sigma~_0^2 < 1/3``, small initial weights and ``W = w~*_0^2 + w~*_1^2``:
    ``1 + C_3 w~*_0^2 / W`` where ``|A(0)| < |B(0)|``, ``1/2 <= C_3 <= 2``; ``1 + C_4 w~*_1^2 / W`` elsewhere,
    ``3/4 r^2 <= C_4 <= 3 r^2``. Population gradients give the upper ends.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant and ``r < 1/3``.
        weights: DCT coefficients to start from, shape ``[..., 3]``.

    Returns:
        Lower and upper end, each of shape ``[...]``.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, eq. (4.19).
    """
    a, b = ab_coordinates(problem, weights)
    ratio = problem.variances[1] / problem.variances[0]
    share = problem.target[:2] ** 2 / jnp.sum(problem.target[:2] ** 2)
    upper = jnp.where(jnp.abs(a) < jnp.abs(b), 2 * share[0], 3 * ratio**2 * share[1])
    return 1 + upper / 4, 1 + upper
