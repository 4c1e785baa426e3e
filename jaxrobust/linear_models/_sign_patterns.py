"""The thirteen sign patterns that a step of signGD in three dimensions can meet."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_THIRD, _HALF, _SIXTH = math.sqrt(1 / 3), math.sqrt(1 / 2), math.sqrt(1 / 6)


class SignPattern(NamedTuple):
    """One row of the table.

    Attributes:
        signs: Signs of ``A``, ``A + B`` and ``A - B``.
        update: Direction ``u``; the step is ``e~ <- e~ - learning_rate * u``.
        relation: How ``|A|`` compares with ``|B|`` in this pattern.
    """

    signs: tuple[int, int, int]
    update: tuple[float, float, float]
    relation: Literal["<", "=", ">"]


SIGN_PATTERNS: tuple[SignPattern, ...] = (
    SignPattern((1, 1, 1), (3 * _THIRD, 0.0, 0.0), ">"),
    SignPattern((1, 1, -1), (_THIRD, 2 * _HALF, -2 * _SIXTH), "<"),
    SignPattern((1, 1, 0), (2 * _THIRD, _HALF, -_SIXTH), "="),
    SignPattern((1, -1, 1), (_THIRD, -2 * _HALF, -2 * _SIXTH), "<"),
    SignPattern((1, 0, 1), (2 * _THIRD, -_HALF, -_SIXTH), "="),
    SignPattern((-1, 1, -1), (-_THIRD, 2 * _HALF, 2 * _SIXTH), "<"),
    SignPattern((-1, -1, 1), (-_THIRD, -2 * _HALF, 2 * _SIXTH), "<"),
    SignPattern((-1, -1, -1), (-3 * _THIRD, 0.0, 0.0), ">"),
    SignPattern((-1, -1, 0), (-2 * _THIRD, -_HALF, _SIXTH), "="),
    SignPattern((-1, 0, -1), (-2 * _THIRD, _HALF, _SIXTH), "="),
    SignPattern((0, 1, -1), (0.0, 2 * _HALF, 0.0), "<"),
    SignPattern((0, -1, 1), (0.0, -2 * _HALF, 0.0), "<"),
    SignPattern((0, 0, 0), (0.0, 0.0, 0.0), "="),
)
"""The 13 of 27 sign patterns that can occur, in the order of the study's table 4.9."""


def sign_patterns_of(a: jax.Array, b: jax.Array) -> jax.Array:
    """Signs of ``A``, ``A + B`` and ``A - B``, the columns of the table, shape ``[..., 3]``.

    Args:
        a: ``A``, any shape.
        b: ``B``, the same shape.
    """
    return jnp.stack([jnp.sign(a), jnp.sign(a + b), jnp.sign(a - b)], axis=-1)


def sign_update(signs: jax.Array) -> jax.Array:
    """The step of signGD that belongs to a sign pattern.

    ::

        u_0 = sqrt(3)/3 (sg(A+B) + sg(A) + sg(A-B))
        u_1 = sqrt(2)/2 (sg(A+B) - sg(A-B))
        u_2 = sqrt(6)/6 (sg(A+B) - 2 sg(A) + sg(A-B))

    So ``|A|`` falls at every step, ``|B|`` and the irrelevant weight move only while ``|A| <= |B|``, and
    that weight moves by ``+sqrt(6)/3 learning_rate sg(A)``, in the direction of ``e~_0``.

    Departs from the text: the study says, and writes in (4.22), that the irrelevant weight moves against the
    sign of ``e~_0``; its own table has the sign used here. Magnitudes are the same.

    Args:
        signs: Signs of ``A``, ``A + B`` and ``A - B`` as floating point numbers, shape ``[..., 3]``.

    Returns:
        The direction ``u`` of ``e~ <- e~ - learning_rate * u``, shape ``[..., 3]``.

    Source: Optimizer-robustness study, eq. (4.16) and table 4.9.

    Example:
        >>> sign_update(jnp.array([1.0, 1.0, 1.0])).tolist()[1:]
        [0.0, 0.0]
    """
    matrix = jnp.array([[_THIRD, _THIRD, _THIRD], [0.0, _HALF, -_HALF], [-2 * _SIXTH, _SIXTH, _SIXTH]], signs.dtype)
    return jnp.matmul(signs, matrix.T, precision=lax.Precision.HIGHEST)
