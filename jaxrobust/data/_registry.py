"""Data sets by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from . import _digits
from ._dataset import Dataset

BUNDLED: dict[str, Callable[[], Dataset]] = {
    "digits": _digits.digits,
    "digits_dct16": _digits.digits_dct16,
    "digits28": _digits.digits28,
}


def names() -> tuple[str, ...]:
    """Names of all data sets, the bundled ones first."""
    from ._tfds import SOURCES

    return (*BUNDLED, *SOURCES)


def load(name: str, *, data_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Load a data set into memory.

    Args:
        name: one of :func:`names`. ``digits``, ``digits_dct16`` and ``digits28`` are bundled; the others are TFDS data
            sets, which must have been prepared, since nothing is ever downloaded silently.
        data_dir: TFDS folder; by default ``TFDS_DATA_DIR``, else TFDS's own.
        cache_dir: where decoded arrays are kept; by default ``jaxrobust`` under ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        ValueError: for an unknown name, listing the names.
        DatasetNotFoundError: for a TFDS data set that is not prepared, with the command that prepares it.
    """
    if name in BUNDLED:
        return BUNDLED[name]()
    from ._tfds import SOURCES, load_tfds

    if name in SOURCES:
        return load_tfds(name, data_dir=data_dir, cache_dir=cache_dir)
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown data set {name!r}.{hint} Known: {', '.join(names())}")
