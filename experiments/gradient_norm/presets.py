"""The presets: which networks are trained on which data, and how. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from .rows import Labels, Part, Row, Setting, Target

FIVE_SEEDS = (0, 1, 2, 3, 4)
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
Recipe = Literal["code", "text"]


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
    more: dict[str, Any] = {"seeds": FIVE_SEEDS}  # what the study's main claims rest on
    natural, norm, attack = _natural(), replace(_gradient_norm(), **more), replace(_adversarial(), **more)
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
        attacked=50,
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
        mlp = replace(row, model="mlp", options=(("widths", (128, 128, 128, 128)),), judged=0)
        rows.append(replace(mlp, name=f"schedule_mlp_{activation}", label=f"{name}, MLP, 2e-3 with warm-up"))
    return tuple(rows)


def _labels() -> tuple[Row, ...]:
    """How sure the labels are, with an MLP."""
    rows = []
    kinds: tuple[Labels, ...]
    for row, kinds in (
        (_natural(), ("hard", "mixed")),
        (_gradient_norm(), ("hard", "smoothed", "mixed")),
        (_adversarial(), ("hard", "mixed")),
    ):
        method = row.label.partition(",")[0]
        for labels in kinds:
            changes: dict[str, Any] = {
                "name": f"labels_{row.method}_{labels}",
                "label": f"{method}, MLP, {labels} labels",
            }
            mlp = replace(row, model="mlp", options=(("widths", (128, 128)),), epochs=40, labels=labels, judged=1)
            rows.append(replace(mlp, **changes))
    return tuple(rows)


def _warmup() -> tuple[Row, ...]:
    """Warm-up of rate and penalty against none, at high rates."""
    rows = []
    runs: tuple[tuple[Literal["adamw", "sgd"], str, float], ...]
    runs = (("adamw", "gelu", 2e-2), ("adamw", "relu", 2e-2), ("sgd", "gelu", 0.1))
    for optimizer, activation, rate in runs:
        for epochs in (5, 0):
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
    )
    aligned = (
        replace(row, name=f"align_{target}", label=f"aligned with {text}", method="edges", target=target)
        for target, text in TARGETS.items()
    )
    return (row, *aligned)


def mnist() -> Setting:
    """A subset of MNIST: the main comparison again."""
    changes: dict[str, Any] = {"options": (("strides", (2, 2)),), "epochs": 5}
    rows = (_natural(), _gradient_norm(), _adversarial(), _gradient_norm("relu"), _adversarial("relu"))
    natural, norm, attack, *relu = (replace(row, **changes) for row in rows)
    three = (natural, norm, attack)
    parts: tuple[tuple[Part, tuple[Row, ...]], ...] = (("robustness", (*three, *relu)), ("geometry", three))
    return Setting("mnist", "mnist", 0.1, parts, subset=10_000, attacked=50, evaluated=500, evaluation_batch=250)


def cifar10() -> Setting:
    """A subset of CIFAR-10: sizes of gradients by colour channel."""
    changes: dict[str, Any] = {"options": (("strides", (2, 2)),)}
    rows = tuple(replace(row, **changes) for row in (_natural(), _gradient_norm(), _adversarial()))
    return Setting(
        "cifar10",
        "cifar10",
        4 / 255,
        (("colour", rows),),
        subset=5000,
        attacked=50,
        evaluated=500,
        evaluation_batch=250,
    )


SMALL = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def paper(dataset: str, recipe: Recipe = "code") -> Setting:
    """Swin-B and ResNet-50 on ImageNet, fine-tuned from pretrained weights.

    Args:
        dataset: ImageNet's folder.
        recipe: ``"code"`` clips the gradients of the gradient-norm and edge runs to norm 1, ``"text"`` does not.
    """
    clip = 1.0 if recipe == "code" else None
    swin = Row(
        "swin_natural",
        "Swin-B, natural",
        "natural",
        "swin_b",
        start="weights",
        epochs=0,
        seeds=(0,),
        radii=(1.0, 0.25, 0.5),
    )
    run = replace(swin, epochs=100, schedule="cosine", warmup_epochs=5, decay=0.9998)
    norm = replace(
        run,
        name="swin_gradient_norm",
        label="Swin-B, gradient norm",
        method="gradient_norm",
        batch_size=532,
        learning_rate=0.625e-3 * 532 / 512,
        warmup_rate=1e-5,
        clip=clip,
    )
    attack = replace(
        run, name="swin_adversarial", label="Swin-B, PGD-3", method="adversarial", batch_size=512, learning_rate=1.25e-3
    )
    edges = replace(
        norm, name="swin_edges", label="Swin-B, aligned with edges", method="edges", epochs=128, radii=(1.0,)
    )
    controls = tuple(
        replace(edges, name=f"swin_{target}", label=f"Swin-B, aligned with {TARGETS[target]}", target=target)
        for target in ("ones", "other_edges")
    )
    resnets = tuple(row for activation in ("relu", "gelu", "silu") for row in _resnet(activation, clip))
    three = (swin, norm, attack)
    return Setting(
        name="imagenet",
        dataset=dataset,
        eps=4 / 255,
        rows=(
            ("robustness", (*three, *resnets)),
            ("geometry", three),
            ("edges", (*three, edges, *controls)),
            ("colour", three),
        ),
        imagenet=True,
        engine="fit",
        attacked=5000,
        attack_batch=250,
        evaluated=10_000,
        evaluation_batch=250,
        pgd_steps=100,
        pgd_step=1 / 4,
        radii=tuple(number / 4 for number in range(1, 17)),
        geometry_images=3200,
        linearity_images=10_000,
        profile_images=1000,
        edge_images=10_000,
        normalized_edges=True,
    )


def _resnet(activation: str, clip: float | None) -> tuple[Row, ...]:
    """ResNet-50 with its ReLUs swapped: three epochs of natural training, then the two methods."""
    name = f"ResNet-50, {NAMES[activation]}"
    swapped = Row(
        f"resnet_swap_{activation}",
        f"{name}, natural, 3 epochs",
        "natural",
        "resnet50",
        activation=activation,
        start="weights",
        epochs=3,
        schedule_epochs=50,  # the rate still rises: it does not matter how long the cosine would be
        batch_size=256,
        learning_rate=6.25e-4,
        schedule="cosine",
        warmup_epochs=5,
        seeds=(0,),
    )
    run = replace(swapped, start=swapped.name, epochs=50, schedule_epochs=None, decay=0.9998)
    norm = replace(
        run,
        name=f"resnet_gradient_norm_{activation}",
        label=f"{name}, gradient norm",
        method="gradient_norm",
        loss_weight=0.5,
        penalty_weight=0.5,
        clip=clip,
    )
    attack = replace(run, name=f"resnet_adversarial_{activation}", label=f"{name}, PGD-3", method="adversarial")
    return swapped, norm, attack
