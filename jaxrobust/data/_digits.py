"""The data sets that are bundled: scikit-learn's handwritten digits at three resolutions."""

from __future__ import annotations

import numpy as np

from jaxrobust import frequency

from ._dataset import Dataset


def _split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1437 training and 360 test images ``[n, 8, 8, 1]`` in [0, 1], stratified, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    return train, train_labels, test, test_labels


def digits() -> Dataset:
    """8x8 digits as they are."""
    train, train_labels, test, test_labels = _split()
    return Dataset("digits", train, train_labels, test, test_labels, num_classes=10)


def digits_dct16() -> Dataset:
    """Digits upsampled to 16x16 by zero-padding their DCT: 192 of 256 frequencies are empty.

    Pixels leave [0, 1] (from about -0.40 to 1.36) and must not be clipped, which would fill the empty frequencies.
    """
    train, train_labels, test, test_labels = _split()
    up = [np.asarray(frequency.upsample_dct(images, 16)) for images in (train, test)]
    return Dataset("digits_dct16", up[0], train_labels, up[1], test_labels, num_classes=10, bounds=None)


def digits28() -> Dataset:
    """Digits upsampled bilinearly to 28x28, inside [0, 1]."""
    from scipy.ndimage import zoom

    train, train_labels, test, test_labels = _split()
    up = [
        np.clip(zoom(images, (1, 3.5, 3.5, 1), order=1, grid_mode=True, mode="nearest"), 0, 1)
        for images in (train, test)
    ]
    return Dataset("digits28", up[0], train_labels, up[1], test_labels, num_classes=10)
