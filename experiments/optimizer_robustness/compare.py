"""Part ``compare``: clean, noise and adversarial accuracy of networks trained with different optimizers.

Figure 4.1 and tables 4.3 to 4.7 of the study.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.study import (
    LABELS,
    STYLES,
    Claim,
    PairedDifference,
    Section,
    above,
    estimate,
    paired_difference,
    pixels,
    verdict_alike,
)
from jaxrobust import L2, Linf, attacks, data, evaluation
from jaxrobust.reporting import Table, save_figure, subplots

from . import published
from .config import Setting
from .networks import Networks, in_order

KINDS = ("gaussian", "l2", "linf")
TITLES = {"gaussian": "Gaussian noise", "l2": "l2 attack", "linf": "l-infinity attack"}


def severities(setting: Setting) -> list[tuple[str, float]]:
    """Kind and size of every perturbation of a setting, in the order of the tables."""
    return [(kind, value) for kind in KINDS for value in getattr(setting, kind)]


def _label(kind: str, value: float) -> str:
    return {"gaussian": "Gauss σ² ", "l2": "l2 ", "linf": "l∞ "}[kind] + pixels(value)


Perturbation = Callable[[jax.Array, attacks.LogitsFn], float]
"""Random key and network to accuracy in per cent under a perturbation."""


def _perturbations(setting: Setting, dataset: data.Dataset) -> dict[tuple[str, float], Perturbation]:
    """The setting's noises and attacks, made once so that all networks share their compiled steps."""
    images, labels = dataset.test_images, dataset.test_labels
    options: dict[str, Any] = {"top_k": setting.top_k, "bounds": dataset.bounds}
    part = slice(setting.attacked)

    def noise(attack: attacks.Attack, key: jax.Array, logits_fn: attacks.LogitsFn) -> float:
        return float(
            np.mean(
                [
                    evaluation.accuracy(
                        logits_fn, images, labels, attack=attack, key=draw, include_clean=False, **options
                    )
                    for draw in jax.random.split(key, setting.draws)
                ]
            )
        )

    def pgd(attack: attacks.Attack, key: jax.Array, logits_fn: attacks.LogitsFn) -> float:
        return evaluation.accuracy(logits_fn, images[part], labels[part], attack=attack, key=key, **options)

    def auto_attack(attack: attacks.AutoAttack, key: jax.Array, logits_fn: attacks.LogitsFn) -> float:
        # Images that were not broken are the clean ones, so their top-k accuracy is the robust one for every k.
        found = attack(key, logits_fn, images[part], labels[part])
        return evaluation.accuracy(logits_fn, found.images, labels[part], **options)

    made: dict[tuple[str, float], Perturbation] = {}
    for kind, value in severities(setting):
        if kind == "gaussian":
            made[kind, value] = functools.partial(noise, attacks.gaussian_noise(value, bounds=dataset.bounds))
            continue
        threat = (L2 if kind == "l2" else Linf)(value, bounds=dataset.bounds)
        if setting.attack == "pgd":
            made[kind, value] = functools.partial(pgd, attacks.pgd(threat, steps=setting.attack_steps))
        else:
            made[kind, value] = functools.partial(auto_attack, attacks.auto_attack(threat, progress=False))
    return made


def measure(
    networks: Networks, setting: Setting, optimizer: str, perturbations: dict[tuple[str, float], Perturbation]
) -> dict[str, Any]:
    """The cell of one optimizer: accuracies in per cent, ``{column: [one per seed]}``."""

    def compute() -> dict[str, Any]:
        dataset = networks.dataset(setting.dataset)
        networks.trained(setting, optimizer)
        images, labels = dataset.test_images, dataset.test_labels
        options: dict[str, Any] = {"top_k": setting.top_k, "bounds": dataset.bounds}
        columns: dict[str, list[float]] = {}
        for logits_fn in networks.logits_fns(setting, optimizer):
            row = {"clean": evaluation.accuracy(logits_fn, images, labels, **options)}
            for number, ((kind, value), perturbation) in enumerate(perturbations.items()):
                row[f"{kind} {value!r}"] = perturbation(jax.random.fold_in(jax.random.key(0), number), logits_fn)
            for column, accuracy in row.items():
                columns.setdefault(column, []).append(accuracy)
        return {"accuracy": columns}

    return networks.run.cell(f"compare/{setting.name}/{optimizer}", compute)


