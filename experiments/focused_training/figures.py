"""The study's figures: accuracies over the epochs (figure 1 (b)) and learning-rate versions (figure 4 (c), (d))."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from experiments.study import palette
from jaxrobust import schedules
from jaxrobust.reporting import save_figure, subplots

from .claims import low_rate_epoch
from .outcomes import Outcome, Outcomes
from .presets import Setting
from .setups import Version

CURVES = (
    "Accuracy under PGD-40 on the most robust (left) and the least robust (right) training images after every epoch, and "
    "accuracies on the test images (as figure 1 (b)). Lines: mean over seeds; bands: smallest to largest."
)
LEARNING_RATES = (
    "Learning-rate versions over all epochs, in the last sixth of them (as figure 4 (c), (d)), and what they do to the "
    "accuracy under PGD-40 on the least robust training images; mean over the seeds that all versions have. PGD-40 starts from "
    "the same random points for all versions, hence bumps in common."
)
_VERSIONS = {
    "original": palette.BLACK,
    "a": palette.SKY,
    "b": palette.BLUE,
    "c": palette.RED,
    "d": palette.ORANGE,
    "e": palette.GREEN,
}


def curves(setting: Setting, outcomes: Outcomes, path: Path) -> bool:
    """Draw figure 1 (b); ``False`` without rows for it."""
    panels = {"most": "most robust training images", "s": "least robust training images"}
    control = next((o for o in outcomes.values() if o.setup.run == "without_v" and o.setup.focus in panels), None)
    if control is None or not all(name in next(iter(control.seeds.values())).tracked for name in panels):
        return False
    figure, axes = subplots(1, 2, sharey=True)
    for axis, (name, title) in zip(axes[0], panels.items(), strict=True):
        lines: tuple[tuple[str, str, str], ...] = (
            (f"-v ({name})*", palette.RED, "trained on, with PGD-40 examples (*)"),
            (f"-v ({name})", palette.BLUE, "trained on"),
            (f"-{name} ({name})", palette.SKY, "held out"),
        )
        for row, color, label in lines:
            if row in outcomes:
                histories = np.asarray([seed.tracked[name] for seed in outcomes[row].seeds.values()])
                _band(axis, np.arange(1, histories.shape[1] + 1), histories, color, f"the set, {label}")
        tests = [seed.test for seed in control.seeds.values()]
        for column, (style, label) in enumerate((("--", "test images, clean"), (":", "test images, PGD-40"))):
            epochs = sorted(tests[0])
            values = np.asarray([[test[epoch][column] for epoch in epochs] for test in tests])
            axis.plot(epochs, values.mean(0), style, color="0.35", label=label)
        axis.set_title(title)
        axis.set_xlabel("epoch")
    axes[0][0].set_ylim(0, 100)
    axes[0][0].set_ylabel("accuracy (%)")
    _legend(figure, axes[0])
    save_figure(figure, path)
    return True


def learning_rates(setting: Setting, outcomes: Outcomes, path: Path) -> bool:
    """Draw figure 4 (c) and (d); ``False`` without rows for it."""
    rows: dict[str, Outcome] = {
        outcome.setup.version: outcome
        for outcome in outcomes.values()
        if outcome.setup.mode == "monitor" and (outcome.setup.hold_out, outcome.setup.focus) == ("v", "s")
    }
    if len(rows) < 2:
        return False
    epochs = next(iter(rows.values())).setup.epochs
    begin = low_rate_epoch(epochs)
    seeds = set.intersection(*(set(outcome.seeds) for outcome in rows.values()))
    figure, axes = subplots(1, 3)
    every = np.arange(epochs)
    for version in (version for version in get_args(Version) if version in rows):
        schedule = schedules.one_cycle_version(version, setting.peak_rate, epochs)
        rates = np.asarray(schedule(jnp.asarray(every)))
        label = f"{version}, ends at {rates[-1]:.1e}"
        axes[0][0].plot(every + 1, rates, color=_VERSIONS[version], label=label)
        axes[0][1].plot(every[begin - 1 :] + 1, rates[begin - 1 :], color=_VERSIONS[version])
        histories = np.asarray([rows[version].seeds[seed].tracked["s"] for seed in sorted(seeds)])
        window = slice(epochs // 2, None)
        axes[0][2].plot(every[window] + 1, histories.mean(0)[window], color=_VERSIONS[version])
    axes[0][1].set_yscale("log")
    axes[0][2].axvline(begin, color="0.8", linewidth=0.8, zorder=0)
    for axis, title, label in zip(
        axes[0],
        ("all epochs", "last sixth", "PGD-40 on the least robust, second half"),
        ("learning rate", "learning rate", "accuracy (%)"),
        strict=True,
    ):
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.set_xlabel("epoch")
    _legend(figure, axes[0][:1])
    save_figure(figure, path)
    return True


def _band(axis: Any, x: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    axis.plot(x, values.mean(0), color=color, label=label)
    axis.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    """One legend for all panels, each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3)
