"""The study's figures: what different attacks say about each initialisation, and about each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import palette
from jaxrobust.reporting import save_figure, subplots

from .outcomes import Outcome, Outcomes

ATTACKS = {
    "pgd20": ("white-box PGD20", palette.BLUE),
    "pgd20_r": ("transfer, PGD20-R", palette.ORANGE),
    "targeted": ("targeted PGD", palette.RED),
    "autoattack": ("AutoAttack", palette.BLACK),
}
INITIALISATION = (
    "Accuracy under four attacks, on the same images, by the point that SOAR expands the loss about, mean over seeds and smallest to "
    "largest. Where the first bar is far above the others the gradients are masked: PGD follows them and finds nothing, and "
    "what was made against another network, or with another loss, does."
)
METHODS = (
    "Accuracy under PGD20 against accuracy under AutoAttack on the same images, one marker for each network. The height above "
    "the diagonal is what PGD20 flatters a network by."
)
COLORS = (
    palette.BLACK,
    palette.BLUE,
    palette.SKY,
    palette.GREEN,
    palette.PURPLE,
    palette.ORANGE,
    palette.RED,
    "#999999",
    palette.YELLOW,
)


def initialisation(outcomes: Outcomes, path: Path, names: Sequence[str]) -> bool:
    """Draw what the initialisation does to the rows of these names; ``False`` without rows for it."""
    rows = [outcomes[name] for name in names if name in outcomes]
    if not any("zero" in one.row.name or "rand" in one.row.name for one in rows):
        return False
    images = min(one.correct[column].shape[1] for one in rows for column in ATTACKS if column in one)
    figure, axes = subplots(1, 1, size=(9.0, 3.8))
    axis = axes[0][0]
    places = np.arange(len(rows))
    for number, (column, (text, color)) in enumerate(ATTACKS.items()):
        having = [index for index, one in enumerate(rows) if column in one]
        values = np.asarray([rows[index].column(column, images) for index in having])
        means = values.mean(1)
        spread = np.stack([means - values.min(1), values.max(1) - means])
        where = places[having] + 0.2 * (number - 1.5)
        axis.bar(where, means, 0.19, color=color, label=text)
        axis.errorbar(where, means, spread, fmt="none", ecolor="0.45", elinewidth=1, capsize=2)
    axis.set_xticks(places, [_wrapped(one) for one in rows], fontsize=8)
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 100)
    axis.legend(loc="upper right", bbox_to_anchor=(1, 1.12), ncols=4)
    save_figure(figure, path)
    return True


def methods(outcomes: Outcomes, path: Path) -> bool:
    """Draw PGD20 against AutoAttack; ``False`` without rows that have both."""
    names = ("standard", "pgd10", "trades", "mart", "mma", "pgd1", "foar_pgd1", "soar_pgd1", "masked_zero")
    rows = [outcomes[name] for name in names if name in outcomes and "autoattack" in outcomes[name]]
    if not rows:
        return False
    figure, axes = subplots(1, 1, size=(5.2, 5.0))
    axis = axes[0][0]
    axis.plot([0, 100], [0, 100], color="0.7", linewidth=0.8, zorder=0)
    for one, color, marker in zip(rows, COLORS, "oPX^vDs*p", strict=False):
        judge, pgd = one.column("autoattack"), one.correct["pgd20"][:, : one.correct["autoattack"].shape[1]]
        axis.plot(
            judge, 100 * pgd.mean(1), marker, color=color, label=one.row.label, markersize=7, markeredgecolor="0.2"
        )
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("accuracy under AutoAttack (%)")
    axis.set_ylabel("accuracy under PGD20 (%)")
    axis.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)
    return True


def _wrapped(one: Outcome) -> str:
    return one.row.label.replace(", ", ",\n")