def _averaged(setting: Setting, accuracy: dict[str, list[float]]) -> list[float]:
    """Averaged robust accuracy per seed: one Gaussian, one l2 and one l-infinity severity."""
    columns = [f"{kind} {getattr(setting, kind)[index]!r}" for kind, index in zip(KINDS, setting.average, strict=True)]
    return np.mean([accuracy[column] for column in columns], axis=0).tolist()


def run(networks: Networks, settings: list[Setting]) -> Section:
    """Measure all settings; their tables, claims and the scatter figure."""
    section = Section(
        "Robustness against clean accuracy",
        text=[
            "The same network, trained with different optimizers. Accuracies in per cent, mean ± standard error over "
            "seeds. Differences are SGD minus the other optimizer, paired by seed, with a 95 % interval and the "
            "one-sided p-value of the paired t-test; a claim holds where the interval lies above zero, and is not shown "
            "where the interval contains zero. Each table says what measures l2 and l-infinity robustness: AutoAttack (standard "
            "version), or cross-entropy PGD for the negative control.",
        ],
    )
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for setting in settings:
        perturbations = _perturbations(setting, networks.dataset(setting.dataset))
        order = in_order(setting.rates)
        results[setting.name] = {name: measure(networks, setting, name, perturbations)["accuracy"] for name in order}
        section.tables.append(_table(networks, setting, results[setting.name]))
        section.claims += _claims(setting, results[setting.name])
    path = "figures/compare"
    _figure(settings, results, networks.run.folder / path)
    section.figures.append(
        (
            path,
            "Clean accuracy against accuracy under the strongest perturbation of each kind; one colour and marker per "
            "optimizer, one line per data set and network (figure 4.1). Horizontal spread is robustness.",
        )
    )
    return section


def _table(networks: Networks, setting: Setting, accuracy: dict[str, dict[str, list[float]]]) -> Table:
    columns = ["clean", *(f"{kind} {value!r}" for kind, value in severities(setting))]
    headers = [
        "optimizer",
        "learning rate",
        "training loss",
        "clean",
        *(_label(kind, value) for kind, value in severities(setting)),
    ]
    reference = published.TABLES[setting.published_table].get(setting.reference, {})
    rows = []
    for name, values in accuracy.items():
        trained = networks.trained(setting, name)
        rows.append(
            [
                LABELS[name],
                f"{trained['learning_rate']:g}",
                f"{np.mean(trained['train_loss']):.3g}",
                *(str(estimate(values[column])) for column in columns),
            ]
        )
        if setting.name.startswith(setting.reference) and name in reference:
            rows.append([f"{LABELS[name]} (published)", "", "", *(f"{value:.2f}" for value in reference[name])])
    attack = {
        "auto_attack": "AutoAttack",
        "pgd": f"cross-entropy PGD, {setting.attack_steps} steps",
    }[setting.attack]
    attack += "" if setting.attacked is None else f" on the first {setting.attacked} test images"
    caption = (
        f"{setting.name}: {setting.dataset}, {setting.model}, {setting.epochs} epochs, {len(setting.seeds)} seeds; "
        f"attack: {attack}"
    )
    return Table(caption + ("; negative control" if setting.control else ""), headers, rows)


