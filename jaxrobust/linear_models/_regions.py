"""Where (A, B) starts, and where it oscillates, under signGD in three dimensions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._problem import FloatLike, LeastSquares
from ._sign_gradient_descent import ab_coordinates


def step_units(
    problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``|A|`` and ``|B|`` in units of ``sigma~_0^2 learning_rate``, and ``r = sigma~_1^2 / sigma~_0^2``.

    In these units a step of signGD takes 1 off ``a`` where ``a > b``, and 1/3 off ``a`` and ``r`` off ``b``
    where ``a < b``.
    """
    a, b = ab_coordinates(problem, weights)
    unit = problem.variances[0] * jnp.asarray(learning_rate, problem.variances.dtype)
    return jnp.abs(a) / unit, jnp.abs(b) / unit, problem.variances[1] / problem.variances[0]


class InitialRegions(NamedTuple):
    """Membership, boolean ``[...]``, in the regions of the initial ``(|A|, |B|)``.

    ``p1`` to ``p6`` do not overlap and cover everything but their boundaries; ``p3`` and ``p4`` exist for
    ``r > 1/3``, ``p5`` and ``p6`` for ``r < 1/3``. ``p31``, ``p41`` and ``p42`` are parts of ``p3`` and
    ``p4``.
    """

    p1: jax.Array
    p2: jax.Array
    p3: jax.Array
    p31: jax.Array
    p4: jax.Array
    p41: jax.Array
    p42: jax.Array
    p5: jax.Array
    p6: jax.Array


def initial_regions(problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike) -> InitialRegions:
    """The region of the initial weights that decides how far the irrelevant weight will drift.

    With ``a = |A| / (sigma~_0^2 learning_rate)``, ``b`` likewise and ``r = sigma~_1^2 / sigma~_0^2``:

    * P1: ``a < 1``. P2: ``a > 1`` and ``b < 1``. In neither does the irrelevant weight drift.
    * ``r > 1/3``, P3: ``1 < a < (b + 3r - 1) / (3r)``, above the line of slope ``3r`` through (1, 1);
      P4: ``1 < b < 3r a - (3r - 1)``, below it.
    * ``r < 1/3``, P5: ``1 < a < b``; P6: ``1 < b < a``.
    * P31: P3 and ``a + 1 > b``. P41: P4 and ``b < a < 2``. P42: P4, ``a > b`` and
      ``2 < a < (b + 3r - 1) / (3r) + 1``.

    Departs from the text only in reading: its proof calls P41 what its definitions call P42, and the
    reverse; the definitions are followed here.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients to start from, shape ``[..., 3]``.
        learning_rate: Constant step size.

    Returns:
        One boolean array of shape ``[...]`` per region.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, appendix 4.D.2, figure 4.9.
    """
    a, b, r = step_units(problem, weights, learning_rate)
    line = (b + 3 * r - 1) / (3 * r)
    p3 = (r > 1 / 3) & (a > 1) & (a < line) & (b > 1)
    p4 = (r > 1 / 3) & (b > 1) & (a > line)
    return InitialRegions(
        p1=a < 1,
        p2=(a > 1) & (b < 1),
        p3=p3,
        p31=p3 & (a + 1 > b),
        p4=p4,
        p41=p4 & (b < a) & (a < 2),
        p42=p4 & (a > b) & (a > 2) & (a < line + 1),
        p5=(r < 1 / 3) & (a > 1) & (a < b),
        p6=(r < 1 / 3) & (b > 1) & (b < a),
    )


class OscillationRegions(NamedTuple):
    """Membership, boolean ``[...]``, in the regions of ``(A, B)`` once ``|A| < sigma~_0^2 learning_rate``."""

    r11: jax.Array
    r12: jax.Array
    r21: jax.Array
    r22: jax.Array
    r23: jax.Array
    r31: jax.Array
    r32: jax.Array
    r33: jax.Array
    r34: jax.Array

    @property
    def stationary(self) -> jax.Array:
        """In one of the regions that the study calls stationary, R22 and R31 to R34."""
        return self.r22 | self.r31 | self.r32 | self.r33 | self.r34

    @property
    def transient(self) -> jax.Array:
        """In one of the regions that the study calls transient, R11, R12, R21 and R23."""
        return self.r11 | self.r12 | self.r21 | self.r23


def oscillation_regions(problem: LeastSquares, weights: ArrayLike, learning_rate: FloatLike) -> OscillationRegions:
    """The region in which signGD is while the weight on the lowest frequency oscillates.

    With ``a``, ``b`` and ``r`` as in :func:`initial_regions` (``b`` stands for ``|B|``):

    * R1, ``2/3 < a < 1``: R11 ``a < b``; R12 ``a > b``.
    * R2, ``1/3 < a < 2/3``: R21 ``a < b``; R22 ``a > b`` and ``1 - a > b``; R23 ``a > b`` and ``1 - a < b``.
    * R3, ``a < 1/3``: R31 ``a > b``; R32 ``a > |b - k r|`` for an even ``k > 0``; R33
      ``a + |b - k r| < 1/3`` for an odd ``k``; R34 the rest.

    From them the next step leads: R11 to R2; R12 and R21 to R3; R23 to R21; R22 to itself; R31 to R12 and
    back; the rest of R3 to R3.

    Departs from what the text says of its regions:

    1. The regions of R3 are called disjoint. R31, R32 and R33 overlap, and the ``k`` is not unique when
       ``r < 1/3``; membership is reported for each on its own.
    2. R31 is called stationary, with ``a <= 2/3`` ever after. It alternates with R12, where ``2/3 < a < 1``.
    3. For ``r < 1/3`` nothing stays in R34: ``B`` and the irrelevant weight come to rest in finite time.

    Args:
        problem: A problem with ``d = 3`` whose last frequency is irrelevant.
        weights: DCT coefficients, shape ``[..., 3]``.
        learning_rate: Constant step size.

    Returns:
        One boolean array of shape ``[...]`` per region; all false where ``a >= 1`` and on boundaries.

    Raises:
        ValueError: If the problem is not of that form.

    Source: Optimizer-robustness study, appendix 4.D.2, figure 4.8.
    """
    a, b, r = step_units(problem, weights, learning_rate)
    outer, middle, inner = (a > 2 / 3) & (a < 1), (a > 1 / 3) & (a < 2 / 3), a < 1 / 3
    # the multiples of r that come closest to b: the even one other than 0, and the odd one
    even = jnp.maximum(2 * jnp.round(b / (2 * r)), 2)
    odd = 2 * jnp.floor(b / (2 * r)) + 1
    r31 = inner & (a > b)
    r32 = inner & (a > jnp.abs(b - even * r))
    r33 = inner & (a + jnp.abs(b - odd * r) < 1 / 3)
    return OscillationRegions(
        r11=outer & (a < b),
        r12=outer & (a > b),
        r21=middle & (a < b),
        r22=middle & (a > b) & (1 - a > b),
        r23=middle & (a > b) & (1 - a < b),
        r31=r31,
        r32=r32,
        r33=r33,
        r34=inner & ~(r31 | r32 | r33),
    )
