"""The rows: how their networks are trained, and what is measured on them. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from .published import LABELS

Method = Literal["standard", "adversarial", "trades", "mart", "mma", "foar", "soar"]
Measure = Literal["long", "judge", "parts", "l2", "samples"]
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Row:
    """How one row's networks are trained, and what is measured on them beside the cheap columns. Hashable.

    Attributes:
        name: identifies the row's cells on disk, and its published row.
        method: what is minimised.
        start: name of the row whose networks it starts from, seed by seed; random weights by default.
        text: what it is called where the study has no such row.
        epochs, learning_rate: of training.
        drops: pairs of a fraction of training and the factor on the learning rate from there on.
        point, product, clip: see :func:`jaxrobust.losses.soar`.
        mean_clip: limit of the penalty's mean over the batch.
        norm: of the threat model that is trained for.
        radius: of the training attack, in units of that threat model's; MMA's largest margin.
        steps: of the training attack; 1 is FGSM from a random start.
        beta: weight of the divergence in TRADES and MART.
        model, options: network, where it is not the setting's.
        measures: ``long`` (PGD100 and on), ``judge`` (AutoAttack), ``parts`` (its four attacks one by one, at the radius and at
            half of it), ``l2`` and ``samples`` (the objective with more random vectors).
        brief: measure clean, PGD20 and targeted accuracy alone of the cheap columns: another network compiles all anew.
        seed_offset: added to the setting's seeds.
        select: keep the epoch of highest PGD20 accuracy on held-out training images; for ``engine="fit"``.
        shown: whether it is a row of the report, or only needed for others.
    """

    name: str
    method: Method
    start: str | None = None
    text: str = ""
    epochs: int = 60
    learning_rate: float = 0.1
    drops: tuple[tuple[float, float], ...] = ((0.5, 0.1),)
    point: Literal["zero", "rand", "pgd1"] = "pgd1"
    product: Literal["finite_difference", "exact"] = "finite_difference"
    clip: float | None = 10.0
    mean_clip: float | None = None
    norm: Literal["linf", "l2"] = "linf"
    radius: float = 1.0
    steps: int = 10
    beta: float = 6.0
    model: str | None = None
    options: Options | None = None
    measures: tuple[Measure, ...] = ("judge",)
    brief: bool = False
    seed_offset: int = 0
    select: bool = False
    shown: bool = True

    @property
    def label(self) -> str:
        """What the row is called in reports."""
        return self.text or LABELS[self.name]


def digits() -> tuple[Row, ...]:
    """The reference setting of the specification's section 8."""
    tuned: dict[str, Any] = {"start": "standard", "learning_rate": 0.02}
    smooth: dict[str, Any] = {**tuned, "start": "standard_softplus", "brief": True}
    narrow: dict[str, Any] = {**tuned, "brief": True, "measures": ()}
    masked: dict[str, Any] = {**tuned, "learning_rate": 0.05, "epochs": 200}
    everything: tuple[Measure, ...] = ("long", "parts")
    starts = {
        "standard_16": (("widths", (16, 16)),),
        "standard_64": (("widths", (64, 64)),),
        "standard_softplus": (("activation", "softplus:10"), ("widths", (256, 256))),
    }
    return (
        Row("standard", "standard", measures=("long", "judge", "l2")),
        *(Row(name, "standard", text=name, options=options, shown=False) for name, options in starts.items()),
        Row("surrogate_r", "standard", text="R", seed_offset=100, shown=False),
        Row("surrogate_w", "standard", text="W", seed_offset=100, options=(("widths", (512, 512)),), shown=False),
        Row("pgd10", "adversarial", measures=(*everything, "l2")),
        Row("trades", "trades", measures=everything),
        Row("mart", "mart", beta=5.0, measures=everything),
        Row("mma", "mma", radius=1.5, measures=everything),
        Row("pgd1", "adversarial", radius=0.5, steps=1, text="PGD1 of ε/2, no penalty", **tuned),
        Row("foar_zero", "foar", point="zero", measures=("long", "judge"), **tuned),
        Row("foar_rand", "foar", point="rand", measures=("long", "judge"), **tuned),
        Row("foar_pgd1", "foar", measures=everything, **tuned),
        Row("soar_zero", "soar", point="zero", **tuned),
        Row("soar_rand", "soar", point="rand", **tuned),
        Row("soar_pgd1", "soar", measures=(*everything, "l2", "samples"), **tuned),
        Row("soar_exact", "soar", product="exact", text="SOAR, exact product", **tuned),
        Row("soar_long", "soar", text="SOAR, 200 epochs", measures=("judge", "samples"), **{**tuned, "epochs": 200}),
        Row("masked_zero", "soar", point="zero", text="SOAR, zero, rate 0.05, 200 epochs", **masked),
        Row("masked_rand", "soar", point="rand", text="SOAR, rand, rate 0.05, 200 epochs", **masked),
        Row("masked_pgd1", "soar", text="SOAR, rate 0.05, 200 epochs", **masked),
        Row("soar_no_clip", "soar", clip=None, text="SOAR, no clip", measures=(), **tuned),
        Row(
            "soar_mean_clip",
            "soar",
            clip=None,
            mean_clip=10.0,
            text="SOAR, mean clipped",
            measures=(),
            **tuned,
        ),
        *(
            Row(
                f"soar_{width}",
                "soar",
                text=f"SOAR, width {width}",
                options=starts[f"standard_{width}"],
                **{**narrow, "start": f"standard_{width}"},
            )
            for width in (16, 64)
        ),
        Row("softplus_fd", "soar", text="SOAR, softplus", options=starts["standard_softplus"], **smooth),
        Row(
            "softplus_exact",
            "soar",
            product="exact",
            text="SOAR, softplus, exact product",
            options=starts["standard_softplus"],
            **smooth,
        ),
        Row("pgd10_l2", "adversarial", norm="l2", measures=("judge", "l2")),
    )


