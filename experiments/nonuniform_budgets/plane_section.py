"""The part of the report about points in the plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.study import Claim, Run, Section, above, holds, paired_difference, palette
from jaxrobust.reporting import Table, save_figure, subplots

from . import plane as points_in_plane
from .plane import Sets, measured, sets, summary
from .presets import Plane
from .tables import shown

DRAWN = 20
PATH = "figures/plane"
NAMES = {"linf": "l∞", "l2": "l2"}
CAPTION = (
    "Figure 3.3: certified sets of the first seed's network around {drawn} test points: of one radius (yellow) and of one radius for "
    "each coordinate (blue); l∞ (left) and l2 (right). Black lines are the true boundaries of the classes, grey ones the network's."
)
Summaries = dict[str, dict[str, list[float]]]
"""Norm to quantity to one number per seed."""


def run(study: Run, plane: Plane) -> Section:
    """Train and certify the networks and report on them."""
    cells = [measured(study, plane, seed) for seed in plane.seeds]
    found: Summaries = {}
    for kind in points_in_plane.KINDS:
        seeds = [summary(sets(cell, kind)) for cell in cells]
        found[kind] = {name: [one[name] for one in seeds] for name in seeds[0]}
    _figure(study, plane, cells[0])
    return Section(
        "Points in the plane",
        text=[
            f"{points_in_plane.CLASSES} random centres in [-1, 1]², and {points_in_plane.TRAINING} training and "
            f"{points_in_plane.TESTING} test points with the number of the nearest centre. ReLU networks with two hidden layers of ten "
            f"units, Adam with learning rate {points_in_plane.RATE:g} and cosine decay, batches of {points_in_plane.BATCH}, {plane.epochs} "
            f"epochs; {len(plane.seeds)} seeds, each with data of its own. The first {plane.points} test points that are classified correctly "
            "are certified, without a box. The text speaks of 20 points in each class, the caption of the figure of 20 points."
        ],
        tables=[_table(found, cells)],
        claims=_claims(found, cells),
        figures=[(PATH, CAPTION.format(drawn=DRAWN))],
    )


def _table(found: Summaries, cells: list[dict[str, Any]]) -> Table:
    rows = []
    for kind, values in found.items():
        rows.append(
            [
                NAMES[kind],
                shown([cell["accuracy"] for cell in cells], 2),
                str(sum(cell["certified"][kind] for cell in cells)),
                *(shown(values[name]) for name in ("uniform", "nonuniform")),
                *(shown(values[name], 3) for name in ("ratio", "mean_ratio", "median_area", "largest_area")),
                shown(values["shortened"], 1),
            ]
        )
    return Table(
        "Certified radii in the plane",
        (
            "norm",
            "accuracy (%)",
            "certified points",
            "uniform",
            "non-uniform",
            "ratio of means",
            "mean ratio",
            "median area ratio",
            "largest area ratio",
            "sets with a shorter side (%)",
        ),
        rows,
    )


def _claims(found: Summaries, cells: list[dict[str, Any]]) -> list[Claim]:
    accuracies = [cell["accuracy"] for cell in cells]
    published = [99.9] * len(cells)
    claims = [above("test accuracy above 99.9 %", paired_difference(accuracies, published))]
    claims[0].published = "above 99.9"
    for kind, values in found.items():
        name, ones = NAMES[kind], [100.0] * len(cells)
        percent = {key: [100 * value for value in values[key]] for key in ("mean_ratio", "largest_area")}
        claims.append(
            above(
                f"{name}: mean ratio of radii above 1.05 (hundredths above 1)",
                paired_difference(percent["mean_ratio"], ones),
                at_least=5,
            )
        )
        smallest = min(values["smallest_ratio"])
        claims.append(
            Claim(
                f"{name}: no set smaller than the uniform one: smallest ratio",
                "not studied",
                f"{smallest:.6f}",
                "",
                holds(smallest >= 1 - 1e-5),
            )
        )
        claims.append(
            above(
                f"{name}: some areas are more than twice as large: largest ratio above 2 (hundredths above 1)",
                paired_difference(percent["largest_area"], ones),
                at_least=100,
            )
        )
        claims.append(
            above(
                f"{name}: some sets have a side that is shorter than the uniform one (% of sets)",
                paired_difference(values["shortened"], [0.0] * len(cells)),
            )
        )
        left = sum(cell["left"][kind] for cell in cells)
        drawn = sum(cell["certified"][kind] for cell in cells) * points_in_plane.SAMPLES
        text = f"{name}: sampled points of certified sets in another class"
        claims.append(Claim(text, "0 (by proof)", f"{left} of {drawn}", "", holds(left == 0)))
    return claims


def _figure(study: Run, plane: Plane, cell: dict[str, Any]) -> None:
    seed = plane.seeds[0]
    data = points_in_plane.points(seed)
    axis = np.linspace(-1, 1, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    network = points_in_plane.logits_fn(study, plane, seed)
    predicted = np.asarray(network(jnp.asarray(grid)).argmax(-1)).reshape(401, 401)
    true = points_in_plane.nearest(data.centres, grid).reshape(401, 401)
    figure, axes = subplots(1, 2, size=(5.2, 5.2))
    for panel, kind in zip(axes[0], points_in_plane.KINDS, strict=True):
        _boundaries(panel, axis, predicted, "0.65")
        _boundaries(panel, axis, true, palette.BLACK)
        _draw(panel, sets(cell, kind), kind)
        panel.set_xlim(-1, 1)
        panel.set_ylim(-1, 1)
        panel.set_aspect("equal")
        panel.set_title(NAMES[kind])
    save_figure(figure, Path(study.folder / PATH))


def _boundaries(panel: Any, axis: np.ndarray, classes: np.ndarray, color: str) -> None:
    for number in range(points_in_plane.CLASSES):
        inside = (classes == number).astype(float)
        if 0 < inside.mean() < 1:
            panel.contour(axis, axis, inside, levels=[0.5], colors=[color], linewidths=0.9)


def _draw(panel: Any, found: Sets, kind: str) -> None:
    from matplotlib.patches import Ellipse, Rectangle

    for number in range(min(DRAWN, len(found.points))):
        x, y = map(float, found.points[number])
        for (a, b), color in (
            ((found.uniform[number],) * 2, palette.ORANGE),
            (found.radii[number], palette.BLUE),
        ):
            a, b = float(a), float(b)
            options: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": 1.2}
            shape = (
                Rectangle((x - a, y - b), 2 * a, 2 * b, **options)
                if kind == "linf"
                else Ellipse((x, y), 2 * a, 2 * b, **options)
            )
            panel.add_patch(shape)
        panel.plot(x, y, ".", color=palette.RED, markersize=3)
        panel.annotate(str(number + 1), (x, y), xytext=(2, 2), textcoords="offset points", fontsize=7)
