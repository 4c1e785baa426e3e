"""What the optimizer-robustness study runs: its command line, and the settings behind its presets.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust.reporting import CommandError, option

from . import published

Part = Literal["compare", "frequencies", "bands", "linear", "lipschitz"]
PARTS: tuple[Part, ...] = ("compare", "frequencies", "bands", "linear", "lipschitz")
OPTIMIZERS = ("sgd", "momentum", "adam", "rmsprop", "sign_sgd", "adagrad", "adamw")


# The help shows line breaks of docstrings as they are, hence the long lines.
@dataclass(frozen=True)
class Config:
    """Train the same networks with different optimizers and compare how robust they are.

    Parts: compare (clean, noise and adversarial accuracy), frequencies (training on filtered images), bands (noise in
    one frequency band), linear (the least-squares model with an irrelevant frequency), lipschitz (upper bounds), or
    all of them. Finished work is kept in the output folder and not done again.
    """

    part: Annotated[Literal["compare", "frequencies", "bands", "linear", "lipschitz", "all"], tyro.conf.Positional] = (
        "all"
    )
    """Which part to run. Negative controls, on which the published effect is not expected, belong to all (or to any part, if --datasets names theirs)."""
    preset: Literal["small", "paper"] = "small"
    """small: bundled digits, minutes on two CPU cores. paper: the published data sets, networks and settings, for an accelerator; its TFDS data sets must be prepared."""
    datasets: Annotated[tuple[str, ...] | None, option("NAME ...", "all of the preset")] = None
    """Only these data sets, e.g. --datasets digits28 or --datasets mnist cifar10. One that the preset does not have is added."""
    optimizers: Annotated[tuple[str, ...] | None, option("NAME ...", "the preset's")] = None
    """Only these optimizers: sgd, momentum, adam, rmsprop, sign_sgd, adagrad, adamw. sgd, with which the others are compared, is always included."""
    learning_rates: Annotated[tuple[float, ...] | None, option("RATE ...", "the preset's")] = None
    """Candidate learning rates for every optimizer; the one of highest held-out accuracy is used. A single one is used as it is."""
    seeds: Annotated[tuple[int, ...] | None, option("SEED ...", "the preset's")] = None
    """Seeds of initialisation and data order, e.g. --seeds 0 1 2."""
    epochs: Annotated[int | None, option("N", "each setting's own")] = None
    """Passes over the training data."""
    model: Annotated[str | None, option("NAME", "each setting's own")] = None
    """Network: linear, mlp, small_cnn, cnn4, cnn6, cnn8, preact_resnet18, resnet10, resnet18, resnet50, wide_resnet, wrn_28_10, wrn_34_10, vit_small, vit_b16, swin_t, swin_b, convnext_tiny, convnext_base, m5."""
    output: Annotated[Path | None, option("FOLDER", "runs/optimizer_robustness/PRESET")] = None
    """Folder for results, report and figures."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""
    vit_weights: Annotated[Path | None, option("FILE", "leave that setting out")] = None
    """npz checkpoint of the ImageNet-1k ViT-B/16 whose head the preset paper trains."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.output if self.output is not None else Path("runs") / "optimizer_robustness" / self.preset


@dataclass(frozen=True)
class Setting:
    """One data set and network, trained with several optimizers.

    Attributes:
        name: identifies the setting's cells on disk.
        dataset: a name of :func:`jaxrobust.data.load`.
        model: a name of :func:`jaxrobust.models.create`, with ``options``.
        parts: the parts of the study it takes part in.
        rates: optimizer to candidate learning rates.
        seeds: seeds of the networks that are reported.
        selection_seeds: seeds of the networks that choose the learning rate.
        epochs: passes over the training data; the rate falls to a tenth at 50 % and a hundredth at 75 % of them.
        drop_last: leave out the last partial batch.
        gaussian: noise variances, mildest first, in squared pixel units.
        l2, linf: budgets of the attacks, mildest first.
        attack: ``auto_attack`` (the standard version), or ``pgd`` (cross-entropy, random start, ``attack_steps``).
        attacked: how many test images are attacked, from the first; all by default.
        draws: noise draws per image.
        average: which Gaussian, l2 and l-infinity severities make up the averaged robust accuracy.
        top_k: accuracy by the ``top_k`` largest logits.
        band_variance: variance per coefficient of the band noise.
        empty_variances: variances of the noise on the empty frequencies of the data (DCT-upsampled digits).
        reference: key of the published rows to compare with, e.g. ``"mnist"``.
        head_only: train the last layer alone, on a pretrained vision transformer.
        trained_as: name of the setting whose networks are used, where it is another one.
        control: the published effect is not expected here; claims are reported, not counted, and a part run alone leaves
            the setting out.
    """

    name: str
    dataset: str
    model: str
    rates: Mapping[str, tuple[float, ...]]
    parts: tuple[Part, ...] = ("compare",)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    selection_seeds: tuple[int, ...] = (0, 1)
    epochs: int = 200
    batch_size: int = 128
    drop_last: bool = False
    schedule: Literal["step", "warmup_cosine"] = "step"
    gaussian: tuple[float, ...] = ()
    l2: tuple[float, ...] = ()
    linf: tuple[float, ...] = ()
    attack: Literal["auto_attack", "pgd"] = "auto_attack"
    attack_steps: int = 20
    attacked: int | None = None
    draws: int = 1
    average: tuple[int, int, int] = (-1, -1, -1)
    top_k: int = 1
    band_variance: float = 0.01
    empty_variances: tuple[float, ...] = ()
    reference: str = "mnist"
    published_table: str = "main"
    head_only: bool = False
    trained_as: str | None = None
    control: bool = False


def _around(rate: float) -> tuple[float, ...]:
    """The published rate and its neighbours on the grid {1, 2, 5} x 10^k."""
    steps = [base * 10.0**power for power in range(-6, 3) for base in (1, 2, 5)]
    nearest = min(range(len(steps)), key=lambda i: abs(steps[i] / rate - 1))
    return tuple(float(f"{step:.6g}") for step in steps[nearest - 1 : nearest + 2])


_SPEC_RATES = {"sgd": 0.1, "adam": 5e-4, "rmsprop": 5e-4, "sign_sgd": 5e-4}
_THREE = ("sgd", "adam", "rmsprop")


def _small() -> tuple[Setting, ...]:
    selected = {name: _around(rate) for name, rate in _SPEC_RATES.items()}
    fixed = {name: (rate,) for name, rate in _SPEC_RATES.items()}
    return (
        Setting(  # S2
            name="digits_dct16_linear",
            dataset="digits_dct16",
            model="linear",
            options={"initializer": "zeros"},
            rates={**fixed, "momentum": (0.05,)},
            parts=("bands",),
            epochs=100,
            drop_last=True,
            empty_variances=(0.5, 2.0),
            band_variance=1.0,
        ),
        Setting(  # S3
            name="digits_dct16_mlp",
            dataset="digits_dct16",
            model="mlp",
            options={"widths": (128,)},
            rates=selected,
            parts=("compare", "bands", "lipschitz"),
            seeds=(0, 1, 2, 3, 4),
            epochs=100,
            drop_last=True,
            gaussian=(0.1, 0.3),
            l2=(0.5, 1.0),
            linf=(0.05, 0.1),
            attacked=100,
            draws=5,
            empty_variances=(0.5, 2.0),
            band_variance=1.0,
        ),
        Setting(  # S4
            name="digits28_mlp",
            dataset="digits28",
            model="mlp",
            options={"widths": (128,)},
            rates={name: selected[name] for name in _THREE},
            parts=("compare", "bands", "lipschitz"),
            epochs=60,
            gaussian=(0.1, 0.3),
            l2=(0.5, 1.0),
            linf=(0.05, 0.07),
            attacked=200,
            band_variance=0.3,
        ),
        Setting(  # S5
            name="digits_mlp",
            dataset="digits",
            model="mlp",
            options={"widths": (128,)},
            rates={"sgd": (0.1,)},
            parts=("frequencies",),
            epochs=60,
        ),
        Setting(  # S6
            name="digits_dct16_cnn4",
            dataset="digits_dct16",
            model="cnn4",
            rates={name: fixed[name] for name in _THREE},
            parts=("bands", "lipschitz"),
            seeds=(0, 1),
            epochs=40,
            empty_variances=(1.0,),
            band_variance=1.0,
        ),
        Setting(  # S7
            name="digits_cnn4",
            dataset="digits",
            model="cnn4",
            rates={name: fixed[name] for name in _THREE},
            parts=("compare", "lipschitz"),
            epochs=50,
            gaussian=(0.1,),
            l2=(0.5,),
            linf=(0.05,),
            attack="pgd",
            control=True,
        ),
    )


def _paper() -> tuple[Setting, ...]:
    settings = []
    momentum = ("cifar10", "cifar100", "svhn", "caltech101", "imagenette")  # table 4.7
    for name, recipe in published.RECIPES.items():
        gaussian, l2, linf = published.SEVERITIES[name]
        rates = {optimizer: (rate,) for optimizer, rate in recipe.rates.items()}
        top5 = name in ("cifar100", "caltech101")
        reference = f"{name}_top5" if top5 else name
        audio = name == "speech_commands"
        base = Setting(
            name=name,
            dataset=name,
            model=recipe.model,
            rates=rates,
            gaussian=gaussian,
            l2=l2,
            linf=linf,
            attacked=1000,
            reference=name,
            average=published.AVERAGED.get(reference, (-1, -1, -1)),
            published_table="audio" if audio else "main",
        )
        with_momentum = {**rates, "momentum": rates["sgd"]} if name in momentum else rates
        parts: tuple[Part, ...] = ("compare",) if audio else ("compare", "frequencies", "bands", "lipschitz")
        settings.append(replace(base, rates=with_momentum, parts=parts))
        if top5:
            settings.append(replace(base, name=reference, trained_as=name, top_k=5, reference=reference))
        if name in momentum:  # table 4.4
            settings.append(
                replace(
                    base,
                    name=f"{name}_batch_norm",
                    options={"batch_norm": True},
                    published_table="batch_norm",
                )
            )
    imagenette = next(setting for setting in settings if setting.name == "imagenette")
    settings.append(  # table 4.5
        replace(
            imagenette,
            name="imagenette_vit_b16_head",
            model="vit_b16",
            parts=("compare",),
            rates=dict.fromkeys(_THREE, (0.01,)),
            epochs=10,
            batch_size=512,
            schedule="warmup_cosine",
            published_table="vit",
            head_only=True,
        )
    )
    return tuple(settings)


def settings(config: Config) -> tuple[Setting, ...]:
    """The preset's settings with the command line's changes.

    Raises:
        CommandError: for an optimizer, data set, learning rate, seed or number of epochs that makes no sense, naming what
            is possible.
    """
    _check(config)
    chosen = list(_small() if config.preset == "small" else _paper())
    if config.vit_weights is None:
        chosen = [setting for setting in chosen if not setting.head_only]
    if config.datasets is not None:
        known = {setting.dataset for setting in chosen}
        chosen = [setting for setting in chosen if setting.dataset in config.datasets]
        chosen += [_new_setting(name, config) for name in config.datasets if name not in known]
    result = []
    for setting in chosen:
        rates = dict(setting.rates)
        if config.optimizers is not None:
            usual = {"sgd": 0.1, "momentum": 0.05, "adagrad": 0.01}
            names = dict.fromkeys(("sgd", *config.optimizers))
            rates = {name: rates.get(name, _around(usual.get(name, 5e-4))) for name in names}
        if config.learning_rates is not None:
            rates = dict.fromkeys(rates, tuple(config.learning_rates))
        setting = replace(setting, rates=rates)
        if config.seeds is not None:
            setting = replace(setting, seeds=tuple(config.seeds))
        if config.epochs is not None:
            setting = replace(setting, epochs=config.epochs)
        if config.model is not None and config.model != setting.model:
            setting = replace(setting, model=config.model, options={})
        result.append(setting)
    return tuple(result)


def _check(config: Config) -> None:
    for name in config.optimizers or ():
        if name not in OPTIMIZERS:
            raise CommandError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
    for rate in config.learning_rates or ():
        if not 0 < rate < float("inf"):
            raise CommandError(f"learning rates must be finite and above 0, got {rate:g}")
    for name in ("datasets", "optimizers", "learning_rates", "seeds"):
        if getattr(config, name) == ():
            raise CommandError(f"--{name.replace('_', '-')} was given no value")
    if config.seeds is not None and (min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds)):
        raise CommandError(f"seeds must be different and at least 0, got {' '.join(map(str, config.seeds))}")
    if config.epochs is not None and config.epochs < 1:
        raise CommandError(f"epochs must be at least 1, got {config.epochs}")
    if config.vit_weights is not None and (config.preset != "paper" or config.model is not None):
        raise CommandError(
            "--vit-weights belongs to a setting of --preset paper with a network of its own: leave out --model"
        )
    for path, name in ((config.data_dir, "--data-dir"), (config.vit_weights, "--vit-weights")):
        if path is not None and not path.exists():
            raise CommandError(f"{name}: {path} does not exist")


def _new_setting(name: str, config: Config) -> Setting:
    """A data set that the preset does not have."""
    small = config.preset == "small"
    if name in published.SEVERITIES and name in published.RECIPES:
        paper = next(setting for setting in _paper() if setting.dataset == name)
        if not small:
            return paper
        return replace(
            paper,
            parts=("compare", "bands", "lipschitz"),
            # The published rates belong to the published network, which a quick run may replace.
            rates={optimizer: _around(paper.rates[optimizer][0]) for optimizer in _THREE},
            epochs=20,
            attacked=200,
        )
    return Setting(
        name=name,
        dataset=name,
        model=config.model or "small_cnn",
        rates={optimizer: _around(rate) for optimizer, rate in _SPEC_RATES.items() if optimizer in _THREE},
        epochs=60 if small else 200,
        gaussian=(0.01, 0.1),
        l2=(0.5, 1.0),
        linf=(0.05, 0.1),
        attacked=100 if small else 1000,
    )


def identity(config: Config, chosen: tuple[Setting, ...]) -> dict[str, Any]:
    """What decides the numbers in a folder: everything but the part, the paths and how it is shown."""
    weights = None if config.vit_weights is None else config.vit_weights.name
    return {"preset": config.preset, "vit_weights": weights, "settings": {s.name: asdict(s) for s in chosen}}
