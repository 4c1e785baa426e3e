"""A setting's part of the report: its sets, its rows beside the published ones, counts, claims and figures."""

from __future__ import annotations

import numpy as np

from experiments.study import Section, estimate
from jaxrobust.reporting import Table

from . import claims, figures, published
from .focus import Sets
from .networks import Networks
from .outcomes import Outcome, Outcomes, collect, common_seeds
from .presets import Setting

_COUNTED = (("-v (s)", "-s (s)"), ("-v (s)*", "-v (s)"), ("c (2s)*", "c (2s)"))


def run(networks: Networks, setting: Setting) -> Section:
    """Train and attack the setting's networks and report on them."""
    sets = networks.sets(setting)
    outcomes = collect(networks, setting)
    check = None
    if setting.check_monitor:
        control = next((setup for setup in setting.setups if setup.run == "without_v"), None)
        check = None if control is None else networks.monitor_check(setting, control)
    section = Section(_title(setting), text=_text(networks, setting, sets, outcomes))
    section.tables = [_sets(setting, sets), _rows(setting, outcomes)]
    counts = _counts(setting, outcomes)
    if counts.rows:
        section.tables.append(counts)
    section.claims = claims.make(setting, sets, outcomes, check)
    for name, draw, caption in (
        ("curves", figures.curves, figures.CURVES),
        ("learning_rates", figures.learning_rates, figures.LEARNING_RATES),
    ):
        path = f"figures/{setting.name}_{name}"
        if draw(setting, outcomes, networks.run.folder / path):
            section.figures.append((path, caption))
    return section


def _title(setting: Setting) -> str:
    norm = {"linf": "l∞", "l2": "l2"}[setting.norm]
    pixels = setting.eps * 255
    radius = f"{pixels:.0f}/255" if abs(pixels - round(pixels)) < 1e-9 else f"{setting.eps:g}"
    table = "" if setting.table is None else f" (table {setting.table})"
    return f"{setting.dataset}, {norm}, radius {radius}{table}"


def _text(networks: Networks, setting: Setting, sets: Sets, outcomes: Outcomes) -> list[str]:
    dataset = networks.dataset(setting)
    attacked = len(dataset.test_labels[: setting.attacked])
    origin = {
        "digits": "The bundled digits, training and test images put together; the test images were drawn anew, by class, "
        "with seed 0.",
        "mnist": "A subset of MNIST's training images, drawn by class with seed 0.",
    }.get(setting.dataset, "")
    setup = next(iter(outcomes.values())).setup
    generated = "original images only" if setting.generated is None else f"generated images {setting.generated}"
    options = ", ".join(f"{name} {value}" for name, value in setting.options)
    text = [
        f"{origin} {len(dataset.train_labels)} training and {len(dataset.test_labels)} test images, {generated}. "
        f"{setting.model} ({options}), {setup.epochs} epochs of {setting.epoch_steps} updates with {setup.ordinary} images each, and "
        f"the focus images of a row with a mark on top. TRADES with beta {setting.beta:g}, label smoothing "
        f"{setting.label_smoothing:g}, PGD-{setting.train_steps}; SGD with Nesterov momentum, learning rate at most "
        f"{setting.peak_rate:g}; averaged weights. AutoAttack (standard version) on {_all_or_first(attacked, len(dataset.test_labels))} test images; PGD-"
        f"{setting.tracking_steps} with the margin loss on the sets.".strip(),
        _sharing(outcomes),
    ]
    if sets.conflicting:
        text.append(
            f"{sets.conflicting} training images coincide with a differently labelled one. They are left out of the order "
            "by robustness, not out of training. The study removed 40 images of CIFAR-100 and does not say from what."
        )
    pairs = dict.fromkeys(
        (outcome.setup.focus, outcome.setup.hold_out)
        for outcome in outcomes.values()
        if outcome.setup.focus != outcome.setup.hold_out
    )
    shared = [
        f"{sets.overlap(focus, hold_out)} images of {focus} are in {hold_out}"
        for focus, hold_out in pairs
        if focus is not None and hold_out is not None and sets.overlap(focus, hold_out)
    ]
    if shared:
        text.append(
            f"Sets overlap: {', '.join(shared)}. What is held out is not trained on, except that a row with a mark trains on its "
            "whole focus set."
        )
    if any(outcome.setup.version != "original" for outcome in outcomes.values()):
        averaged = 1 / (1 - setting.decay)
        text.append(
            f"Weights are averaged over about {averaged:.0f} updates: {averaged / setting.epoch_steps:.0f} of {setup.epochs} epochs "
            "here, 8 of 2400 in the first published runs. Averaging may do what a small learning rate does, and before it is "
            "small."
        )
    found = [seed.warnings for outcome in outcomes.values() for seed in outcome.seeds.values()]
    warned = [warnings for warnings in found if warnings]
    if warned:
        text.append(
            f"AutoAttack warns on {len(warned)} of {len(found)} networks of the table, on the first: {warned[0][0]}"
        )
    return text


def _all_or_first(count: int, total: int) -> str:
    return f"all {count}" if count == total else f"the first {count}"


def _sharing(outcomes: Outcomes) -> str:
    runs: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        runs.setdefault(outcome.setup.run, []).append(name)
    shared = "; ".join(", ".join(rows) for rows in runs.values() if len(rows) > 1)
    return (
        "Rows that differ only in the set they monitor are the same networks, of which other epochs count as the best"
        + (f": {shared}." if shared else ".")
    )


