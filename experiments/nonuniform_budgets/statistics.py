"""What is read off certified radii: pure functions of arrays."""

from __future__ import annotations

import numpy as np


def gain(uniform: np.ndarray, nonuniform: np.ndarray) -> float:
    """By how many per cent the second mean over images is larger: of the means, as table 3.2 has it."""
    return 100 * (float(nonuniform.mean(dtype=np.float64)) / float(uniform.mean(dtype=np.float64)) - 1)


def shuffled_cosine(radii: np.ndarray) -> float:
    """Mean cosine of pairs of images if the pixels of each were put in random order, in expectation.

    Positive vectors have a large cosine whatever their shapes: this much is due to the spread of the radii alone. For two
    vectors it is the product of ``mean / root mean square`` of both.

    Args:
        radii: ``[images, ...]``, at least two images.

    Example:
        >>> shuffled_cosine(np.array([[1.0, 1.0], [2.0, 2.0]])), shuffled_cosine(np.array([[1.0, 0.0], [0.0, 1.0]]))
        (1.0, 0.5)
    """
    flat = np.asarray(radii, np.float64).reshape(len(radii), -1)
    evenness = flat.mean(1) / np.sqrt(np.square(flat).mean(1))
    count = len(flat)
    return float((evenness.sum() ** 2 - np.square(evenness).sum()) / (count * (count - 1)))


def spread(radii: np.ndarray) -> float:
    """Standard deviation over pixels of the decimal logarithm of the radii, mean over images."""
    return float(np.log10(radii.astype(np.float64)).reshape(len(radii), -1).std(1).mean())


def neighbour_correlation(radii: np.ndarray) -> float:
    """How alike the logarithms of the radii of adjacent pixels are: 0 for noise, near 1 for smooth maps; mean over images.

    The mean product of the deviations from the image's mean over pairs of horizontal or vertical neighbours, in units of the
    variance (Moran's I). Of the geometric mean over channels.

    Args:
        radii: ``[images, height, width, channels]``.
    """
    maps = np.log(radii.astype(np.float64)).mean(-1)
    apart = maps - maps.mean((1, 2), keepdims=True)
    across, down = apart[:, :, 1:] * apart[:, :, :-1], apart[:, 1:] * apart[:, :-1]
    pairs = across[0].size + down[0].size
    products = (across.sum((1, 2)) + down.sum((1, 2))) / pairs
    return float((products / np.square(apart).mean((1, 2))).mean())


def stroke_masks(images: np.ndarray, labels: np.ndarray, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Of two classes, the pixels of their common stroke and those that tell them apart, bool ``[height, width]`` each.

    The tenth of the pixels that are brightest in both classes' mean images, and the tenth where these differ most; pixels that
    are among both count to the second alone.

    Args:
        images: ``[n, height, width, channels]``, bright strokes on dark ground.
        labels: 0 or 1, ``[n]``.
        share: of the pixels.
    """
    first, second = (images[labels == label].astype(np.float64).mean((0, -1)) for label in (0, 1))

    def top(values: np.ndarray) -> np.ndarray:
        return values >= np.quantile(values, 1 - share)

    deciding = top(np.abs(first - second))
    return top(np.minimum(first, second)) & ~deciding, deciding


def contrast(radii: np.ndarray, common: np.ndarray, deciding: np.ndarray) -> float:
    """How many times larger radii are on the first mask than on the second, geometric mean over pixels and images, in decades."""
    maps = np.log10(radii.astype(np.float64)).mean(-1)
    return float((maps[:, common].mean(1) - maps[:, deciding].mean(1)).mean())
