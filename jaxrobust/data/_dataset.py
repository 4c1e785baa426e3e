"""What a data set is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._source import select


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes:
        name: as :func:`jaxrobust.data.load` knows it.
        train_images, test_images: ``[n, height, width, channels]``, uint8 or float32 within ``bounds``; audio is
            ``[n, samples, 1]``. Data sets with a name hold arrays in memory; those from files and folders hold an
            :class:`ImageSource`, which reads the rows that are asked for.
        train_labels, test_labels: int32 ``[n]``.
        num_classes: number of classes.
        bounds: valid range of the floating-point pixels, or ``None`` for data that are not confined to a box.
        flip: whether the optimizer-robustness study augments this data set by horizontal flips.
    """

    name: str
    train_images: Any
    train_labels: np.ndarray
    test_images: Any
    test_labels: np.ndarray
    num_classes: int
    bounds: tuple[float, float] | None = (0.0, 1.0)
    flip: bool = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.train_images.shape[1:]


def holdout(dataset: Dataset, size: float | int = 0.1, seed: int = 0) -> Dataset:
    """Split the training data, stratified: its test part is what is held out.

    For choosing hyper-parameters, or the best network of a run, without a look at the test set.

    Args:
        dataset: whose training images are split.
        size: how many images are held out, an integer, or which fraction of them, a float between 0 and 1.
        seed: of the draw.

    Raises:
        ValueError: for a size that leaves no images, or fewer than classes.
    """
    if not 0 < size < (1 if isinstance(size, float) else len(dataset.train_labels)):
        raise ValueError(
            f"size must be a fraction between 0 and 1, or a number of images below the {len(dataset.train_labels)} "
            f"training images; got {size}"
        )
    from sklearn.model_selection import train_test_split

    index = np.arange(len(dataset.train_labels))
    kept, held = train_test_split(index, test_size=size, stratify=dataset.train_labels, random_state=seed)
    return replace(
        dataset,
        train_images=select(dataset.train_images, kept),
        train_labels=dataset.train_labels[kept],
        test_images=select(dataset.train_images, held),
        test_labels=dataset.train_labels[held],
    )
