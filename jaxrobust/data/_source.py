"""Where images come from: arrays, memory maps, or anything that reads rows when asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class ImageSource(Protocol):
    """Images ``[n, height, width, channels]`` that are read when they are indexed.

    NumPy arrays and ``np.memmap`` are sources as they are; :class:`ImageFolder` decodes image files. A source is
    indexed by an array of row numbers or by a slice, from several threads at once.

    Attributes:
        shape: ``(n, height, width, channels)``.
        dtype: uint8 for pixels 0 to 255, float32 for pixels in [0, 1].
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Rows:
    """Some rows of a source, themselves a source: nothing is read before they are indexed.

    Args:
        source: where the rows come from.
        index: ``[k]``, their numbers, in any order.

    Example:
        >>> part = Rows(np.arange(12).reshape(6, 1, 2, 1), [5, 0, 3])
        >>> part.shape, part[1:].ravel().tolist()
        ((3, 1, 2, 1), [0, 1, 6, 7])
    """

    def __init__(self, source: ImageSource, index: np.ndarray | Sequence[int]) -> None:
        self._source, self._index = source, np.asarray(index)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(k, height, width, channels)``."""
        return (len(self._index), *self._source.shape[1:])

    @property
    def dtype(self) -> Any:
        """That of the source."""
        return self._source.dtype

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any, /) -> Any:
        return self._source[self._index[index]]


def select(images: ImageSource, index: np.ndarray) -> ImageSource:
    """Rows of images: a copy of those of an array in memory, otherwise :class:`Rows`."""
    in_memory = isinstance(images, np.ndarray) and not isinstance(images, np.memmap)
    return images[index] if in_memory else Rows(images, index)
