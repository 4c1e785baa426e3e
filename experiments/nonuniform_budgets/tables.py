"""Tables of the report: the published rows beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.study import estimate
from jaxrobust.reporting import Table

from . import published
from .outcomes import Outcome, Outcomes
from .presets import VARIANTS, Row, Setting, Variant

STARTS = {
    "direction": "common direction, no search",
    "uniform_brief": "uniform, short search",
    "direction_brief": "common direction, short search",
    "whole": "uniform, whole search",
}


def shown(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard error over seeds."""
    mean, error = estimate(values)
    return f"{mean:.{digits}f}" if math.isnan(error) else f"{mean:.{digits}f} ± {error:.{digits}f}"


def counterpart(setting: Setting, row: Row) -> published.Row | None:
    """The published row beside one of ours: equal training radius, networks of the setting's reference."""
    if setting.reference is None or row.eps not in (0, published.TRAINING_EPS):
        return None
    return published.ROWS[setting.reference]["robust" if row.eps else "vanilla"]


def _reference(setting: Setting) -> str:
    assert setting.reference is not None
    dataset, width = setting.reference
    return f"{published.TITLES[dataset]}, 3 x {width}, published"


def radii(setting: Setting, outcomes: Outcomes) -> Table:
    """Table 3.2."""
    rows = []
    for outcome in outcomes.values():
        values = outcome.values["linf"]
        images = sum(values["images"]), sum(values["images"]) + sum(values["left_out"])
        rows.append(
            [
                outcome.row.label,
                shown(outcome.accuracies["clean"], 2),
                shown(outcome.accuracies["pgd"], 2),
                f"{images[0]:.0f} of {images[1]:.0f}",
                shown(values["uniform"]),
                shown(values["nonuniform"]),
                shown(_ratios(values["gain"]), 3),
            ]
        )
        theirs = counterpart(setting, outcome.row)
        if theirs is not None:
            numbers = (f"{theirs.uniform:.4f}", f"{theirs.nonuniform:.4f}", f"{theirs.ratio:.3f}")
            rows.append(
                [f"{outcome.row.label} ({_reference(setting)})", f"{theirs.accuracy:.2f}", "", "not stated", *numbers]
            )
    return Table(
        "Table 3.2: certified l∞ radii, geometric mean over pixels and mean over images",
        ("training", "accuracy (%)", "under PGD-20 of 0.1 (%)", "certified images", "uniform", "non-uniform", "ratio"),
        rows,
    )


def _ratios(gains: Sequence[float]) -> list[float]:
    return [1 + value / 100 for value in gains]


def cosines(setting: Setting, outcomes: Outcomes) -> Table:
    """Table 3.3."""
    rows = []
    for outcome in outcomes.values():
        values = outcome.values["linf"]
        rows.append(
            [
                outcome.row.label,
                *(shown(values[name]) for name in ("mean_cosine", "min_cosine", "shuffled_cosine")),
            ]
        )
        theirs = counterpart(setting, outcome.row)
        if theirs is not None:
            numbers = (f"{theirs.mean_cosine:.4f}", f"{theirs.min_cosine:.4f}")
            rows.append([f"{outcome.row.label} ({_reference(setting)})", *numbers, "not studied"])
    return Table(
        "Table 3.3: cosines of the radii of all pairs of images; and their mean if pixels were in random order",
        ("training", "mean", "smallest", "mean, shuffled"),
        rows,
    )


def spreads(outcomes: Outcomes) -> Table:
    """Figure 3.4 in numbers."""
    rows = []
    for outcome in outcomes.values():
        values, eps = outcome.values["linf"], outcome.row.eps
        relative = shown([value / eps for value in values["largest"]], 2) if eps else ""
        shares = [100 * float((one.radii > eps).mean()) for one in outcome.found["linf"]] if eps else None
        rows.append(
            [
                outcome.row.label,
                shown(values["largest"], 3),
                relative,
                "" if shares is None else shown(shares, 1),
                shown(values["spread"], 3),
                shown(values["neighbours"], 3),
            ]
        )
    return Table(
        "Figures 3.4 and 3.5 in numbers: radii of single pixels, mean over images",
        (
            "training",
            "largest radius",
            "in units of the training radius",
            "pixels above it (%)",
            "spread (decades)",
            "correlation of neighbours",
        ),
        rows,
    )


def variants(outcomes: Outcomes) -> Table | None:
    """What is certified otherwise; ``None`` where nothing is."""
    rows = [
        [f"{outcome.row.label}: {VARIANTS[variant]}", *_variant(outcome, variant)]
        for outcome in outcomes.values()
        for variant in VARIANTS
        if variant in outcome.values and len(outcome.values) > 1
    ]
    if not rows:
        return None
    return Table(
        "By norm, and by whether margins are bounded as such (the last layer is elided) or as differences of bounds of logits",
        ("training: certified", "uniform", "non-uniform", "ratio", "mean cosine", "smallest cosine"),
        rows,
    )


def _variant(outcome: Outcome, variant: Variant) -> list[str]:
    values = outcome.values[variant]
    return [
        shown(values["uniform"]),
        shown(values["nonuniform"]),
        shown(_ratios(values["gain"]), 3),
        shown(values["mean_cosine"]),
        shown(values["min_cosine"]),
    ]


def starts(setting: Setting, outcomes: Outcomes) -> Table:
    """What the direction of other images' radii is worth."""
    rows = [[outcome.row.label, *(shown(outcome.starts[name], 2) for name in STARTS)] for outcome in outcomes.values()]
    return Table(
        "Non-uniform above uniform radius (%) on the second half of the images, by start; the common direction is that of the "
        f"first half's radii, a short search has {setting.brief_steps} steps of {setting.steps}",
        ("training", *STARTS.values()),
        rows,
    )
