"""Data sets by name or path."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from . import _digits
from ._dataset import Dataset
from ._folder import load_folder
from ._npz import load_npz

BUNDLED: dict[str, Callable[[], Dataset]] = {
    "digits": _digits.digits,
    "digits_dct16": _digits.digits_dct16,
    "digits28": _digits.digits28,
}


def names() -> tuple[str, ...]:
    """Names of all data sets, the bundled ones first."""
    from ._tfds import SOURCES

    return (*BUNDLED, *SOURCES)


def load(name: str | Path, *, data_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Load a data set by its name, or from a folder of images or an ``.npz`` file.

    Args:
        name: the first of these that fits:

            * one of :func:`names`. ``digits``, ``digits_dct16`` and ``digits28`` are bundled; the others are TFDS data
              sets, which must have been prepared, since nothing is ever downloaded silently. They are in memory.
            * a folder with ``train/`` and ``val/`` (or ``test/``), each with one folder of image files per class, such
              as ImageNet's. Images are :class:`ImageFolder`, of 224x224 pixels.
            * an ``.npz`` file of ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, as for
              :func:`open_npz`. Images are memory maps; the number of classes is the greatest label plus 1.
        data_dir: TFDS folder; by default ``TFDS_DATA_DIR``, else TFDS's own.
        cache_dir: where decoded arrays are kept; by default ``jaxrobust`` under ``XDG_CACHE_HOME`` or ``~/.cache``,
            and beside an ``.npz`` file whose arrays are compressed.

    Raises:
        ValueError: for an unknown name, listing the names; for a folder or file that holds something else.
        DatasetNotFoundError: for a TFDS data set that is not prepared, with the command that prepares it.
    """
    from ._tfds import SOURCES, load_tfds

    if name in BUNDLED:
        return BUNDLED[str(name)]()
    if name in SOURCES:
        return load_tfds(str(name), data_dir=data_dir, cache_dir=cache_dir)
    path = Path(name)
    if path.is_dir():
        return load_folder(path)
    if path.suffix == ".npz":
        return load_npz(path, cache_dir)
    close = difflib.get_close_matches(str(name), names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"unknown data set {str(name)!r}.{hint} Known: {', '.join(names())}; or the path of a folder with train/ and "
        "val/, or of an .npz file with train_images, train_labels, test_images and test_labels"
    )
