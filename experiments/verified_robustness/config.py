"""What the study of verified robustness runs: its command line.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxrobust.reporting import CommandError, option

from . import paper, presets
from .rows import PARTS, Part, Setting

DATASETS = {"small": tuple(presets.SMALL), "paper": ("mnist", "cifar10")}


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train networks for provable robustness in eleven ways, and say how robust each is: attacked, certified by Fast-Lin, CROWN and IBP, and exactly.

    Parts: relu (tables 3.6 and 3.7), smooth (sigmoid and tanh, table 3.8), search (bound calculations to find the largest certified radius, table 3.9),
    figures (certified radius by budget, parameters and radii: figures 3.6, 3.8 and 3.9). Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: 8x8 digits, minutes on two CPU cores. paper: MNIST and CIFAR-10 with FC1 and the CNN and the published settings, for accelerators."""
    dataset: Annotated[str | None, option("NAME", "small digits, paper both")] = None
    """small: digits, or mnist with smaller networks and fewer images. paper: mnist or cifar10 alone."""
    settings: Annotated[tuple[str, ...] | None, option("NAME ...", "all of the preset")] = None
    """Only these networks and threat models. digits: linf, deep, l2, sigmoid, tanh. mnist: fc1, cnn. paper: e.g. mnist_fc1_linf, cifar10_cnn_l2, mnist_fc1_tanh_linf."""
    parts: Annotated[tuple[str, ...] | None, option("PART ...", "all")] = None
    """Only these parts: relu, smooth, search, figures."""
    rows: Annotated[tuple[str, ...] | None, option("ROW ...", "all of the preset")] = None
    """Only these ways to train, and those that they start from: plain, at, kw, ibp, crown_ibp, mmr, mmr_at, l_per, l_per_at, i_per, i_per_at ..."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "each setting's own")] = None
    """Seeds of initialisation, data order and the random numbers of training, e.g. --seeds 0 1 2."""
    epochs: Annotated[int | None, option("N", "each setting's own")] = None
    """Epochs of every row."""
    examples: Annotated[int | None, option("N", "each setting's own")] = None
    """Training images, drawn by class."""
    tested: Annotated[int | None, option("N", "each setting's own")] = None
    """Test images, from the first."""
    exact_images: Annotated[int | None, option("N", "each setting's own")] = None
    """Test images, from the first, that get an exact answer; 0 for none."""
    exact_seconds: Annotated[float | None, option("SECONDS", "digits 2, mnist 5, paper 60")] = None
    """Time limit of the exact answer for each image. What takes longer is reported as a time-out."""
    workers: Annotated[int | None, option("N", "one per processor, up to 4")] = None
    """Rows that are trained and measured at the same time, in threads, for small on CPU. Numbers do not depend on it, but for time-outs."""
    output: Annotated[Path | None, option("FOLDER", "runs/verified_robustness/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "verified_robustness" / self.preset


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for a data set, setting, row, seed or number that makes no sense, naming what is possible.
    """
    _check(config)
    if config.preset == "small":
        chosen = presets.SMALL[config.dataset or "digits"]()
    else:
        chosen = tuple(one for one in paper.paper() if config.dataset in (None, one.dataset))
    names = [setting.name for setting in chosen]
    for name in config.settings or ():
        if name not in names:
            raise CommandError(f"unknown setting {name!r}; there are {', '.join(names)}")
    chosen = tuple(setting for setting in chosen if config.settings is None or setting.name in config.settings)
    return tuple(_changed(config, setting) for setting in _with_rows(chosen, config.rows))


def parts(config: Config, chosen: tuple[Setting, ...]) -> tuple[Part, ...]:
    """The parts to run, in the order of the report.

    Raises:
        CommandError: for a part that the settings do not have.
    """
    known = tuple(part for part in PARTS if any(part in setting.parts for setting in chosen))
    for part in config.parts or ():
        if part not in known:
            raise CommandError(f"unknown part {part!r}; these settings have {', '.join(known)}")
    return tuple(part for part in known if config.parts is None or part in config.parts)


def _changed(config: Config, setting: Setting) -> Setting:
    """The setting with what was given."""
    given = {
        name: getattr(config, name)
        for name in ("seeds", "epochs", "examples", "tested", "exact_seconds")
        if getattr(config, name) is not None
    }
    if config.exact_images is not None and setting.exact_images:
        given["exact_images"] = config.exact_images
    return replace(setting, **given)


def _with_rows(chosen: tuple[Setting, ...], names: tuple[str, ...] | None) -> tuple[Setting, ...]:
    """The settings with the rows that were asked for and those that they start from."""
    if names is None:
        return chosen
    known = {row.name: None for setting in chosen for row in setting.rows}
    for name in names:
        if name not in known:
            raise CommandError(f"unknown row {name!r}; there are {', '.join(known)}")
    kept = []
    for setting in chosen:
        wanted = {start for row in setting.rows if row.name in names for start in (row.name, row.start)}
        if wanted:
            kept.append(replace(setting, rows=tuple(row for row in setting.rows if row.name in wanted)))
    return tuple(kept)


def _check(config: Config) -> None:
    known = DATASETS[config.preset]
    if config.dataset is not None and config.dataset not in known:
        raise CommandError(
            f"unknown data set {config.dataset!r}; the preset {config.preset} has {' and '.join(known)}, give another --preset for the others"
        )
    for name in ("settings", "parts", "rows", "seeds"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    for name in ("epochs", "examples", "tested", "workers"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise CommandError(f"{name} must be at least 1, got {value}")
    if config.exact_images is not None and config.exact_images < 0:
        raise CommandError(f"exact-images must be at least 0, got {config.exact_images}")
    if config.exact_seconds is not None and not config.exact_seconds > 0:
        raise CommandError(f"exact-seconds must be above 0, got {config.exact_seconds}")
    if config.workers is not None and config.workers > 1 and config.preset == "paper":
        raise CommandError("--workers belongs to --preset small; a run of paper has all devices to itself")
    if config.data_dir is not None and not config.data_dir.exists():
        raise CommandError(f"--data-dir: {config.data_dir} does not exist")


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but paths and how it is run."""
    return {"preset": config.preset, "settings": {setting.name: asdict(setting) for setting in chosen}}
