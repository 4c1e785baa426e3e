"""TensorFlow Datasets, read through ``tfds.data_source`` without TensorFlow, decoded once and cached as arrays."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._cache import cached_array, default_cache_dir
from ._dataset import Dataset

CHUNK = 1000


class DatasetNotFoundError(ValueError):
    """A TFDS data set that is not prepared on this machine; the message says how to prepare it."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what is made of it.

    Attributes:
        tfds_name: name, with configuration, in TensorFlow Datasets.
        num_classes: number of classes.
        test_split: name of the test split.
        size: images are resized to ``size x size`` by PIL's bilinear filter; ``None`` keeps them.
        flip: whether the study augments by horizontal flips.
        audio: one-second waveforms at 8 kHz in [-1, 1] instead of images.
    """

    tfds_name: str
    num_classes: int
    test_split: str = "test"
    size: int | None = None
    flip: bool = False
    audio: bool = False


SOURCES: dict[str, Source] = {
    "mnist": Source("mnist", 10),
    "fashion_mnist": Source("fashion_mnist", 10, flip=True),
    "cifar10": Source("cifar10", 10, flip=True),
    "cifar100": Source("cifar100", 100, flip=True),
    # The 'extra' split is not used.
    "svhn": Source("svhn_cropped", 10),
    # 102 classes with the background; 3,059 training and 6,085 test images.
    "caltech101": Source("caltech101", 102, size=224, flip=True),
    "imagenette": Source("imagenette/320px-v2", 10, test_split="validation", size=224, flip=True),
    # TFDS offers the 12-class task: ten commands, silence and unknown.
    "speech_commands": Source("speech_commands", 12, audio=True),
}


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    if image.ndim == 3 and image.shape[-1] == 1:
        image = image.repeat(3, axis=-1)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _waveform(audio: np.ndarray) -> np.ndarray:
    """16-bit samples at 16 kHz, up to a second, to ``[8000, 1]`` float32 in [-1, 1], by a polyphase filter."""
    from scipy.signal import resample_poly

    samples = np.zeros(16000, np.float32)
    part = np.asarray(audio[:16000], np.float32) / 32768
    samples[: len(part)] = part
    return np.clip(resample_poly(samples, 1, 2), -1, 1).astype(np.float32)[:, None]


def _decoder(source: Source) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """The feature that holds the inputs, and what is made of one of them."""
    if source.audio:
        return "audio", _waveform
    if source.size is not None:
        size = source.size
        return "image", lambda image: _resize(image, size)
    return "image", np.asarray


def _open(source: Source, split: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.data_source(source.tfds_name, split=split, data_dir=data_dir, download=False)


def _decode(source: Source, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    from rich.console import Console
    from rich.progress import track

    records = _open(source, split, data_dir)
    feature, decode = _decoder(source)
    inputs, labels = [], []
    begins = range(0, len(records), CHUNK)
    console = Console(stderr=True)
    text = f"decoding {source.tfds_name} {split}"
    for begin in track(begins, text, console=console, disable=not sys.stderr.isatty()):
        for record in records.__getitems__(list(range(begin, min(begin + CHUNK, len(records))))):
            inputs.append(decode(record[feature]))
            labels.append(record["label"])
    return np.stack(inputs), np.asarray(labels, np.int32)


def load_tfds(name: str, *, data_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Load one of :data:`SOURCES`; see :func:`jaxrobust.data.load`."""
    source = SOURCES[name]
    folder = str(data_dir or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    with warnings.catch_warnings():
        # TFDS warns about missing optional packages and folders; what matters is said in our own message.
        warnings.simplefilter("ignore")
        logging.getLogger("absl").setLevel(logging.ERROR)
        import tensorflow_datasets as tfds

        try:
            version = str(tfds.builder(source.tfds_name, data_dir=folder).info.version)
            sizes = [len(_open(source, split, folder)) for split in ("train", source.test_split)]
        except Exception as error:
            raise DatasetNotFoundError(_how_to_prepare(name, source, folder)) from error
        arrays = []
        for split, size in zip(("train", source.test_split), sizes, strict=True):
            stem = f"{name}-{version}-{split}-{size}" + (f"-{source.size}px" if source.size else "")
            decoded: list[tuple[np.ndarray, np.ndarray]] = []

            def both(split: str = split, decoded: list[Any] = decoded) -> tuple[np.ndarray, np.ndarray]:
                if not decoded:
                    decoded.append(_decode(source, split, folder))
                return decoded[0]

            arrays.append(cached_array(cache / f"{stem}-inputs.npy", lambda both=both: both()[0]))  # type: ignore[misc]
            arrays.append(cached_array(cache / f"{stem}-labels.npy", lambda both=both: both()[1]))  # type: ignore[misc]
    bounds = (-1.0, 1.0) if source.audio else (0.0, 1.0)
    train, train_labels, test, test_labels = arrays
    classes = source.num_classes
    return Dataset(name, train, train_labels, test, test_labels, classes, bounds=bounds, flip=source.flip)


def _how_to_prepare(name: str, source: Source, folder: str) -> str:
    python = (
        f"import tensorflow_datasets as tfds; tfds.builder('{source.tfds_name}', data_dir='{folder}')"
        ".download_and_prepare(file_format='array_record')"
    )
    return (
        f"the data set {name!r} is not prepared in {folder} (TFDS, array_record format). Prepare it once with\n"
        f'  pip install "jaxrobust[prepare]"\n  python -c "{python}"\n'
        "or name another folder with --data-dir or TFDS_DATA_DIR. Bundled and ready: digits, digits_dct16, digits28"
    )
