"""Arrays of an ``.npz`` file as memory maps: tens of millions of images, of which only the rows in use are read."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxrobust.files import replacing

from ._dataset import Dataset

CHUNK = 1 << 20
SPLITS = ("train_images", "train_labels", "test_images", "test_labels")


def open_npz(
    path: str | Path, *, num_classes: int | None = None, cache_dir: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Map the images and labels of an ``.npz`` file into memory, such as the generated images of Wang et al. (2023).

    Members that the file stores uncompressed, as :func:`numpy.savez` does, are mapped where they lie: nothing is
    copied, and a row is read when it is indexed. Their checksums are not verified: that would mean reading them all.
    A compressed member is unpacked once, in constant memory, to an ``.npy`` file, which later calls map.

    Args:
        path: holds ``image`` or ``images``, uint8 or float32 ``[n, height, width, channels]``, and ``label`` or
            ``labels``, integers ``[n]``. In the published sets of 1, 20 and 50 million images these are uint8
            ``[n, 32, 32, 3]`` and the classes that the images were generated for.
        num_classes: if given, labels must lie in ``0..num_classes - 1``, which reads all of them.
        cache_dir: where compressed members are unpacked; by default beside the file.

    Returns:
        Read-only images and labels.

    Raises:
        ValueError: for a file that is missing, damaged or holds something else.
        OSError: if there is no room to unpack, or no permission.

    Example:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "generated.npz"
        >>> np.savez(path, image=np.zeros((5, 2, 2, 3), np.uint8), label=np.arange(5))
        >>> images, labels = open_npz(path, num_classes=5)
        >>> type(images).__name__, images.shape, labels[2:].tolist()
        ('memmap', (5, 2, 2, 3), [2, 3, 4])
        >>> folder.cleanup()
    """
    images, labels = _arrays(Path(path), (("image", "images"), ("label", "labels")), cache_dir)
    _check(Path(path), images, labels, num_classes)
    return images, labels


def load_npz(path: Path, cache_dir: str | Path | None = None) -> Dataset:
    """A data set from :data:`SPLITS` in one ``.npz`` file, its images memory-mapped; see :func:`open_npz`.

    The number of classes is the greatest label plus 1.
    """
    train, train_labels, test, test_labels = _arrays(path, tuple((name,) for name in SPLITS), cache_dir)
    _check(path, train, train_labels, None)
    _check(path, test, test_labels, None)
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"training and test images of {path} differ in shape: {train.shape[1:]}, {test.shape[1:]}")
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    for labels in (train_labels, test_labels):
        _check_range(path, labels, classes)
    return Dataset(str(path), train, train_labels.astype(np.int32), test, test_labels.astype(np.int32), classes)


def _arrays(path: Path, wanted: tuple[tuple[str, ...], ...], cache_dir: str | Path | None) -> list[np.ndarray]:
    """One array for each tuple of names that it may have."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    folder = path.parent if cache_dir is None else Path(cache_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            found = [next((name for name in names if name in held), None) for names in wanted]
            missing = [" or ".join(names) for names, name in zip(wanted, found, strict=True) if name is None]
            if missing:
                raise ValueError(f"{path} holds no {', no '.join(missing)}; it holds {', '.join(held) or 'nothing'}")
            return [_map_member(path, archive, held[name], folder) for name in found if name is not None]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not an npz file: {error}") from error


def _map_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> np.ndarray:
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:  # bit 0: encrypted
        return _map(path, _data_offset(path, member), member)
    return _map(_unpack(path, archive, member, folder), 0, member)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose two last fields have lengths of their own."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header of {member.filename}")
    name, extra = struct.unpack_from("<HH", header, 26)
    return member.header_offset + 30 + name + extra


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"unknown version {version} of the npy format")
    return readers[version](file)


def _map(path: Path, begin: int, member: zipfile.ZipInfo) -> np.ndarray:
    """Map the ``.npy`` of ``member``, which begins at a byte of ``path``."""
    with path.open("rb") as file:
        file.seek(begin)
        try:
            shape, is_fortran, dtype = _read_header(file)
        except ValueError as error:
            raise ValueError(f"{member.filename} in {path} is no array: {error}") from error
        offset, length = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject or not dtype.isnative:
        raise ValueError(f"{member.filename} in {path} is of dtype {dtype}, which cannot be mapped")
    end = offset + math.prod(shape) * dtype.itemsize
    if end != begin + member.file_size or end > length:
        raise zipfile.BadZipFile(f"{member.filename} is cut short")
    if not math.prod(shape):
        raise ValueError(f"{member.filename} in {path} is empty, of shape {shape}")
    array = np.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")
    if array.ndim > 1 and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        # Batches are images from anywhere. Untold, the kernel would read 128 KiB around each of them from the disk.
        array.base.madvise(mmap.MADV_RANDOM)
    return array


def _unpack(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    """The unpacked member, made if it is not there. Its name has the checksum of what it holds."""
    target = folder / f"{path.stem}-{Path(member.filename).stem}-{member.CRC:08x}.npy"
    if target.exists():
        if target.stat().st_size == member.file_size:
            return target
        print(f"the unpacked array {target} is damaged and is made again", file=sys.stderr)
    need = f"{member.file_size / 1e9:.3g} GB"
    print(f"unpacking {member.filename} of {path} to {target}, {need}, once", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < member.file_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with replacing(target) as temporary, archive.open(member) as packed, temporary.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot unpack {need} to {folder}: {error.strerror}. Name another folder with cache_dir, or write "
            f"{path.name} anew with numpy.savez, which needs no unpacking",
        ) from error
    return target


def _check(path: Path, images: np.ndarray, labels: np.ndarray, num_classes: int | None) -> None:
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"images must be uint8 or float32 [n, height, width, channels]; {path} holds {images.dtype} {images.shape}"
        )
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(f"images must have their channels last; those of {path} are {images.shape}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers [n]; {path} holds {labels.dtype} {labels.shape}")
    if len(images) != len(labels):
        raise ValueError(f"images and labels of {path} differ in length: {len(images)} and {len(labels)}")
    if num_classes is not None:
        _check_range(path, labels, num_classes)


def _check_range(path: Path, labels: np.ndarray, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}; those of {path} lie in {low}..{high}")
