"""Folders of image files, such as ImageNet's, decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ._dataset import Dataset

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


class ImageFolder:
    """A folder with one subfolder of image files per class, as a source of images.

    The subfolders are scanned once, when the object is made. An image is decoded whenever it is indexed: converted to
    RGB, resized bilinearly (with PIL's antialiasing) until its shorter side is ``resize``, and cut to its central
    square, as ImageNet's validation images usually are. Several images are decoded by as many threads as there are
    processors, at most 32.

    Args:
        folder: holds the subfolders.
        classes: their names in the order of the labels; by default all subfolders, sorted by name.
        size: side of the images in pixels.
        resize: length of the shorter side before the cut, at least ``size``.

    Attributes:
        class_names: names of the subfolders.
        labels: int32 ``[n]``.
        shape: ``(n, size, size, 3)``.
        dtype: uint8.

    Raises:
        ValueError: if the folder or a class is missing, a class has no images, or ``resize`` is below ``size``; on
            indexing, for a file that cannot be decoded, with its name.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, folder: str | Path, classes: Sequence[str] | None = None, size: int = 224, resize: int = 256
    ) -> None:
        if not 1 <= size <= resize:
            raise ValueError(f"size must be at least 1 and at most resize, got size={size}, resize={resize}")
        self.folder, self._size, self._resize = Path(folder), size, resize
        self.class_names = _class_names(self.folder, classes)
        names = [_image_names(self.folder / name) for name in self.class_names]
        empty = [name for name, files in zip(self.class_names, names, strict=True) if not files]
        if empty:
            raise ValueError(f"no images ({', '.join(EXTENSIONS)}) in class folders of {self.folder}: {_few(empty)}")
        self._names = [name for files in names for name in files]
        self.labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in names])
        self._rows = np.arange(len(self._names))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, size, size, 3)``."""
        return (len(self), self._size, self._size, 3)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        rows = self._rows[index]
        if not np.ndim(rows):
            return self._decode(rows)
        images = np.empty((*rows.shape, *self.shape[1:]), np.uint8)

        def fill(position: int) -> None:
            images[position] = self._decode(rows[position])

        with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            for _ in pool.map(fill, range(len(rows))):
                pass
        return images

    def _decode(self, row: int) -> np.ndarray:
        from PIL import Image

        path = self.folder / self.class_names[self.labels[row]] / self._names[row]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # PIL raises errors of many types for damaged files
            raise ValueError(f"cannot read the image {path}: {error}") from error
        width, height = image.size
        shorter = min(width, height)
        width, height = (side * self._resize // shorter for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (round((side - self._size) / 2) for side in (width, height))
        return np.asarray(image.crop((left, top, left + self._size, top + self._size)))


def load_folder(folder: Path) -> Dataset:
    """A data set from ``train/`` and ``val/`` or, without that, ``test/``; see :class:`ImageFolder`."""
    parts = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in parts or len(parts) < 2:
        raise ValueError(
            f"a data set's folder must have subfolders train/ and val/ or test/, each with one folder per class; "
            f"{folder} has {_few(sorted(path.name for path in folder.iterdir())) or 'nothing'}"
        )
    train, test = ImageFolder(parts["train"]), ImageFolder(parts["val"] if "val" in parts else parts["test"])
    if train.class_names != test.class_names:
        only = sorted(set(train.class_names) ^ set(test.class_names))
        raise ValueError(f"the classes of {train.folder} and {test.folder} differ; in one of them only: {_few(only)}")
    return Dataset(str(folder), train, train.labels, test, test.labels, len(train.class_names))


def _class_names(folder: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} has no subfolders; it must have one for each class")
    if classes is not None and (not classes or len(set(classes)) < len(classes)):
        raise ValueError(f"classes must be at least one name and all different, got {tuple(classes)}")
    missing = sorted(set(classes or ()) - set(found))
    if missing:
        raise ValueError(f"{folder} has no folders of the classes {_few(missing)}; it has {_few(found)}")
    return tuple(found if classes is None else classes)


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted(name for name in names if name.lower().endswith(EXTENSIONS))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
