"""What the SOAR study runs: its command line, and the settings behind its presets.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxrobust.reporting import CommandError, option

from . import presets
from .presets import Setting
from .rows import Row

DATASETS = {"small": ("digits", "mnist"), "paper": ("cifar10",)}


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train networks with SOAR, its first-order relative FOAR and adversarial training, and attack them in many ways.

    SOAR adds to the loss an estimate of how much its second-order expansion can rise near an image. The report has every published table beside ours, the
    study's claims with verdicts, and a flag wherever an attack without gradients beats one with them: AutoAttack is the judge.
    Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: bundled digits, minutes on two CPU cores. paper: CIFAR-10 (TFDS) with ResNet-10, CNN6 and CNN8 and the published recipes, for accelerators."""
    datasets: Annotated[tuple[str, ...] | None, option("NAME ...", "small digits, paper cifar10")] = None
    """digits and mnist (10,000 training images, fewer rows, a small CNN) for small, cifar10 for paper."""
    rows: Annotated[tuple[str, ...] | None, option("ROW ...", "all of the preset")] = None
    """Only these rows, e.g. --rows pgd10 foar_pgd1 soar_zero soar_pgd1. Networks that they start from, and that images are transferred from, are trained as well."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "small 0 1 2, paper 0")] = None
    """Seeds of initialisation, data order and training's random numbers."""
    epochs: Annotated[int | None, option("N", "each row's own")] = None
    """Epochs of every row."""
    workers: Annotated[int | None, option("N", "one per processor, up to 4")] = None
    """Rows that are trained and measured at the same time, in threads, for small on CPU. Numbers do not depend on it."""
    output: Annotated[Path | None, option("FOLDER", "runs/soar/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "soar" / self.preset


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for a data set, row, seed, folder or number that makes no sense, naming what is possible.
    """
    _check(config)
    names = DATASETS[config.preset]
    for name in config.datasets or ():
        if name not in names:
            raise CommandError(
                f"unknown data set {name!r}; the preset {config.preset} has {' and '.join(names)}, give another --preset for "
                "the others"
            )
    chosen = presets.small(config.datasets or ("digits",)) if config.preset == "small" else presets.paper()
    known = {row.name: None for setting in chosen for row in setting.rows if row.shown}
    for name in config.rows or ():
        if name not in known:
            raise CommandError(f"unknown row {name!r}; choose from {', '.join(known)}")
    result = []
    for setting in chosen:
        if config.rows is not None:
            setting = replace(setting, rows=_with_needed(setting, config.rows))
        if config.seeds is not None:
            setting = replace(setting, seeds=config.seeds)
        if config.epochs is not None:
            setting = replace(setting, rows=tuple(replace(row, epochs=config.epochs) for row in setting.rows))
        if any(row.shown for row in setting.rows):
            result.append(setting)
    return tuple(result)


def _with_needed(setting: Setting, names: tuple[str, ...]) -> tuple[Row, ...]:
    """The rows of these names, those they start from (not shown unless asked for), and the surrogates."""
    starts = {row.start for row in setting.rows if row.name in names}
    rows = []
    for row in setting.rows:
        if row.name in names:
            rows.append(row)
        elif row.name in starts or row.name.startswith("surrogate"):
            rows.append(replace(row, shown=False))
    return tuple(rows)


def _check(config: Config) -> None:
    for name in ("datasets", "rows", "seeds"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    for name in ("epochs", "workers"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise CommandError(f"{name} must be at least 1, got {value}")
    if config.workers is not None and config.workers > 1 and config.preset == "paper":
        raise CommandError("--workers belongs to --preset small; a run of paper has all devices to itself")
    if config.data_dir is not None and not config.data_dir.exists():
        raise CommandError(f"--data-dir: {config.data_dir} does not exist")


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but the paths and how it is run."""
    return {"preset": config.preset, "settings": {setting.name: asdict(setting) for setting in chosen}}
