"""The study's claims about what input gradients are like: geometry and edges."""

from __future__ import annotations

import numpy as np

from experiments.study import Claim, above, alike

from . import published, statistics
from .presets import TARGETS
from .results import Results, Values, difference, log10, profiles
from .rows import Row, find

_SIZES = {
    "l2": "‖∇L‖₂",
    "hessian": "spectral norm of the Hessian",
    "curvature": "normalised curvature",
    "linearity": "local linearity error",
}
_TABLES = {"curvature": "table A.1", "linearity": "table A.2"}


def geometry(results: Results) -> list[Claim]:
    """Tables A.1 and A.2, figure A.3."""
    natural, norm, attack = results.three("geometry")
    claims = [
        above(
            f"{text} smaller: {row.label} below natural training (mean log10)",
            difference(
                results.mean(statistics.geometry, natural, name, log10),
                results.mean(statistics.geometry, row, name, log10),
            ),
            (
                _published_log(name, "natural") - _published_log(name, row.method),
                _TABLES.get(name, "table A.1, log10 of means"),
            ),
        )
        for name, text in _SIZES.items()
        for row in (norm, attack)
        if natural and row
    ]
    if norm and attack:
        claims += _robust_two(results, norm, attack)
    return claims


def _published_log(name: str, method: str) -> float:
    if name == "linearity":
        return published.TABLE_A_2[method][1][0]
    row = published.TABLE_A_1[method]
    return row.log_curvature[0] if name == "curvature" else float(np.log10(getattr(row, name)[0]))


def _robust_two(results: Results, norm: Row, attack: Row) -> list[Claim]:
    theirs = published.TABLE_A_1
    claims = [
        alike(
            "curvature of the two robust networks alike: mean log10 within 0.1",
            difference(
                results.mean(statistics.geometry, norm, "curvature", log10),
                results.mean(statistics.geometry, attack, "curvature", log10),
            ),
            0.1,
            (_published_log("curvature", "gradient_norm") - _published_log("curvature", "adversarial"), "table A.1"),
        ),
        above(
            "local linearity error of gradient norm above PGD-3 training (mean log10)",
            difference(
                results.mean(statistics.geometry, norm, "linearity", log10),
                results.mean(statistics.geometry, attack, "linearity", log10),
            ),
            (_published_log("linearity", "gradient_norm") - _published_log("linearity", "adversarial"), "table A.2"),
        ),
    ]
    for name, text, first, second in (
        ("l2", "‖∇L‖₂ varies more over images: deviation of gradient norm above PGD-3 training", norm, attack),
        ("curvature", "curvature varies less: deviation of PGD-3 training above gradient norm", attack, norm),
    ):
        gap = getattr(theirs[first.method], name)[1] - getattr(theirs[second.method], name)[1]
        a, b = (_deviation(results, row, name) for row in (first, second))
        claims.append(above(text, difference(a, b), (gap, "table A.1")))
    losses = {row: profiles(results, row, "loss") for row in (norm, attack)}
    for index, text, first, second in (
        (0, "loss at the image: PGD-3 training above gradient norm", attack, norm),
        (-1, "loss at twice the attack: gradient norm above PGD-3 training", norm, attack),
    ):
        a, b = ({seed: float(values[index]) for seed, values in losses[row].items()} for row in (first, second))
        claims.append(above(text, difference(a, b)))
        claims[-1].published = "figure A.3"
    return claims


def _deviation(results: Results, row: Row, name: str) -> Values:
    return {seed: float(values.std()) for seed, values in results.images(statistics.geometry, row, name).items()}


def edges(results: Results) -> list[Claim]:
    """Table 5.1 and the controls."""
    claims: list[Claim] = []
    rows = results.setting.of("edges")
    natural, norm, attack = results.three("edges")
    if natural is not None:
        before = {name: results.mean(statistics.edge_agreement, natural, name) for name in ("saliency", "gradient")}
        for row in (norm, attack):
            for name, text in (("saliency", "saliency"), ("gradient", "loss gradient")) if row else ():
                assert row is not None
                after = results.mean(statistics.edge_agreement, row, name)
                gap = getattr(published.TABLE_5_1[row.method], name) - getattr(published.TABLE_5_1["natural"], name)
                what = f"correlation of {text} with edges: {row.label} at least 0.1 above natural training"
                claims.append(above(what, difference(after, before[name]), (gap, "table 5.1"), at_least=0.1))
        zero = dict.fromkeys(before["saliency"], 0.0)
        what = "correlation of saliency with edges negative for natural training (0 minus it above 0)"
        claims.append(above(what, difference(zero, before["saliency"]), (0.45, "table 5.1")))
    aligned = find(rows, method="edges", target="edges")
    base = find(rows, name="align_nothing") or natural
    if aligned is not None and base is not None:
        claims += _alignment(results, aligned, base, attack)
    return claims


def _alignment(results: Results, aligned: Row, base: Row, attack: Row | None) -> list[Claim]:
    theirs = published.TABLE_5_1
    claims = [
        above(
            "AutoAttack, aligned with edges above not aligned",
            difference(results.robust(aligned), results.robust(base)),
            (theirs["edges"].auto_attack - theirs["natural"].auto_attack, "table 5.1"),
        )
    ]
    if attack is not None:
        claims.append(
            above(
                "AutoAttack, PGD-3 training above aligned with edges",
                difference(results.robust(attack), results.robust(aligned)),
                (theirs["adversarial"].auto_attack - theirs["edges"].auto_attack, "table 5.1"),
            )
        )
    claims.append(
        alike(
            "clean accuracy of alignment with edges within 3 points of no alignment",
            difference(results.accuracy(aligned, "clean"), results.accuracy(base, "clean")),
            3.0,
            (theirs["edges"].clean - theirs["natural"].clean, "table 5.1"),
            counted=False,
        )
    )
    controls = [
        row for row in results.setting.of("edges") if row.method == "edges" and row.target not in ("edges", "magnitude")
    ]
    for row in controls:
        text = f"edges are the cause: AutoAttack, aligned with edges above aligned with {TARGETS[row.target]}"
        claims.append(above(text, difference(results.robust(aligned), results.robust(row)), counted=False))
    magnitude = find(results.setting.of("edges"), target="magnitude")
    if magnitude is not None:
        text = "the sign matters: AutoAttack, aligned with edges above the same with |gradient|"
        claims.append(above(text, difference(results.robust(aligned), results.robust(magnitude)), counted=False))
    text = "alignment by a common mode of the logits: its share, aligned with edges at least 0.3 above not aligned"
    a, b = (results.mean(statistics.edge_agreement, row, "common") for row in (aligned, base))
    claims.append(above(text, difference(a, b), at_least=0.3, counted=False))
    return claims
