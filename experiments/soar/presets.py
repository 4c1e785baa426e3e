"""The presets: data sets and threat models with their rows. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import rows
from .rows import Options, Row


@dataclass(frozen=True)
class Setting:
    """One data set and threat model, and the rows that are trained on it. Hashable.

    Attributes:
        name: identifies the setting's cells on disk.
        dataset: a name of :func:`jaxrobust.data.load`.
        eps: l-infinity radius that is defended and attacked.
        step_size: of all l-infinity attacks that the text gives a step.
        l2_radii: of the l2 attacks; the last is the one that networks are trained for.
        rows: in the order of the report, those that others start from first.
        seeds: of initialisation, data order and training's random numbers.
        model, options: see :func:`jaxrobust.models.create`.
        pooled_test: training and test images are put together and so many are drawn for the test anew.
        subset: so many training images are used, drawn by class.
        batch_size, momentum, weight_decay: of training.
        augment: random crops and flips.
        engine: see :class:`experiments.study.Recipe`.
        tested: how many test images the cheap columns have, from the first; all by default.
        attacked: how many the others have.
        sampled: how many training images the objective is averaged over.
        evaluation_batch, attack_batch: images per batch of the attacks, and of AutoAttack.
    """

    name: str
    dataset: str
    eps: float
    step_size: float
    l2_radii: tuple[float, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    model: str = "mlp"
    options: Options = ()
    pooled_test: int | None = None
    subset: int | None = None
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 2e-4
    augment: bool = False
    engine: Literal["population", "fit"] = "population"
    tested: int | None = None
    attacked: int | None = None
    sampled: int = 1000
    evaluation_batch: int = 500
    attack_batch: int = 500

    def row(self, name: str) -> Row:
        """A row by name."""
        return next(row for row in self.rows if row.name == name)


def small(datasets: tuple[str, ...]) -> tuple[Setting, ...]:
    """The settings on these data sets, digits or mnist (section 8 of the study's specification)."""
    settings = (
        Setting(
            name="digits",
            dataset="digits",
            eps=0.15,
            step_size=0.15 / 4,
            l2_radii=(0.3, 0.6, 1.2),
            rows=rows.digits(),
            options=(("widths", (256, 256)),),
            pooled_test=500,
            attacked=150,
            attack_batch=75,
        ),
        Setting(
            name="mnist",
            dataset="mnist",
            eps=0.1,
            step_size=0.1 / 4,
            l2_radii=(0.7, 1.4, 2.8),
            rows=rows.mnist(),
            model="small_cnn",
            options=(("features", (16, 32, 32)),),
            subset=10_000,
            tested=200,
            attacked=50,
            attack_batch=50,
        ),
    )
    return tuple(setting for setting in settings if setting.dataset in datasets)


def paper() -> tuple[Setting, ...]:
    """CIFAR-10 with every published setting (tables 3.1 to 3.10)."""
    setting = Setting(
        name="cifar10",
        dataset="cifar10",
        eps=8 / 255,
        step_size=2 / 255,
        l2_radii=(60 / 255, 120 / 255, 255 / 255, 1.74),
        rows=rows.cifar10(),
        seeds=(0,),
        model="resnet10",
        batch_size=128,
        augment=True,
        engine="fit",
    )
    return (setting,)
