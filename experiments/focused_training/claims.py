"""The study's claims about training, each with a published number, ours, and a verdict."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.study import Claim, above, holds, paired_difference, verdict, verdict_alike

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
        text: what ``a`` has before ``b``.
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
    Comparison("v trained on", "-v' (v)", "-v (v)", "pgd", ((2, 2), (2, 1))),
    Comparison("s trained on", "-v (s)", "-s (s)", "pgd", ((2, 5), (2, 4))),
    Comparison("most trained on", "-v (most)", "-most (most)", "pgd"),
    Comparison("s emulated", "-v (s)*", "-v (s)", "pgd", ((4, 3), (4, 2))),
    Comparison("most emulated", "-v (most)*", "-v (most)", "pgd"),
    Comparison("2s emulated", "c (2s)*", "c (2s)", "pgd"),
    Comparison("s emulated, not oversampled", "-v (s)*", "-v (s)+", "pgd", counted=False),
    Comparison("s trained on, v held out", "-v (s)", "-s (s)", "robust", ((2, 5), (2, 4))),
    Comparison("s trained on, v' held out", "-v' (v)", "-s (s)", "robust", ((2, 2), (2, 4)), counted=False),
    Comparison("version c", "-v,c (s)", "-v (v)", "robust", ((2, 10), (2, 1))),
    Comparison("version c, 2s monitored", "c (2s)", "(2v)", "robust"),
    Comparison("version c, 2s emulated", "c (2s)*", "(2v)", "robust"),
)
_NAMES: dict[Value, str] = {"pgd": "PGD-40", "robust": "AutoAttack"}
MOST, LEAST = "-v (most)", "-v (s)"
CONTROL, EMULATED = "-v (.)", "-v (s)*"
UNRESOLVED = 3.0
"""Points of test robustness that a small study cannot resolve."""


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
        claims.append(_monitored(check))
    for outcome in outcomes.values():
        setup = outcome.setup
        if setup.mode == "monitor" and (setup.hold_out, setup.focus) == ("v", "s"):
            claims.append(_rise(outcome, low_rate_epoch(setup.epochs)))
            if setup.version == "original":
                claims.append(_rise(outcome, max(1, setup.epochs // 2), counted=False))
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
        "a robust classifier of all training images exists (1-NN, certified)",
        f"{published.CLOSEST_PAIR / 2:.4f} > 8/255 = {8 / 255:.4f} (CIFAR-10 l∞)" if setting.norm == "linf" else "",
        f"smallest half distance {radii.min():.5f}, radius {setting.eps:.4g}; certified {share:.2f} %",
        "",
        holds(bool(share == 100)),
    )


def _least_and_most(setting: Setting, most: Outcome, least: Outcome) -> Claim:
    found = difference(most, least, pgd)
    ratio = np.mean(most.values(pgd)) / max(float(np.mean(least.values(pgd))), 1e-9)
    return Claim(
        f"PGD-40: {MOST} {f'at least {setting.lead:g} points ' if setting.lead else ''}above {LEAST}",
        "factor of about 2 (figure 1 (b))",
        f"{found}; factor {ratio:.2f}",
        "",
        verdict(found, at_least=setting.lead),
    )


def _comparison(setting: Setting, comparison: Comparison, a: Outcome, b: Outcome) -> Claim:
    found = difference(a, b, robust if comparison.value == "robust" else pgd)
    theirs = gap(setting, comparison)
    text = f"{comparison.text}: {_NAMES[comparison.value]}, {comparison.a} above {comparison.b}"
    return above(text, found, theirs, counted=comparison.counted)


def _alike(setting: Setting, emulated: Outcome, control: Outcome) -> Claim:
    found = difference(emulated, control, robust)
    theirs = gap(setting, Comparison("", "c (2s)*", "c (2s)", "robust", ((4, 3), (4, 2))))
    return Claim(
        f"s emulated: AutoAttack, {EMULATED} within {UNRESOLVED:g} points of {CONTROL}",
        "" if theirs is None else f"{theirs[0]:+.2f} ({theirs[1]})",
        f"{found.interval}, {len(common_seeds(emulated, control))} seeds",
        "" if theirs is None else f"{found.mean - theirs[0]:+.2f}",
        verdict_alike(found, within=UNRESOLVED),
    )


def _monitored(check: dict[str, Any]) -> Claim:
    before, again = (", ".join(check[name]) for name in ("before", "again"))
    return Claim(
        "monitoring changes no weights",
        "a leak is alleged",
        f"largest difference {check['largest_difference']:g} of {check['weights']} weights, with {before} and with {again} monitored",
        "",
        holds(check["identical"]),
    )


def _rise(outcome: Outcome, begin: int, counted: bool = True) -> Claim:
    epochs = outcome.setup.epochs
    window = max(1, epochs // 12)
    histories = [seed.tracked["s"] for seed in outcome.seeds.values()]
    found = paired_difference(
        [history[-window:].mean() for history in histories],
        [history[max(begin - window, 0) : begin].mean() for history in histories],
    )
    rate = "small learning rate" if counted else "falling learning rate"
    epochs_of = [f"{last - window + 1}-{last}" for last in (epochs, begin)]
    return Claim(
        f"{rate}, version {outcome.setup.version}: PGD-40 on s, epochs {epochs_of[0]} above {epochs_of[1]}",
        "rises (in words)",
        str(found),
        "",
        verdict(found),
        counted,
    )
