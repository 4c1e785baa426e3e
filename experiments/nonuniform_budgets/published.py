"""Published numbers of the study of non-uniform bounds, tables 3.2 and 3.3, as data. Standard library only.

Radii are l-infinity, for pixels in [-1, 1], averages over test images; one network for each row. Networks have three hidden
layers of equal width; the robust ones are trained by PGD with radius 0.1.
"""

from __future__ import annotations

from typing import NamedTuple

TRAINING_EPS = 0.1
"""Radius of PGD training, its scale not stated."""
RANDOM_COSINE = 0.75
"""Of vectors uniform in [0, 1]^784 (footnote 2)."""


class Row(NamedTuple):
    """One network.

    Attributes:
        accuracy: on clean test images, in per cent.
        uniform, nonuniform: geometric mean over pixels of the certified radii, mean over images.
        ratio: of the two, as printed.
        mean_cosine, min_cosine: of radii of all pairs of images.
    """

    accuracy: float
    uniform: float
    nonuniform: float
    ratio: float
    mean_cosine: float
    min_cosine: float

    @property
    def gain(self) -> float:
        """By how many per cent the non-uniform radius is larger."""
        return 100 * (self.ratio - 1)


ROWS: dict[tuple[str, int], dict[str, Row]] = {
    ("mnist", 100): {
        "vanilla": Row(99.2, 0.0295, 0.0349, 1.183, 0.9548, 0.2304),
        "robust": Row(98.1, 0.0692, 0.1678, 2.425, 0.9957, 0.9155),
    },
    ("mnist", 300): {
        "vanilla": Row(98.0, 0.0309, 0.0350, 1.133, 0.9774, 0.5038),
        "robust": Row(98.9, 0.0507, 0.1404, 2.769, 0.9964, 0.9104),
    },
    ("mnist", 500): {
        "vanilla": Row(98.5, 0.0319, 0.0360, 1.129, 0.9874, 0.6367),
        "robust": Row(98.8, 0.0436, 0.1167, 2.677, 0.9941, 0.8920),
    },
    ("fashion_mnist", 1024): {
        "vanilla": Row(90.4, 0.0134, 0.0141, 1.052, 0.9805, 0.5652),
        "robust": Row(88.4, 0.0208, 0.0306, 1.468, 0.9752, 0.7166),
    },
    ("svhn", 1024): {
        "vanilla": Row(84.3, 0.0022, 0.0072, 3.273, 0.9836, 0.7129),
        "robust": Row(78.2, 0.0054, 0.0281, 5.204, 0.9952, 0.9339),
    },
}
"""By data set and width of the hidden layers, then by kind of training."""

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "svhn": "SVHN"}
