"""What the study of non-uniform bounds runs: its command line, and the settings behind its presets.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxrobust.reporting import CommandError, option

from . import presets
from .presets import Plane, Setting

DATASETS = {"small": ("digits", "mnist"), "paper": ("mnist", "fashion_mnist", "svhn")}


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Certify a radius for each pixel instead of one for all, of plainly and of adversarially trained networks, and compare their volumes and shapes.

    The report has both published tables beside ours and the study's claims with verdicts. Figures show the certified sets in the plane, and maps of radii.
    Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: bundled digits and points in the plane, minutes on two CPU cores. paper: MNIST, Fashion-MNIST and SVHN (TFDS) with the published networks, for accelerators."""
    datasets: Annotated[tuple[str, ...] | None, option("NAME ...", "small digits, paper all")] = None
    """digits and mnist (narrow networks) for small; mnist, fashion_mnist and svhn for paper."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "small 0 to 4, on mnist 0 1 2, paper 0")] = None
    """Seeds of initialisation, data order and training's random numbers."""
    epochs: Annotated[int | None, option("N", "each setting's own")] = None
    """Epochs of every network."""
    images: Annotated[int | None, option("N", "small 60, on mnist 40, paper 1000")] = None
    """Images that are certified of each network: the first test images that it classifies correctly."""
    steps: Annotated[int | None, option("N", "small 400, paper 1000")] = None
    """Steps of the search for radii."""
    workers: Annotated[int | None, option("N", "one per processor, up to 4")] = None
    """Rows that are trained and certified at the same time, in threads, for small on CPU. Numbers do not depend on it."""
    output: Annotated[Path | None, option("FOLDER", "runs/nonuniform_budgets/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "nonuniform_budgets" / self.preset


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for a data set, seed, folder or number that makes no sense, naming what is possible.
    """
    _check(config)
    names = DATASETS[config.preset]
    for name in config.datasets or ():
        if name not in names:
            raise CommandError(
                f"unknown data set {name!r}; the preset {config.preset} has {', '.join(names)}, give another --preset for "
                "the others"
            )
    chosen = (
        presets.small(config.datasets or ("digits",))
        if config.preset == "small"
        else presets.paper(config.datasets or names)
    )
    return tuple(_changed(config, setting) for setting in chosen)


def _changed(config: Config, setting: Setting) -> Setting:
    """The setting with the numbers that were given."""
    images, steps = config.images or setting.images, config.steps or setting.steps
    return replace(
        setting,
        seeds=config.seeds or setting.seeds,
        epochs=config.epochs or setting.epochs,
        images=images,
        steps=steps,
        brief_steps=min(setting.brief_steps, steps),
        chunk=min(setting.chunk, images),
    )


def plane(config: Config) -> Plane:
    """The points in the plane, trained to the published accuracy by the preset paper."""
    chosen = Plane() if config.preset == "small" else Plane(epochs=1100, steps=1000)
    return replace(
        chosen,
        seeds=config.seeds or chosen.seeds,
        epochs=config.epochs or chosen.epochs,
        steps=config.steps or chosen.steps,
    )


def _check(config: Config) -> None:
    for name in ("datasets", "seeds"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    for name, least in (("epochs", 1), ("images", 4), ("steps", 1), ("workers", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise CommandError(f"{name} must be at least {least}, got {value}")
    if config.workers is not None and config.workers > 1 and config.preset == "paper":
        raise CommandError("--workers belongs to --preset small; a run of paper has all devices to itself")
    if config.data_dir is not None and not config.data_dir.exists():
        raise CommandError(f"--data-dir: {config.data_dir} does not exist")


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but the paths and how it is run."""
    return {
        "preset": config.preset,
        "plane": asdict(plane(config)),
        "settings": {setting.name: asdict(setting) for setting in chosen},
    }
