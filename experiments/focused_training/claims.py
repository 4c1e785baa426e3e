"""The study's claims about training, each with a published number, ours, and a verdict."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.study import Claim, holds, paired_difference, verdict, verdict_alike

from . import published
from .focus import Sets
from .outcomes import Outcome, Outcomes, Seed, common_seeds, difference
from .presets import Setting

Value = Literal["pgd", "robust"]
Reference = tuple[int, int]
"""Published table and row."""


class Comparison(NamedTuple):
    """A claim that row ``a`` is above row ``b``.

    Attributes:
        text: the claim.
        a, b: setups.
        value: PGD-40 on the focus set, or AutoAttack on the test images.
        rows: the published rows of ``a`` and ``b`` to stand beside settings that the study did not use.
        counted: whether the published study makes the claim.
    """

    text: str
    a: str
    b: str
    value: Value
    rows: tuple[Reference, Reference] | None = None
    counted: bool = True


COMPARISONS = (
    Comparison("PGD-40 on v rises when v is trained on", "-v' (v)", "-v (v)", "pgd", ((2, 2), (2, 1))),
    Comparison("PGD-40 on s rises when s is trained on", "-v (s)", "-s (s)", "pgd", ((2, 5), (2, 4))),
    Comparison("PGD-40 on the most robust rises when they are trained on", "-v (most)", "-most (most)", "pgd"),
    Comparison("PGD-40 on s rises further when its PGD-40 examples are trained on", "-v (s)*", "-v (s)", "pgd", ((4, 3), (4, 2))),
    Comparison("PGD-40 on the most robust rises further in the same way", "-v (most)*", "-v (most)", "pgd"),
    Comparison("PGD-40 on 2s rises further when its PGD-40 examples are trained on", "c (2s)*", "c (2s)", "pgd"),
    Comparison("PGD-40 on s: its PGD-40 examples above its clean images, seen equally often", "-v (s)*", "-v (s)+", "pgd", counted=False),
    Comparison("AutoAttack on test images rises when s is trained on", "-v (s)", "-s (s)", "robust", ((2, 5), (2, 4))),
    Comparison("AutoAttack on test images rises by version c", "-v,c (s)", "-v (v)", "robust", ((2, 10), (2, 1))),
    Comparison("AutoAttack on test images rises by focus on 2s and version c", "c (2s)", "(2v)", "robust"),
    Comparison("AutoAttack on test images rises by emulated focus on 2s and version c", "c (2s)*", "(2v)", "robust"),
)  # fmt: skip
MOST, LEAST = "-v (most)", "-v (s)"
CONTROL, EMULATED = "-v (.)", "-v (s)*"
UNRESOLVED = 3.0
"""Points of test robustness that a small study cannot resolve."""
FACTOR = 15.0
"""Points by which the most robust images must be ahead of the least robust ones."""


def low_rate_epoch(epochs: int) -> int:
    """After how many epochs the last part of most learning-rate versions begins."""
    return 5 * epochs // 6


def make(setting: Setting, sets: Sets, outcomes: Outcomes, check: dict[str, Any] | None) -> list[Claim]:
    """All claims whose rows the setting has."""
    claims = [_certificate(setting, sets)]
    if MOST in outcomes and LEAST in outcomes:
        claims.append(_least_and_most(setting, outcomes[MOST], outcomes[LEAST]))
    claims += [
        _comparison(setting, comparison, outcomes[comparison.a], outcomes[comparison.b])
        for comparison in COMPARISONS
        if comparison.a in outcomes and comparison.b in outcomes
    ]
    if CONTROL in outcomes and EMULATED in outcomes:
        claims.append(_alike(setting, outcomes[EMULATED], outcomes[CONTROL]))
    if check is not None:
        claims.append(_monitored(setting, check))
    claims += [
        _rise(setting, outcome)
        for outcome in outcomes.values()
        if outcome.setup.mode == "monitor" and (outcome.setup.hold_out, outcome.setup.focus) == ("v", "s")
    ]
    return claims


def gap(setting: Setting, comparison: Comparison) -> tuple[float, str] | None:
    """The published difference, and where it is from."""
    if setting.table is not None:
        a, b = (published.find(setting.table, setting.reference, text) for text in (comparison.a, comparison.b))
        where = f"table {setting.table}"
    elif comparison.rows is not None:
        (table, first), (_, second) = comparison.rows
        a, b = published.row(table, first), published.row(table, second)
        where = f"{published.LABELS[a.setting]}, table {table}, rows {first} and {second}"
    else:
        return None
    if a is None or b is None:
        return None
    if comparison.value == "robust":
        return a.last[1] - b.last[1], where
    return (a.pgd or 0) - (b.pgd or 0), where


def robust(seed: Seed) -> float:
    """Accuracy under AutoAttack on the test images, last weights."""
    return seed.last[1]


def pgd(seed: Seed) -> float:
    """Accuracy under PGD-40 on the focus set, last weights."""
    return seed.pgd_last


def _certificate(setting: Setting, sets: Sets) -> Claim:
    radii = sets.robustness[sets.robustness > 0] / 2
    share = 100 * float((sets.robustness / 2 > setting.eps).mean())
    return Claim(
        f"{setting.name}: a classifier that is robust on all training images exists (nearest neighbour, certified)",
        f"{published.CLOSEST_PAIR / 2:.4f} > 8/255 = {8 / 255:.4f} (CIFAR-10 l∞)" if setting.norm == "linf" else "",
        f"smallest half distance {radii.min():.5f}, radius {setting.eps:.4g}; certified {share:.2f} %",
        "",
        holds(bool(share == 100)),
    )


def _least_and_most(setting: Setting, most: Outcome, least: Outcome) -> Claim:
    found = difference(most, least, pgd)
    ratio = np.mean(most.values(pgd)) / max(float(np.mean(least.values(pgd))), 1e-9)
    return Claim(
        f"{setting.name}: PGD-40 on the most robust training images at least {FACTOR:g} points above the least robust",
        "factor of about 2 (figure 1 (b))",
        f"{found}; factor {ratio:.2f}",
        "",
        verdict(found, at_least=FACTOR),
    )


def _comparison(setting: Setting, comparison: Comparison, a: Outcome, b: Outcome) -> Claim:
    found = difference(a, b, robust if comparison.value == "robust" else pgd)
    theirs = gap(setting, comparison)
    return Claim(
        f"{setting.name}: {comparison.text}; {comparison.a} above {comparison.b}",
        "not studied" if theirs is None else f"{theirs[0]:+.2f} ({theirs[1]})",
        str(found),
        "" if theirs is None else f"{found.mean - theirs[0]:+.2f}",
        verdict(found),
        comparison.counted,
    )


def _alike(setting: Setting, emulated: Outcome, control: Outcome) -> Claim:
    found = difference(emulated, control, robust)
    theirs = gap(setting, Comparison("", "c (2s)*", "c (2s)", "robust", ((4, 3), (4, 2))))
    return Claim(
        f"{setting.name}: AutoAttack on test images with and without focus within {UNRESOLVED:g} points; "
        f"{EMULATED} and {CONTROL}",
        "" if theirs is None else f"{theirs[0]:+.2f} ({theirs[1]})",
        f"{found.interval}, {len(common_seeds(emulated, control))} seeds",
        "" if theirs is None else f"{found.mean - theirs[0]:+.2f}",
        verdict_alike(found, within=UNRESOLVED),
    )


def _monitored(setting: Setting, check: dict[str, Any]) -> Claim:
    sets = [", ".join(check[name]) for name in ("before", "again")]
    return Claim(
        f"{setting.name}: which set is monitored has no influence on the weights",
        "leak alleged",
        f"{check['weights']} weights after training with {sets[0]} and with {sets[1]} monitored: largest difference "
        f"{check['largest_difference']:g}",
        "",
        holds(check["identical"]),
    )


def _rise(setting: Setting, outcome: Outcome) -> Claim:
    begin = low_rate_epoch(outcome.setup.epochs)
    histories = [seed.tracked["s"] for seed in outcome.seeds.values()]
    found = paired_difference([history[-1] for history in histories], [history[begin - 1] for history in histories])
    return Claim(
        f"{setting.name}: PGD-40 on s rises while the learning rate is small, learning rate {outcome.setup.version}; last "
        f"epoch above epoch {begin}",
        "rises (in words)",
        str(found),
        "",
        verdict(found),
    )
