"""Published numbers of the data-geometry study, tables 2 to 4, as data. Standard library only.

Accuracies and differences are per cent. ``pgd`` is the accuracy under PGD-40 on the set in parentheses, after the epoch
``best_epoch``, counted from 1, in which it was highest. One network was trained for each row.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row: accuracies are pairs, on clean test images and under AutoAttack."""

    setting: str
    setup: str
    best: tuple[float, float] | None
    last: tuple[float, float]
    delta_best: float | None
    delta_last: float
    best_epoch: int | None
    pgd: float | None


_LINF, _L2, _CIFAR100 = "cifar10_linf", "cifar10_l2", "cifar100_linf"

TABLES: dict[int, tuple[Row, ...]] = {
    2: (
        Row(_LINF, "-v (v)", (92.45, 67.53), (92.40, 67.57), 24.92, 24.83, 2384, 72.66),
        Row(_LINF, "-v' (v)", (92.62, 67.54), (92.63, 67.56), 25.08, 25.07, 2393, 89.75),
        Row(_LINF, "-v (.)", None, (92.47, 67.52), None, 24.95, None, None),
        Row(_LINF, "-s (s)", (92.44, 67.57), (92.54, 67.47), 24.87, 25.07, 2340, 39.94),
        Row(_LINF, "-v (s)", (92.40, 67.77), (92.40, 67.70), 24.63, 24.70, 2393, 50.98),
        Row(_LINF, "-v (2s)", (92.59, 67.72), (92.56, 67.72), 24.87, 24.84, 2390, 55.62),
        Row(_LINF, "-v (4s)", (92.45, 67.72), (92.42, 67.71), 24.73, 24.71, 2396, 62.65),
        Row(_LINF, "-v,a (s)", (92.60, 67.61), (92.46, 67.72), 24.99, 24.74, 2382, 52.25),
        Row(_LINF, "-v,b (s)", (92.55, 67.55), (92.59, 67.55), 25.00, 25.04, 2383, 51.46),
        Row(_LINF, "-v,c (s)", (92.44, 67.58), (92.47, 67.83), 24.86, 24.64, 2238, 51.17),
        Row(_LINF, "-v,d (s)", (92.41, 67.41), (92.41, 67.47), 25.00, 24.94, 2293, 50.88),
        Row(_LINF, "-v,e (s)", (92.57, 67.51), (92.51, 67.45), 25.06, 25.06, 2386, 51.86),
    ),
    3: (
        Row(_LINF, "-v (v)", (92.60, 67.61), (92.61, 67.65), 24.99, 24.96, 2377, 72.56),
        Row(_LINF, "-v,c (s)", (92.53, 67.83), (92.54, 67.78), 24.70, 24.76, 2319, 50.98),
        Row(_L2, "-v (v)", (95.15, 83.54), (95.19, 83.59), 11.61, 11.60, 1565, 88.18),
        Row(_L2, "-v,c (s)", (95.10, 83.61), (95.11, 83.69), 11.49, 11.42, 1568, 84.08),
        Row(_CIFAR100, "-v (v)", (72.97, 38.24), (72.80, 38.39), 34.73, 34.41, 1531, 46.68),
        Row(_CIFAR100, "-v,c (s)", (72.78, 38.54), (72.78, 38.58), 34.24, 34.20, 1568, 32.52),
    ),
    4: (
        Row(_LINF, "(2v)", (92.51, 68.07), (92.56, 68.04), 24.44, 24.52, 2987, 91.02),
        Row(_LINF, "c (2s)", (92.55, 67.72), (92.52, 67.65), 24.83, 24.87, 2999, 57.67),
        Row(_LINF, "c (2s)*", (92.50, 67.79), (92.52, 67.78), 24.71, 24.74, 2999, 88.87),
        Row(_L2, "(2v)", (95.20, 83.72), (95.20, 83.72), 11.48, 11.48, 2000, 98.97),
        Row(_L2, "c (2s)", (95.23, 83.80), (95.26, 83.88), 11.43, 11.38, 1976, 89.36),
        Row(_L2, "c (2s)*", (94.99, 83.80), (95.05, 83.80), 11.19, 11.25, 1994, 99.80),
        Row(_CIFAR100, "(2v)", (73.18, 38.81), (73.11, 38.86), 34.37, 34.25, 1989, 76.12),
        Row(_CIFAR100, "c (2s)", (73.12, 38.94), (73.12, 38.92), 34.18, 34.20, 1924, 36.33),
        Row(_CIFAR100, "c (2s)*", (72.91, 38.91), (72.93, 38.91), 34.00, 34.02, 1999, 79.35),
    ),
}
"""Tables 2, 3 and 4. In the printed setups the data set and norm, ``setting`` here, come first."""

MISPRINTS: dict[tuple[int, int], tuple[str, float]] = {(3, 6): ("delta_best", 34.42)}
"""Table and row (from 1) to the column and what is printed there; :data:`TABLES` has what follows from the row itself."""

LABELS = {_LINF: "CIFAR-10 l∞", _L2: "CIFAR-10 l2", _CIFAR100: "CIFAR-100 l∞"}
EPOCHS = {
    2: {_LINF: 2400},
    3: {_LINF: 2400, _L2: 1600, _CIFAR100: 1600},
    4: {_LINF: 3000, _L2: 2000, _CIFAR100: 2000},
}
BATCH_SIZE = {2: 2048, 3: 2048, 4: 2080}
FOCUS_SIZE = 1024
"""Elements of the sets v, v' and s; 2v and 2s have twice, 4s four times as many."""
FOCUS_PER_BATCH = 32
"""Focus images in each batch of the rows with a star."""
ORIGINAL_IMAGES, TEST_IMAGES = 50_000, 10_000
GENERATED = {_LINF: "20 million", _L2: "50 million", _CIFAR100: "50 million"}
"""How many of the generated images of Wang et al. (2023) the study trained with."""
CLOSEST_PAIR = 54 / 255
"""Smallest l-infinity distance of two differently labelled training images of CIFAR-10; printed as 0.2118."""


def row(table: int, number: int) -> Row:
    """Row ``number``, from 1, of a table."""
    return TABLES[table][number - 1]


def find(table: int, setting: str, setup: str) -> Row | None:
    """The row of a setup, if the table has it."""
    return next((row for row in TABLES[table] if (row.setting, row.setup) == (setting, setup)), None)
