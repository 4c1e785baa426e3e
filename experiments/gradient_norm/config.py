"""What the gradient-norm study runs: its command line.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxrobust.reporting import CommandError, option

from . import paper, presets
from .rows import PARTS, Part, Row, Setting


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train networks by the norm of their input gradients, or by its direction, and compare them with adversarial training.

    Parts: robustness (methods and activations, tables 4.1, 4.2 and 4.4), training (schedules, labels, warm-up), geometry (curvature and local
    linearity, tables A.1 and A.2), edges (correlation with edges, edge alignment and its controls, table 5.1), colour (gradients by colour channel).
    Finished work is kept in the output folder and not done again.
    """

    preset: Literal["small", "paper"] = "small"
    """small: bundled digits, minutes on two CPU cores. paper: Swin-B and ResNet-50 on ImageNet from pretrained weights, for accelerators."""
    datasets: Annotated[tuple[str, ...] | None, option("NAME ...", "small digits, paper needs one")] = None
    """small: digits, mnist (10,000 images) and cifar10 (5,000 images, the part colour). paper: the folder of ImageNet, with train/ and val/ and one folder of images per class in each."""
    parts: Annotated[tuple[str, ...] | None, option("PART ...", "all that the data set has")] = None
    """Only these parts: robustness, training, geometry, edges, colour."""
    rows: Annotated[tuple[str, ...] | None, option("ROW ...", "all of the preset")] = None
    """Only these rows, e.g. --rows gradient_norm_gelu adversarial_gelu, and those that they start from."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "each row's own")] = None
    """Seeds of initialisation, data order and attacks, e.g. --seeds 0 1 2."""
    epochs: Annotated[int | None, option("N", "each row's own")] = None
    """Epochs of every row that is trained."""
    weights: Annotated[tuple[str, ...] | None, option("NETWORK=FILE ...", "needed for paper")] = None
    """Pretrained ImageNet weights, e.g. --weights swin_b=swin.safetensors resnet50=resnet.pth, with PyTorch's names (timm) or this library's."""
    recipe: Literal["code", "text"] = "code"
    """Where printed text and public code differ: gradients of gradient-norm and edge runs on ImageNet clipped to norm 1, or not."""
    attacked: Annotated[int | None, option("N", "small 40 or 50, paper 5000")] = None
    """How many test images AutoAttack gets, from the first."""
    accumulate: Annotated[int, option("N")] = 1
    """Parts that a batch is split into to save memory, for paper."""
    workers: Annotated[int | None, option("N", "one per processor, up to 4")] = None
    """Rows that are trained and measured at the same time, in threads, for small on CPU. Numbers do not depend on it."""
    output: Annotated[Path | None, option("FOLDER", "runs/gradient_norm/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "gradient_norm" / self.preset


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for a data set, row, seed or number that makes no sense, naming what is possible.
    """
    _check(config)
    if config.preset == "small":
        names = config.datasets or ("digits",)
        for name in names:
            if name not in presets.SMALL:
                raise CommandError(
                    f"unknown data set {name!r}; the preset small has {', '.join(presets.SMALL)}; ImageNet's folder "
                    "belongs to --preset paper"
                )
        chosen = tuple(presets.SMALL[name]() for name in names)
    else:
        if config.datasets is None or len(config.datasets) != 1:
            raise CommandError(
                "the preset paper fine-tunes on ImageNet: name its folder, with train/ and val/, as --datasets FOLDER"
            )
        chosen = (paper.paper(config.datasets[0], config.recipe),)
    return tuple(_changed(config, setting) for setting in _with_rows(chosen, config.rows) if setting.rows)


def parts(config: Config, chosen: tuple[Setting, ...]) -> tuple[Part, ...]:
    """The parts to run, in the order of the report.

    Raises:
        CommandError: for a part that the settings do not have.
    """
    known = tuple(part for part in PARTS if any(part in setting.parts for setting in chosen))
    for part in config.parts or ():
        if part not in known:
            raise CommandError(f"unknown part {part!r}; these data sets and rows have {', '.join(known)}")
    return tuple(part for part in known if config.parts is None or part in config.parts)


def weights(config: Config) -> dict[str, Path]:
    """Network to its file.

    Raises:
        CommandError: for what is not ``NETWORK=FILE``, or a file that does not exist.
    """
    files: dict[str, Path] = {}
    for text in config.weights or ():
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise CommandError(f"--weights takes NETWORK=FILE, such as swin_b=swin.safetensors; got {text!r}")
        if not Path(file).is_file():
            raise CommandError(f"--weights: there is no file {file}")
        if name in files:
            raise CommandError(f"--weights names two files for {name}")
        files[name] = Path(file)
    return files


def _changed(config: Config, setting: Setting) -> Setting:
    """The setting with the numbers that were given."""

    def row(row: Row) -> Row:
        row = row if config.seeds is None else replace(row, seeds=tuple(config.seeds))
        return (
            row if config.epochs is None or not row.epochs else replace(row, epochs=config.epochs, schedule_epochs=None)
        )

    rows: tuple[tuple[Part, tuple[Row, ...]], ...]
    rows = tuple((part, tuple(map(row, rows))) for part, rows in setting.rows)
    return replace(setting, rows=rows, attacked=config.attacked or setting.attacked, accumulate=config.accumulate)


def _with_rows(chosen: tuple[Setting, ...], names: tuple[str, ...] | None) -> tuple[Setting, ...]:
    """The settings with the rows that were asked for and those that they start from."""
    if names is None:
        return chosen
    known = {row.name: row for setting in chosen for row in setting.all_rows()}
    for name in names:
        if name not in known:
            raise CommandError(f"unknown row {name!r}; there are {', '.join(known)}")
    wanted = {start for name in names for start in (name, known[name].start)}
    return tuple(
        replace(
            setting,
            rows=tuple(
                (part, kept)
                for part, rows in setting.rows
                if (kept := tuple(row for row in rows if row.name in wanted))
            ),
        )
        for setting in chosen
    )


def _check(config: Config) -> None:
    for name in ("datasets", "parts", "rows", "seeds", "weights"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    for name in ("epochs", "attacked", "accumulate", "workers"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise CommandError(f"{name} must be at least 1, got {value}")
    for name, given in (("weights", config.weights is not None), ("accumulate", config.accumulate > 1)):
        if given and config.preset != "paper":
            raise CommandError(
                f"--{name} belongs to --preset paper; the networks of small start from random parameters"
            )
    if config.workers is not None and config.workers > 1 and config.preset == "paper":
        raise CommandError("--workers belongs to --preset small; a run of paper has all devices to itself")
    if config.data_dir is not None and not config.data_dir.exists():
        raise CommandError(f"--data-dir: {config.data_dir} does not exist")


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but paths and how it is run."""
    return {
        "preset": config.preset,
        "weights": {name: file.name for name, file in weights(config).items()},
        "settings": {setting.name: asdict(setting) for setting in chosen},
    }
