"""What a data set is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes:
        name: as :func:`jaxrobust.data.load` knows it.
        train_images, test_images: ``[n, height, width, channels]``, uint8 or float32 within ``bounds``; audio is
            ``[n, samples, 1]``.
        train_labels, test_labels: int32 ``[n]``.
        num_classes: number of classes.
        bounds: valid range of the floating-point pixels, or ``None`` for data that are not confined to a box.
        flip: whether the optimizer-robustness study augments this data set by horizontal flips.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    bounds: tuple[float, float] | None = (0.0, 1.0)
    flip: bool = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.train_images.shape[1:]


def holdout(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Split the training data, stratified: its test part is the held-out fraction.

    For choosing hyper-parameters without a look at the test set.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    from sklearn.model_selection import train_test_split

    index = np.arange(len(dataset.train_labels))
    kept, held = train_test_split(index, test_size=fraction, stratify=dataset.train_labels, random_state=seed)
    return replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
        test_images=dataset.train_images[held],
        test_labels=dataset.train_labels[held],
    )
