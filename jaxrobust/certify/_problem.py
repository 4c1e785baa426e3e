"""What is certified: an image, and how far its pixels may move."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxrobust.threat import Extent

from ._rows import Rows

Interval = tuple[jax.Array, jax.Array]
"""Lower and upper bounds of a node, shaped as the node."""


class Problem(NamedTuple):
    """One image and the set of perturbations.

    Attributes:
        image: ``[1, ...]``, a batch of one.
        extent: how far each pixel may move.
        support: ``(normals [rows, pixels], extent of [pixels]) -> [rows]``, see :meth:`jaxrobust.threat.Linf.support`.
    """

    image: jax.Array
    extent: Extent
    support: Callable[[jax.Array, Extent], jax.Array]

    def lower(self, rows: Rows) -> jax.Array:
        """The smallest values of linear functions of the image, ``[rows]``."""
        low, high, radii = self.extent
        # The support of the mirrored set, since balls are symmetric: negated rows would be another array as large.
        return rows.dot(self.image) - rows.support(self._support, (-high, -low, radii))

    def upper(self, rows: Rows) -> jax.Array:
        """The largest values of linear functions of the image, ``[rows]``."""
        return rows.dot(self.image) + rows.support(self._support, tuple(self.extent))

    def _support(self, normals: jax.Array, fields: tuple[jax.Array, ...]) -> jax.Array:
        return self.support(normals, Extent(*fields))


def between(rows: Rows, lower: jax.Array, upper: jax.Array) -> Interval:
    """The smallest and largest values of linear functions of a node within its bounds, ``[rows]``."""
    middle = rows.dot((lower + upper) / 2)
    reach = rows.map(abs).dot((upper - lower) / 2)
    return middle - reach, middle + reach
