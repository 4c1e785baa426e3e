"""The preset ``small``: which networks are trained on which data, and how. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from .rows import Labels, Part, Row, Setting, Target

FOUR_SEEDS = (0, 1, 2, 3)
NAMES = {"gelu": "GELU", "silu": "SiLU", "relu": "ReLU"}
TARGETS: dict[Target, str] = {
    "edges": "edges",
    "ones": "constant 1",
    "noise": "fixed |noise|",
    "signed_noise": "fixed signed noise",
    "other_edges": "another image's edges",
    "image": "the image itself",
    "magnitude": "edges, |gradient|",
}


def _natural(activation: str = "gelu") -> Row:
    return Row(f"natural_{activation}", f"natural, {NAMES[activation]}", "natural", activation=activation)


def _gradient_norm(activation: str = "gelu") -> Row:
    label = f"gradient norm, {NAMES[activation]}"
    return Row(f"gradient_norm_{activation}", label, "gradient_norm", activation=activation)


def _adversarial(activation: str = "gelu") -> Row:
    label = f"PGD-3, {NAMES[activation]}"
    return Row(f"adversarial_{activation}", label, "adversarial", activation=activation)


def digits() -> Setting:
    """The bundled digits, 8x8 pixels: setting D of the small-scale reproduction."""
    more: dict[str, Any] = {"seeds": FOUR_SEEDS}  # what the study's main claims rest on
    natural, norm, attack = (replace(row, **more) for row in (_natural(), _gradient_norm(), _adversarial()))
    natural = replace(natural, judged=3)
    norm, attack = (replace(row, radii=(1.0, 2.0)) for row in (norm, attack))
    robustness = (
        natural,
        norm,
        attack,
        _gradient_norm("silu"),
        _adversarial("silu"),
        replace(_gradient_norm("relu"), **more),
        replace(_adversarial("relu"), **more),
    )
    return Setting(
        name="digits",
        dataset="digits",
        eps=0.1,
        rows=(
            ("robustness", robustness),
            ("training", (*_schedules(), *_labels(), *_warmup())),
            ("geometry", (natural, norm, attack)),
            ("edges", (natural, norm, attack, *_alignment())),
        ),
        attacked=40,
        attack_batch=40,
        edge_options=(("preset", "thesis"), ("sigma", 0.7), ("radius", 2), ("root", True), ("post_blur", False)),
    )


def _schedules() -> tuple[Row, ...]:
    """Warm-up, cosine and ramp at a rate at which ReLU networks train well."""
    schedule: dict[str, Any] = {
        "schedule": "cosine",
        "warmup_epochs": 5,
        "learning_rate": 2e-3,
        "epochs": 30,
        "judged": 1,
    }
    rows = []
    for activation in ("gelu", "relu"):
        row = replace(_gradient_norm(activation), **schedule)
        name = f"gradient norm, {NAMES[activation]}"
        rows.append(replace(row, name=f"schedule_cnn_{activation}", label=f"{name}, CNN, 2e-3 with warm-up"))
        mlp = replace(row, model="mlp", options=(("widths", (128, 128)),), judged=0)
        rows.append(replace(mlp, name=f"schedule_mlp_{activation}", label=f"{name}, MLP, 2e-3 with warm-up"))
    return tuple(rows)


def _labels() -> tuple[Row, ...]:
    """How sure the labels are, with an MLP."""
    rows = []
    kinds: tuple[Labels, ...]
    for row, kinds in (
        (_gradient_norm(), ("hard", "smoothed", "mixed")),
        (_adversarial(), ("hard", "mixed")),
    ):
        method = row.label.partition(",")[0]
        for labels in kinds:
            changes: dict[str, Any] = {
                "name": f"labels_{row.method}_{labels}",
                "label": f"{method}, MLP, {labels} labels",
            }
            judged = 1 if row.method == "gradient_norm" else 0
            mlp = replace(row, model="mlp", options=(("widths", (128, 128)),), epochs=40, labels=labels, judged=judged)
            rows.append(replace(mlp, **changes))
    return tuple(rows)


def _warmup() -> tuple[Row, ...]:
    """Warm-up of rate and penalty against none, at high rates."""
    rows = []
    runs: tuple[tuple[Literal["adamw", "sgd"], str, float], ...]
    runs = (("adamw", "gelu", 2e-2), ("adamw", "relu", 2e-2), ("sgd", "gelu", 0.1))
    for optimizer, activation, rate in runs:
        for epochs in (5, 0) if optimizer == "adamw" else (0,):
            how = "with warm-up" if epochs else "no warm-up"
            rows.append(
                replace(
                    _gradient_norm(activation),
                    name=f"warmup_{optimizer}_{activation}_{epochs}",
                    label=f"gradient norm, {NAMES[activation]}, {optimizer} {rate:g}, {how}",
                    optimizer=optimizer,
                    schedule="cosine",
                    warmup_epochs=epochs,
                    learning_rate=rate,
                    judged=0,
                )
            )
    return tuple(rows)


def _alignment() -> tuple[Row, ...]:
    """Edge alignment, its controls, and the same recipe without."""
    row = replace(
        _natural(),
        name="align_nothing",
        label="aligned with nothing",
        schedule="cosine",
        warmup_epochs=5,
        learning_rate=2e-3,
        epochs=40,
        edge_weight=(1.0, 0.2, 12.0),
        seeds=FOUR_SEEDS,
    )
    aligned = (
        replace(
            row,
            name=f"align_{target}",
            label=f"aligned with {text}",
            method="edges",
            target=target,
            seeds=FOUR_SEEDS if target == "edges" else FOUR_SEEDS[:3],
        )
        for target, text in TARGETS.items()
    )
    return (row, *aligned)


def _strided(warmup_epochs: int, epochs: int) -> dict[str, Any]:
    """What larger images change in a row. Without a long warm-up gradient norm finds the constant classifier."""
    options = (("strides", (2, 2)),)
    rate = {"schedule": "cosine", "warmup_epochs": warmup_epochs, "learning_rate": 2e-3}
    return {"options": options, **rate, "epochs": epochs}


def mnist() -> Setting:
    """A subset of MNIST: the main comparison again."""
    changes = _strided(warmup_epochs=8, epochs=10)
    rows = (_natural(), _gradient_norm(), _adversarial(), _gradient_norm("relu"), _adversarial("relu"))
    natural, norm, attack, *relu = (replace(row, **changes) for row in rows)
    three = (natural, norm, attack)
    parts: tuple[tuple[Part, tuple[Row, ...]], ...] = (("robustness", (*three, *relu)), ("geometry", three))
    return Setting("mnist", "mnist", 0.1, parts, subset=10_000, attacked=50, evaluated=500, evaluation_batch=250)


def cifar10() -> Setting:
    """A subset of CIFAR-10: sizes of gradients by colour channel."""
    changes = _strided(warmup_epochs=20, epochs=30)
    rows = tuple(replace(row, **changes) for row in (_natural(), _gradient_norm(), _adversarial()))
    parts: tuple[tuple[Part, tuple[Row, ...]], ...] = (("colour", rows),)
    return Setting("cifar10", "cifar10", 4 / 255, parts, subset=5000, attacked=50, evaluated=500, evaluation_batch=250)


SMALL = {"digits": digits, "mnist": mnist, "cifar10": cifar10}
