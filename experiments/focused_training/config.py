"""What the focused-training study runs: its command line, and the settings behind its presets.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxrobust.reporting import CommandError, option

from . import presets, published
from .presets import Setting
from .setups import Setup, parse


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train networks adversarially with a focus on the training images that lie closest to another class.

    One row of a table is a setup, written [HELD OUT][,VERSION] (FOCUS)[MARK]: what is held out, the version of the learning rate (a to e) and the
    set that PGD-40 attacks after every epoch. Sets: v, v', 2v (random), s, 2s, 4s (least robust), most (most robust), or a dot for none. Marks:
    * PGD-40 examples of the set are trained on, ** as adversarial partners of their images, + clean images of the set are trained on more often.
    Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: bundled digits, minutes on two CPU cores. paper: tables 2, 3 and 4 with WRN-28-10 on CIFAR-10 and CIFAR-100, for accelerators; these TFDS data sets must be prepared."""
    datasets: Annotated[tuple[str, ...] | None, option("NAME ...", "small digits, paper all")] = None
    """Only these data sets: digits and mnist (a subset of 10,000 images, a small CNN) for small, cifar10 and cifar100 for paper."""
    rows: Annotated[tuple[str, ...] | None, option("ROW ...", "all of the preset")] = None
    """Only these rows, e.g. --rows "v (.)" "v (s)" "v,c (2s)*" (a minus may stand first in reports, not here), or by table and row, e.g. --rows 2.5 4.3. A setup that the preset does not have is added."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "each row's own")] = None
    """Seeds of initialisation, data order and attacks, e.g. --seeds 0 1 2."""
    epochs: Annotated[int | None, option("N", "each row's own")] = None
    """Epochs of every row."""
    generated: Annotated[tuple[str, ...] | None, option("FILE|SETTING=FILE ...", "needed for paper")] = None
    """npz files with generated images (image, label) that fill 80 % of every batch: one for all, or e.g. cifar10_linf=20m.npz cifar10_l2=50m.npz cifar100_linf=c100.npz; none: train on original images only."""
    recipe: Literal["text", "code"] = "text"
    """Where the printed text and the public code differ: momentum 0.9 or cycled between 0.95 and 0.85, and for l2 training steps of 32/255 or 25.6/255."""
    accumulate: Annotated[int | None, option("N", "small 1, paper 4")] = None
    """Parts that a batch is split into to save memory. Batch norm sees one part at a time: 512 images in the published runs."""
    output: Annotated[Path | None, option("FOLDER", "runs/focused_training/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "focused_training" / self.preset


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
        chosen = presets.small(config.datasets or ("digits",))
    else:
        chosen = tuple(setting for setting in presets.paper() if setting.dataset in (config.datasets or known))
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
                setting, cycle_momentum=True, training_step=presets.CODE_L2_STEP if setting.norm == "l2" else None
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
        return presets.paper_setup(text, setting.table, setting.reference, None)
    return presets.small_setup(text, presets.THREE_SEEDS, None, first.epochs)


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
