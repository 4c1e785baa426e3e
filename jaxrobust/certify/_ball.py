"""A norm ball around one image as the host's solver sees it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Ball(NamedTuple):
    """How one image may move.

    Attributes:
        image: its pixels, ``[pixels]``.
        low, high: smallest and largest change of each pixel, ``[pixels]``.
        scale: units in which the norm measures changes, ``[pixels]``; 0 for pixels that may not move.
        norm: ``inf`` or 1.
        radius: the largest norm.
        box: range of valid pixels, or ``None``.
    """

    image: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    norm: float
    radius: float
    box: Any

    def shrunk(self, radius: float) -> Ball:
        """The same with a radius of at most ``radius``."""
        if radius >= self.radius:
            return self
        reach = self.scale * radius
        return self._replace(low=np.maximum(self.low, -reach), high=np.minimum(self.high, reach), radius=radius)

    def distance(self, image: np.ndarray) -> float:
        """The norm of what another image differs by; infinite if a pixel has moved that may not move."""
        return self._norm(image.astype(np.float64) - self.image)

    def at(self, change: np.ndarray) -> np.ndarray:
        """The image moved by a change, in its own precision, without the solver's roundings."""
        change = np.where(self.scale > 0, np.clip(change, self.low, self.high), 0)
        size = self._norm(change)
        inside = change * (self.radius / size) if size > self.radius else change
        image = (self.image + inside).astype(self.image.dtype)
        return image if self.box is None else np.clip(image, *self.box)

    def _norm(self, change: np.ndarray) -> float:
        moved = change != 0
        with np.errstate(divide="ignore"):
            return float(np.linalg.norm(change[moved] / self.scale[moved], self.norm)) if moved.any() else 0.0