def mnist() -> tuple[Row, ...]:
    """Fewer of them, with ten epochs. PGD10 does not train from random weights here, and starts from Standard as well."""
    scratch = ("standard", "surrogate_r", "surrogate_w")
    tuned = ("pgd10", "pgd1", "foar_pgd1", "soar_zero", "soar_rand", "soar_pgd1", "soar_exact")
    parts, wide = ("pgd10", "foar_pgd1", "soar_pgd1"), (("features", (32, 64, 64)),)
    found = []
    for row in (row for row in digits() if row.name in scratch + tuned):
        row = replace(row, epochs=10, measures=("parts",) if row.name in parts else ("judge",), options=None)
        if row.name in tuned:
            row = replace(row, start="standard", learning_rate=0.01)
        else:
            row = replace(row, learning_rate=0.05, options=wide if row.name == "surrogate_w" else None)
        found.append(replace(row, text="PGD10, from Standard") if row.name == "pgd10" else row)
    return tuple(found)


def cifar10() -> tuple[Row, ...]:
    """Every published row, with the published recipes (table 4.1 of the specification)."""
    scratch: dict[str, Any] = {"epochs": 200, "learning_rate": 0.1, "drops": ((0.5, 0.1), (0.75, 0.1))}
    shorter: dict[str, Any] = {
        "epochs": 120,
        "learning_rate": 0.1,
        "drops": ((75 / 120, 0.1), (90 / 120, 0.1), (100 / 120, 0.1)),
    }
    tuned: dict[str, Any] = {"start": "standard", "epochs": 200, "learning_rate": 0.004, "drops": ((0.5, 0.1),)}
    margin: dict[str, Any] = {
        "epochs": round(50_000 / 391),
        "learning_rate": 0.3,
        "drops": ((0.4, 0.3), (0.6, 1 / 3), (0.8, 0.3)),
    }
    everything: tuple[Measure, ...] = ("long", "parts")
    return (
        Row("standard", "standard", measures=("long", "judge", "l2"), **scratch),
        Row("standard_cnn6", "standard", text="CNN6", model="cnn6", shown=False, **scratch),
        Row("standard_cnn8", "standard", text="CNN8", model="cnn8", shown=False, **scratch),
        Row("surrogate_r", "standard", text="R", seed_offset=100, shown=False, **scratch),
        Row("surrogate_w", "standard", text="W", model="wrn_34_10", seed_offset=100, shown=False, **scratch),
        Row("pgd10", "adversarial", measures=everything, select=True, **scratch),
        Row("trades", "trades", measures=everything, **shorter),
        Row("mart", "mart", beta=5.0, measures=everything, **shorter),
        Row("mma", "mma", radius=1.5, measures=everything, **margin),
        Row("foar_zero", "foar", point="zero", measures=("long", "judge"), **tuned),
        Row("foar_rand", "foar", point="rand", measures=("long", "judge"), **tuned),
        Row("foar_pgd1", "foar", measures=everything, **tuned),
        Row("soar_zero", "soar", point="zero", **tuned),
        Row("soar_rand", "soar", point="rand", **tuned),
        Row("soar_pgd1", "soar", measures=(*everything, "l2", "samples"), **tuned),
        Row("soar_cnn6", "soar", model="cnn6", measures=("long", "judge"), **{**tuned, "start": "standard_cnn6"}),
        Row("soar_cnn8", "soar", model="cnn8", measures=("long", "judge"), **{**tuned, "start": "standard_cnn8"}),
        Row("pgd10_l2", "adversarial", norm="l2", measures=("judge", "l2"), select=True, **scratch),
        Row("trades_l2", "trades", norm="l2", measures=("judge", "l2"), **shorter),
    )