def _sets(setting: Setting, sets: Sets) -> Table:
    rows = []
    for name, members in sets.members.items():
        distances = sets.robustness[members]
        values = (f"{distances.min():.4f}", f"{distances.mean():.4f}", f"{distances.max():.4f}")
        rows.append([name, str(len(members)), *values, *(str(sets.overlap(name, other)) for other in ("v", "v'", "s"))])
    norm = {"linf": "l∞", "l2": "l2"}[setting.norm]
    return Table(
        f"{setting.name}: sets of training images; {norm} distance to the nearest differently labelled image",
        ("set", "images", "smallest", "mean", "largest", "of these in v", "in v'", "in s"),
        rows,
    )


def _rows(setting: Setting, outcomes: Outcomes) -> Table:
    rows = []
    for name, outcome in outcomes.items():
        rows.append(_row(name, outcome))
        reference = outcome.setup.reference
        if reference is not None:
            rows.append(_published(*reference))
    return Table(
        f"{setting.name}: accuracies in per cent, mean ± standard error over seeds. Best: weights of the epoch of highest "
        "PGD-40 accuracy on the set in parentheses. Rows with a table are the published ones",
        (
            "setup",
            "seeds",
            "clean - AutoAttack, best",
            "clean - AutoAttack, last",
            "Δ best",
            "Δ last",
            "best epoch",
            "PGD-40 on set, best",
            "PGD-40 on set, last",
            "PGD-40 on test, last",
        ),
        rows,
    )


def _row(name: str, outcome: Outcome) -> list[str]:
    seeds = list(outcome.seeds.values())
    last = np.asarray([seed.last for seed in seeds])
    best = None if seeds[0].best is None else np.asarray([seed.best for seed in seeds])

    def pair(values: np.ndarray | None) -> str:
        return "x" if values is None else " - ".join(str(estimate(column)) for column in values.T)

    def delta(values: np.ndarray | None) -> str:
        return "x" if values is None else str(estimate(values[:, 0] - values[:, 1]))

    focused = [
        "x" if best is None else str(estimate(values))
        for values in (outcome.values(lambda s: s.best_epoch or 0), outcome.values(lambda s: s.pgd_best))
    ]
    pgd_last = "x" if best is None else str(estimate(outcome.values(lambda s: s.pgd_last)))
    test = str(estimate(outcome.values(lambda s: s.test_pgd)))
    return [name, str(len(seeds)), pair(best), pair(last), delta(best), delta(last), *focused, pgd_last, test]


def _published(table: int, number: int) -> list[str]:
    row = published.row(table, number)

    def pair(values: tuple[float, float] | None) -> str:
        return "x" if values is None else f"{values[0]:.2f} - {values[1]:.2f}"

    def text(value: float | None) -> str:
        return "x" if value is None else f"{value:.2f}"

    label = f"{row.setup}, {published.LABELS[row.setting]} (table {table}, row {number})"
    deltas = (text(row.delta_best), text(row.delta_last))
    return [label, "1", pair(row.best), pair(row.last), *deltas, str(row.best_epoch or "x"), text(row.pgd), "", ""]


def _counts(setting: Setting, outcomes: Outcomes) -> Table:
    """Gains as numbers of images: what a local improvement is, and what one on test images."""
    rows = []
    for first, second in _COUNTED:
        if first not in outcomes or second not in outcomes:
            continue
        a, b = outcomes[first], outcomes[second]
        seeds = common_seeds(a, b)
        size = setting.focus_size * (2 if a.setup.focus == "2s" else 1)
        attacked = len(a.seeds[seeds[0]].robust_last)
        gained = [(a.seeds[seed].pgd_last - b.seeds[seed].pgd_last) * size / 100 for seed in seeds]
        pairs = [(a.seeds[seed].robust_last, b.seeds[seed].robust_last) for seed in seeds]
        on_test = [float(x.sum()) - float(y.sum()) for x, y in pairs]
        only = [int((x & ~y).sum()) for x, y in pairs], [int((y & ~x).sum()) for x, y in pairs]
        rows.append(
            [
                f"{first} minus {second}",
                f"{estimate(gained)} of {size}",
                f"{estimate(on_test)} of {attacked}",
                f"{estimate(only[0])} and {estimate(only[1])}",
                f"{_mcnemar(only[0][0], only[1][0]):.2g}" if len(seeds) == 1 else "see claims",
            ]
        )
        if (first, second) == _COUNTED[0] and setting.reference == "cifar10_linf":
            rows.append(
                [
                    "published: CIFAR-10 l∞, table 2, rows 5 and 4",
                    "113 of 1024 (printed: about 112)",
                    "23 of 10000, best weights 20 (printed: about 200)",
                    "not printed",
                    "",
                ]
            )
    return Table(
        f"{setting.name}: how many more images withstand the attack, last weights",
        (
            "rows",
            "set, PGD-40",
            "test, AutoAttack",
            "robust in first only and in second only",
            "McNemar's p",
        ),
        rows,
    )


def _mcnemar(first: int, second: int) -> float:
    """Exact two-sided p-value for images that are robust in one of two networks only."""
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue) if first + second else 1.0
