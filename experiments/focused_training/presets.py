"""The presets: settings with the rows that are trained on them. Nothing heavy is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from . import published
from .setups import Setup, parse

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Setting:
    """One data set and threat model, and the rows that are trained on it. Hashable.

    Attributes:
        name: identifies the setting's cells on disk.
        dataset: a name of :func:`jaxrobust.data.load`.
        norm, eps: of the threat model, which is also the norm of the sets' order.
        step_size: of the training attack and, by default, of PGD-40.
        setups: the rows.
        pooled_test: training and test images are put together and so many are drawn for the test anew.
        subset: so many training images are used, drawn by class.
        model, options: see :func:`jaxrobust.models.create`.
        peak_rate: highest learning rate.
        epoch_steps: updates per epoch.
        fraction: share of generated images in a batch.
        generated: file of the generated images, for the record.
        augment: names of augmentations: crop, flip, rotate.
        focus_size: elements of v and s.
        cycle_momentum: see :func:`jaxrobust.schedules.one_cycle_momentum`.
        training_step: step size of the training attack where it is not ``step_size``.
        accumulate: parts of a batch.
        evaluation_batch: images per batch where PGD-40 measures.
        test_every: epochs between measurements on the test images.
        tested: how many test images these are, from the first; all by default.
        attacked: how many test images AutoAttack gets, from the first; all by default.
        attack_batch: of AutoAttack.
        checkpoint_epochs: epochs between checkpoints while a network is trained.
        lead: by how many points the most robust images are expected to be ahead of the least robust ones under PGD-40.
        check_monitor: train once more to show that monitoring does not change the weights.
        table: the published table whose rows stand beside, where the setting is one of its own.
        reference: the setting of the published rows.
    """

    name: str
    dataset: str
    norm: Norm
    eps: float
    step_size: float
    setups: tuple[Setup, ...]
    pooled_test: int | None = None
    subset: int | None = None
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = ()
    peak_rate: float = 0.05
    epoch_steps: int = 11
    fraction: float = 0.0
    generated: str | None = None
    augment: tuple[Literal["crop", "flip", "rotate"], ...] = ()
    focus_size: int = 128
    train_steps: int = 10
    tracking_steps: int = 40
    training_step: float | None = None
    beta: float = 5.0
    label_smoothing: float = 0.1
    momentum: float = 0.9
    cycle_momentum: bool = False
    weight_decay: float = 5e-4
    decay: float = 0.995
    accumulate: int = 1
    evaluation_batch: int = 512
    test_every: int = 5
    tested: int | None = None
    attacked: int | None = None
    attack_batch: int = 100
    checkpoint_epochs: int = 20
    lead: float = 0.0
    check_monitor: bool = False
    table: int | None = None
    reference: str = "cifar10_linf"

    def warmup_steps(self, epochs: int) -> int:
        """Updates before the weights are averaged: 2.5 % of them."""
        return int(0.025 * epochs * self.epoch_steps)


_DIGITS = 1297
THREE_SEEDS, FIVE_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)
# Row, seeds, and the published row beside it. S8 compares the first five with five paired seeds.
_DIGITS_ROWS: tuple[tuple[str, tuple[int, ...], tuple[int, int] | None], ...] = (
    ("-v (v)", FIVE_SEEDS, (2, 1)),
    ("-v (.)", FIVE_SEEDS, (2, 3)),
    ("-v (s)", FIVE_SEEDS, (2, 5)),
    ("-v (most)", FIVE_SEEDS, None),
    ("-v (s)*", FIVE_SEEDS, (4, 3)),
    ("-v (most)*", THREE_SEEDS, None),
    ("-v' (v)", THREE_SEEDS, (2, 2)),
    ("-s (s)", THREE_SEEDS, (2, 4)),
    ("-most (most)", THREE_SEEDS, None),
)
_MNIST_ROWS = tuple((text, reference) for text, _, reference in _DIGITS_ROWS if text not in ("-v (most)*", "-v' (v)"))
_ABLATION_ROWS: tuple[tuple[str, tuple[int, ...], tuple[int, int] | None], ...] = (
    ("-v (s)+", THREE_SEEDS, None),
    *((f"-v,{version} (s)", THREE_SEEDS, (2, 8 + number)) for number, version in enumerate("abcde")),
)


def small_setup(text: str, seeds: tuple[int, ...], reference: tuple[int, int] | None, epochs: int) -> Setup:
    """A row on a small data set: 128 images per batch, and 8 of the focus set on top if it is trained on."""
    focus_per_batch = 0 if parse(text)["mode"] == "monitor" else 8
    return Setup(
        **parse(text),
        batch_size=128 + focus_per_batch,
        focus_per_batch=focus_per_batch,
        epochs=epochs,
        seeds=seeds,
        reference=reference,
    )


def small(datasets: tuple[str, ...]) -> tuple[Setting, ...]:
    """The settings on these data sets, digits or mnist (section 8 of the study's specification, S5 to S10)."""
    digits = Setting(
        name="digits_eps0.1",
        dataset="digits",
        norm="linf",
        eps=0.1,
        step_size=0.025,
        setups=tuple(small_setup(*row, epochs=60) for row in _DIGITS_ROWS),
        pooled_test=500,
        options=(("activation", "silu"), ("widths", (96, 96))),
        epoch_steps=math.ceil(_DIGITS / 128),
        attacked=200,
        attack_batch=160,  # what is left for the last attacks fits one batch
        lead=15.0,
    )
    ablations = tuple(small_setup(*row, epochs=60) for row in _ABLATION_ROWS)
    mnist = Setting(
        name="mnist_eps0.2",
        dataset="mnist",
        norm="linf",
        eps=0.2,
        step_size=0.05,
        setups=tuple(small_setup(text, THREE_SEEDS, reference, epochs=6) for text, reference in _MNIST_ROWS),
        subset=10_000,
        model="small_cnn",
        options=(("features", (16, 32)),),
        epoch_steps=math.ceil(10_000 / 128),
        focus_size=512,
        tested=1000,
        attacked=100,
        test_every=1,
        checkpoint_epochs=2,
    )
    settings = (
        digits,
        replace(
            digits,
            name="digits_eps0.15",
            eps=0.15,
            step_size=0.0375,
            setups=digits.setups + ablations,
            attack_batch=120,
            check_monitor=True,
        ),
        mnist,
    )
    return tuple(setting for setting in settings if setting.dataset in datasets)


_PIXEL = 1 / 255
_RADIUS = {"linf": (8 * _PIXEL, 2 * _PIXEL), "l2": (128 * _PIXEL, 32 * _PIXEL)}
CODE_L2_STEP = 25.6 * _PIXEL
_NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def paper_setup(text: str, table: int, setting: str, reference: tuple[int, int] | None) -> Setup:
    """A row of a published table, or one that could be there: 2048 images, and 32 of a focus set that is trained on."""
    batch_size = published.BATCH_SIZE[table]
    focus_per_batch = 0 if parse(text)["mode"] == "monitor" else published.FOCUS_PER_BATCH
    if focus_per_batch:
        batch_size = 2048 + focus_per_batch
    return Setup(
        **parse(text),
        batch_size=batch_size,
        focus_per_batch=focus_per_batch,
        epochs=published.EPOCHS[table][setting],
        seeds=(0,) if table == 2 else (1,),
        reference=reference,
    )


def paper() -> tuple[Setting, ...]:
    """Tables 2, 3 and 4, one setting for each table, data set and norm."""
    settings = []
    for table, rows in published.TABLES.items():
        for name in dict.fromkeys(row.setting for row in rows):
            dataset, _, norm = name.partition("_")
            mean, std = _NORMALISATION[dataset]
            eps, step_size = _RADIUS[norm]
            setups = [
                paper_setup(row.setup, table, name, (table, number))
                for number, row in enumerate(rows, start=1)
                if row.setting == name
            ]
            if table == 2:  # figure 1 (b), left
                setups.append(paper_setup("-v (most)", table, name, None))
            settings.append(
                Setting(
                    name=f"{name}_table{table}",
                    dataset=dataset,
                    norm="l2" if norm == "l2" else "linf",
                    eps=eps,
                    step_size=step_size,
                    setups=tuple(setups),
                    model="wrn_28_10",
                    options=(("mean", mean), ("std", std)),
                    peak_rate=0.2,
                    epoch_steps=math.ceil(published.ORIGINAL_IMAGES / published.BATCH_SIZE[table]),
                    fraction=0.8,
                    augment=("crop", "flip") if dataset == "cifar10" else ("crop", "flip", "rotate"),
                    focus_size=published.FOCUS_SIZE,
                    accumulate=4,
                    test_every=25,
                    attack_batch=500,
                    checkpoint_epochs=10,
                    table=table,
                    reference=name,
                )
            )
    return tuple(settings)