def _claims(setting: Setting, accuracy: dict[str, dict[str, list[float]]]) -> list[Claim]:
    counted = not setting.control
    reference = published.TABLES[setting.published_table][setting.reference]
    claims = []
    adaptive = [name for name in accuracy if name not in ("sgd", "momentum")]
    cleanest = sorted((values["clean"] for values in accuracy.values()), key=np.mean)
    spread = paired_difference(cleanest[-1], cleanest[0])
    cleans = [row[0] for name, row in reference.items() if name != "momentum"]
    theirs = max(cleans) - min(cleans)
    claims.append(
        Claim(
            f"{setting.name}: clean accuracies lie within 1.5 points of each other",
            f"{theirs:.2f} ({setting.reference})",
            spread.interval,
            f"{spread.mean - theirs:+.2f}",
            verdict_alike(spread, within=1.5),
            counted,
        )
    )
    if "sgd" not in accuracy:
        return claims
    average = published.AVERAGES.get(setting.reference)
    for name in adaptive:
        difference = paired_difference(_averaged(setting, accuracy["sgd"]), _averaged(setting, accuracy[name]))
        gap = average["sgd"] - average[name] if average and name in average else None
        claims.append(
            _gap(
                f"{setting.name}: averaged robust accuracy, SGD above {LABELS[name]}",
                setting,
                gap,
                difference,
            )
        )
        for offset, kind in zip((1, 4, 7), KINDS, strict=True):
            values = getattr(setting, kind)
            column = f"{kind} {values[-1]!r}"
            difference = paired_difference(accuracy["sgd"][column], accuracy[name][column])
            gap = reference["sgd"][offset + 2] - reference[name][offset + 2] if name in reference else None
            text = f"{setting.name}: {_label(kind, values[-1])}, SGD above {LABELS[name]}"
            claims.append(_gap(text, setting, gap, difference))
    return claims


def _gap(text: str, setting: Setting, gap: float | None, difference: PairedDifference) -> Claim:
    theirs = None if gap is None else (gap, setting.reference)
    return above(text, difference, theirs, counted=not setting.control)


def _figure(settings: list[Setting], results: dict[str, dict[str, dict[str, list[float]]]], path: Any) -> None:
    figure, axes = subplots(1, 3, sharey=True)
    shown = set()
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {kind: {} for kind in KINDS}
    for axis, kind in zip(axes[0], KINDS, strict=True):
        for setting in settings:
            column = f"{kind} {getattr(setting, kind)[-1]!r}"
            points = []
            for name, accuracy in results[setting.name].items():
                x, y = float(np.mean(accuracy[column])), float(np.mean(accuracy["clean"]))
                label = LABELS[name] if name not in shown else None
                shown.add(name)
                axis.plot(x, y, linestyle="none", markersize=7, label=label, **STYLES[name])
                points.append((x, y))
            lines[kind][setting.name] = sorted(points)
            axis.plot(*zip(*sorted(points), strict=True), color="0.7", linewidth=0.8, zorder=0)
        axis.set_title(TITLES[kind])
        axis.set_xlabel("robust accuracy (%)")
    low, high = axes[0][0].get_ylim()
    axes[0][0].set_ylim(low - 2, min(high + 1, 100.5))  # room to see how little clean accuracies differ
    axes[0][0].set_ylabel("clean accuracy (%)")
    figure.legend(loc="outside lower center", ncols=7)
    figure.draw_without_rendering()  # fixes where everything is
    for axis, kind in zip(axes[0], KINDS, strict=True):
        _name_lines(axis, lines[kind])
    save_figure(figure, path)


def _name_lines(axis: Any, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Name each line near its right end, as close as covers no marker and no other name."""
    from matplotlib.transforms import Bbox

    markers = axis.transData.transform([point for points in lines.values() for point in points])
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in markers]
    for name, points in lines.items():
        text = axis.annotate(name, points[-1], textcoords="offset points", xytext=(-2, 7), fontsize=7, ha="right")
        for height in (7, -13, 17, -23, 27, -33, 37):
            text.xyann = (-2, height)
            if not any(text.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())
