"""What was measured of a setting's rows, as numbers: one value per seed, in per cent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from experiments.study import PairedDifference, paired_difference

from .networks import Networks
from .presets import Setting
from .setups import Setup


@dataclass(frozen=True)
class Seed:
    """One network of a row.

    Attributes:
        last, best: accuracies of the last and of the best weights on test images, clean and under AutoAttack; ``best``
            is ``None`` without a focus set.
        robust_last: which test images withstand AutoAttack on the last weights, ``[n]``.
        best_epoch: counted from 1.
        focus: accuracy under PGD-40 on the focus set after each epoch, ``[epochs]``.
        tracked: the same for every set that the network was measured on.
        test: epoch to accuracies on the test images, clean and under PGD-40.
        warnings: of AutoAttack.
    """

    last: tuple[float, float]
    best: tuple[float, float] | None
    robust_last: np.ndarray
    best_epoch: int | None
    focus: np.ndarray | None
    tracked: Mapping[str, np.ndarray]
    test: Mapping[int, tuple[float, float]]
    warnings: tuple[str, ...]

    @property
    def pgd_last(self) -> float:
        """Accuracy under PGD-40 on the focus set, last weights; NaN without a focus set."""
        return float("nan") if self.focus is None else float(self.focus[-1])

    @property
    def pgd_best(self) -> float:
        """The same for the best weights."""
        return float("nan") if self.focus is None or self.best_epoch is None else float(self.focus[self.best_epoch - 1])

    @property
    def test_pgd(self) -> float:
        """Accuracy under PGD-40 on the test images, last weights."""
        return self.test[max(self.test)][1]


@dataclass(frozen=True)
class Outcome:
    """A row's networks by seed."""

    setup: Setup
    seeds: dict[int, Seed]

    def values(self, value: Callable[[Seed], float]) -> list[float]:
        """A number of each network."""
        return [value(seed) for seed in self.seeds.values()]


Outcomes = Mapping[str, Outcome]
"""By the notation of the row."""


def collect(networks: Networks, setting: Setting) -> dict[str, Outcome]:
    """Train and attack what is not on disk yet, and gather the setting's results."""
    outcomes = {}
    for setup in setting.setups:
        outcomes[str(setup)] = Outcome(setup, {seed: _seed(networks, setting, setup, seed) for seed in setup.seeds})
    return outcomes


def _seed(networks: Networks, setting: Setting, setup: Setup, seed: int) -> Seed:
    trained = networks.trained(setting, setup, seed)
    tracked = {
        name: 100 * np.asarray(entry["correct"]) / entry["size"] for name, entry in sorted(trained["sets"].items())
    }
    best_epoch = None if setup.focus is None else int(trained["sets"][setup.focus]["best_epoch"])
    last = networks.attacked(setting, setup, seed, setup.epochs)
    best = None if best_epoch is None else networks.attacked(setting, setup, seed, best_epoch)
    test = trained["test"]
    return Seed(
        last=(last["clean"], last["robust"]),
        best=None if best is None else (best["clean"], best["robust"]),
        robust_last=last["arrays"]["robust"],
        best_epoch=best_epoch,
        focus=None if setup.focus is None else tracked[setup.focus],
        tracked=tracked,
        test={
            epoch: (100 * clean / test["images"], 100 * pgd / test["images"])
            for epoch, clean, pgd in zip(test["epochs"], test["clean"], test["pgd"], strict=True)
        },
        warnings=tuple(last["warnings"]) + (() if best is None else tuple(best["warnings"])),
    )


def common_seeds(a: Outcome, b: Outcome) -> list[int]:
    """Seeds that both rows have."""
    return [seed for seed in a.seeds if seed in b.seeds]


def difference(a: Outcome, b: Outcome, value: Callable[[Seed], float]) -> PairedDifference:
    """A number of ``a`` minus that of ``b``, paired by seed."""
    seeds = common_seeds(a, b)
    return paired_difference([value(a.seeds[seed]) for seed in seeds], [value(b.seeds[seed]) for seed in seeds])
