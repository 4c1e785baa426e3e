"""The preset ``paper``: the published runs on ImageNet. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from .presets import NAMES, TARGETS
from .rows import Row, Setting, Target

Recipe = Literal["code", "text"]


_CONTROLS: tuple[Target, ...] = ("ones", "other_edges")


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
        for target in _CONTROLS
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
        (("batch_norm", True),),
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
