"""What the focused-training study runs: its command line, and the settings behind its presets.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust.reporting import CommandError

from . import published
from .setups import Setup, parse

Norm = Literal["linf", "l2"]


def _option(metavar: str, default: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train networks adversarially with a focus on the training images that lie closest to another class.

    One row of a table is a setup, written [-HELD OUT][,VERSION] (FOCUS)[MARK]: what is held out, the version of the learning rate (a to e) and the
    set that PGD-40 attacks after every epoch. Sets: v, v', 2v (random), s, 2s, 4s (least robust), most (most robust), or a dot for none. Marks:
    * PGD-40 examples of the set are trained on, ** as adversarial partners of their images, + clean images of the set are trained on more often.
    Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: bundled digits, minutes on two CPU cores. paper: tables 2, 3 and 4 with WRN-28-10 on CIFAR-10 and CIFAR-100, for accelerators; these TFDS data sets must be prepared."""
    datasets: Annotated[tuple[str, ...] | None, _option("NAME ...", "small digits, paper all")] = None
    """Only these data sets: digits and mnist (a subset of 10,000 images, a small CNN) for small, cifar10 and cifar100 for paper."""
    rows: Annotated[tuple[str, ...] | None, _option("ROW ...", "all of the preset")] = None
    """Only these rows, e.g. --rows "-v (.)" "-v (s)" "-v (s)*", or by table and row, e.g. --rows 2.5 4.3. A setup that the preset does not have is added."""
    seeds: Annotated[tuple[int, ...] | None, _option("SEED ...", "each row's own")] = None
    """Seeds of initialisation, data order and attacks, e.g. --seeds 0 1 2."""
    epochs: Annotated[int | None, _option("N", "each row's own")] = None
    """Epochs of every row."""
    generated: Annotated[tuple[str, ...] | None, _option("FILE|SETTING=FILE ...", "needed for paper")] = None
    """npz files with generated images (image, label) that fill 80 % of every batch: one for all, or e.g. cifar10_linf=20m.npz cifar10_l2=50m.npz cifar100_linf=c100.npz; none: train on original images only."""
    recipe: Literal["text", "code"] = "text"
    """Where the printed text and the public code differ: momentum 0.9 or cycled between 0.95 and 0.85, and for l2 training steps of 32/255 or 25.6/255."""
    accumulate: Annotated[int | None, _option("N", "small 1, paper 4")] = None
    """Parts that a batch is split into to save memory. Batch norm sees one part at a time: 512 images in the published runs."""
    output: Annotated[Path | None, _option("FOLDER", "runs/focused_training/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, _option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "focused_training" / self.preset


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
    check_monitor: bool = False
    table: int | None = None
    reference: str = "cifar10_linf"

    def warmup_steps(self, epochs: int) -> int:
        """Updates before the weights are averaged: 2.5 % of them."""
        return int(0.025 * epochs * self.epoch_steps)


_DIGITS = 1297
_THREE, _FIVE = (0, 1, 2), (0, 1, 2, 3, 4)
# Row, seeds, and the published row beside it. S8 compares the first five with five paired seeds.
_DIGITS_ROWS: tuple[tuple[str, tuple[int, ...], tuple[int, int] | None], ...] = (
    ("-v (v)", _FIVE, (2, 1)),
    ("-v (.)", _FIVE, (2, 3)),
    ("-v (s)", _FIVE, (2, 5)),
    ("-v (most)", _FIVE, None),
    ("-v (s)*", _FIVE, (4, 3)),
    ("-v (most)*", _THREE, None),
    ("-v' (v)", _THREE, (2, 2)),
    ("-s (s)", _THREE, (2, 4)),
    ("-most (most)", _THREE, None),
)
_ABLATION_ROWS: tuple[tuple[str, tuple[int, ...], tuple[int, int] | None], ...] = (
    ("-v (s)+", _THREE, None),
    *((f"-v,{version} (s)", _THREE, (2, 8 + number)) for number, version in enumerate("abcde")),
)


def _small_setup(text: str, seeds: tuple[int, ...], reference: tuple[int, int] | None, epochs: int) -> Setup:
    focus_per_batch = 0 if parse(text)["mode"] == "monitor" else 8
    return Setup(
        **parse(text),
        batch_size=128 + focus_per_batch,
        focus_per_batch=focus_per_batch,
        epochs=epochs,
        seeds=seeds,
        reference=reference,
    )


def _small(datasets: tuple[str, ...]) -> tuple[Setting, ...]:
    digits = Setting(
        name="digits_eps0.1",
        dataset="digits",
        norm="linf",
        eps=0.1,
        step_size=0.025,
        setups=tuple(_small_setup(*row, epochs=60) for row in _DIGITS_ROWS),
        pooled_test=500,
        options=(("activation", "silu"), ("widths", (96, 96))),
        epoch_steps=math.ceil(_DIGITS / 128),
        attacked=200,
    )
    ablations = tuple(_small_setup(*row, epochs=60) for row in _ABLATION_ROWS)
    mnist = Setting(
        name="mnist_eps0.2",
        dataset="mnist",
        norm="linf",
        eps=0.2,
        step_size=0.05,
        setups=tuple(_small_setup(text, _THREE, reference, epochs=12) for text, _, reference in _DIGITS_ROWS),
        subset=10_000,
        model="small_cnn",
        options=(("features", (16, 32)),),
        epoch_steps=math.ceil(10_000 / 128),
        focus_size=512,
        tested=1000,
        attacked=200,
        test_every=2,
        checkpoint_epochs=3,
    )
    settings = (
        digits,
        replace(
            digits,
            name="digits_eps0.15",
            eps=0.15,
            step_size=0.0375,
            setups=digits.setups + ablations,
            check_monitor=True,
        ),
        mnist,
    )
    return tuple(setting for setting in settings if setting.dataset in datasets)


_PIXEL = 1 / 255
_RADIUS = {"linf": (8 * _PIXEL, 2 * _PIXEL), "l2": (128 * _PIXEL, 32 * _PIXEL)}
_CODE_L2_STEP = 25.6 * _PIXEL
_NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def _paper_setup(text: str, table: int, setting: str, reference: tuple[int, int] | None) -> Setup:
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


def _paper() -> tuple[Setting, ...]:
    settings = []
    for table, rows in published.TABLES.items():
        for name in dict.fromkeys(row.setting for row in rows):
            dataset, _, norm = name.partition("_")
            mean, std = _NORMALISATION[dataset]
            eps, step_size = _RADIUS[norm]
            setups = [
                _paper_setup(row.setup, table, name, (table, number))
                for number, row in enumerate(rows, start=1)
                if row.setting == name
            ]
            if table == 2:  # figure 1 (b), left
                setups.append(_paper_setup("-v (most)", table, name, None))
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


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for a data set, row, seed, file or number that makes no sense, naming what is possible.
    """
    _check(config)
    known = ("digits", "mnist") if config.preset == "small" else ("cifar10", "cifar100")
    for name in config.datasets or ():
        if name not in known:
            raise CommandError(
                f"unknown data set {name!r}; the preset {config.preset} has {' and '.join(known)}, give another --preset "
                "for the others"
            )
    if config.preset == "small":
        chosen = _small(config.datasets or ("digits",))
    else:
        chosen = tuple(setting for setting in _paper() if setting.dataset in (config.datasets or known))
    files = _generated(config)
    result = []
    for setting in _with_rows(chosen, config.rows):
        setups = setting.setups
        if config.seeds is not None:
            setups = tuple(replace(setup, seeds=tuple(config.seeds)) for setup in setups)
        if config.epochs is not None:
            setups = tuple(replace(setup, epochs=config.epochs) for setup in setups)
        setting = replace(setting, setups=setups, accumulate=config.accumulate or setting.accumulate)
        if config.recipe == "code":
            setting = replace(
                setting, cycle_momentum=True, training_step=_CODE_L2_STEP if setting.norm == "l2" else None
            )
        if setting.fraction:
            file = files.get(setting.reference, files.get(""))
            if file is None:
                raise CommandError(
                    f"{setting.name} is trained with generated images: give their npz file with --generated FILE (published: "
                    f"{published.GENERATED[setting.reference]} images of Wang et al., 2023), or --generated none for original "
                    "images only"
                )
            setting = replace(setting, generated=file.name if file.name != "none" else None)
            setting = setting if setting.generated else replace(setting, fraction=0.0)
        result.append(setting)
    return tuple(result)


def generated_file(config: Config, setting: Setting) -> Path | None:
    """Where the setting's generated images are, or ``None`` if it has none."""
    files = _generated(config)
    return files.get(setting.reference, files.get("")) if setting.generated else None


def _generated(config: Config) -> dict[str, Path]:
    """Files by the name of a published setting, or under the empty name the one for all."""
    files: dict[str, Path] = {}
    for text in config.generated or ():
        name, equals, file = text.rpartition("=")
        if equals and name not in published.LABELS:
            raise CommandError(
                f"--generated: unknown setting {name!r}; choose from {', '.join(published.LABELS)}, or give a single FILE"
            )
        if file != "none" and not Path(file).is_file():
            raise CommandError(f"--generated: there is no file {file}")
        if name in files:
            raise CommandError(f"--generated names two files{f' for {name}' if name else ''}")
        files[name] = Path(file)
    return files


def _with_rows(chosen: tuple[Setting, ...], rows: tuple[str, ...] | None) -> list[Setting]:
    """The settings with the rows that were asked for, those without any left out."""
    if rows is None:
        return list(chosen)
    picked: dict[str, dict[str, Setup]] = {setting.name: {} for setting in chosen}
    for text in rows:
        found = False
        for setting in chosen:
            for setup in setting.setups:
                is_number = setting.table is not None and setup.reference == _table_and_row(text)
                if is_number or (_table_and_row(text) is None and str(setup) == str(Setup(**parse(text)))):
                    picked[setting.name][str(setup)] = setup
                    found = True
        if found:
            continue
        if _table_and_row(text) is not None:
            raise CommandError(
                f"there is no row {text} in this preset; tables are 2 (12 rows), 3 (6) and 4 (9) of paper"
            )
        for setting in chosen:
            setup = _added(setting, text)
            picked[setting.name][str(setup)] = setup
    return [replace(setting, setups=tuple(picked[setting.name].values())) for setting in chosen if picked[setting.name]]


def _added(setting: Setting, text: str) -> Setup:
    """A row that the preset does not have."""
    first = setting.setups[0]
    if setting.table is not None:
        return _paper_setup(text, setting.table, setting.reference, None)
    return _small_setup(text, _THREE, None, first.epochs)


def _table_and_row(text: str) -> tuple[int, int] | None:
    table, dot, row = text.partition(".")
    return (int(table), int(row)) if dot and table.isdigit() and row.isdigit() else None


def _check(config: Config) -> None:
    for name in ("datasets", "rows", "seeds", "generated"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    for name in ("epochs", "accumulate"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise CommandError(f"{name} must be at least 1, got {value}")
    if config.generated is not None and config.preset != "paper":
        raise CommandError("--generated belongs to --preset paper; small trains on original images only")
    if config.data_dir is not None and not config.data_dir.exists():
        raise CommandError(f"--data-dir: {config.data_dir} does not exist")


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but the paths and how it is shown."""
    return {"preset": config.preset, "settings": {setting.name: asdict(setting) for setting in chosen}}
