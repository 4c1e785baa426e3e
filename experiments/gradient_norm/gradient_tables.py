"""Tables of what input gradients are like: the published numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrobust.reporting import Table

from . import published, statistics
from .results import Results, Values, log10, shown
from .rows import Row


def geometry(results: Results) -> Table:
    """Tables A.1 and A.2."""
    rows = []
    for row in (row for row in results.three("geometry") if row is not None):
        cells = []
        for name in ("l2", "hessian", "curvature", "linearity"):
            values = results.images(statistics.geometry, row, name)
            cells.append(_spread(list(values.values())))
            if name in ("curvature", "linearity"):
                cells.append(_spread([log10(one) for one in values.values()]))
        rows.append([row.label, *cells])
        theirs, error = published.TABLE_A_1[row.method], published.TABLE_A_2[row.method]
        pairs: Sequence[tuple[float, float]] = (
            theirs.l2,
            theirs.hessian,
            theirs.curvature,
            theirs.log_curvature,
            *error,
        )
        rows.append([f"Swin-B, {row.method.replace('_', ' ')} (published)", *(f"{m:.3g} ± {s:.3g}" for m, s in pairs)])
    return Table(
        f"{results.setting.name}: mean ± standard deviation over images, averaged over networks (tables A.1 and A.2)",
        ("training", "‖∇L‖₂", "‖H‖₂", "curvature C", "log10 C", "linearity error", "log10 error"),
        rows,
    )


def _spread(values: list[np.ndarray]) -> str:
    mean, deviation = (float(np.mean([of(one) for one in values])) for of in (np.mean, np.std))
    return f"{mean:.3g} ± {deviation:.2g}"


def edges(results: Results) -> Table:
    """Table 5.1, with all controls."""
    rows = []
    three = [row.name for row in results.three("edges") if row is not None]
    for row in results.setting.of("edges"):
        correlations: list[Values] = [
            results.mean(statistics.edge_agreement, row, name) for name in ("saliency", "gradient", "common")
        ]
        rows.append(
            [
                row.label,
                *(shown(values) for values in correlations),
                shown(results.accuracy(row, "clean")),
                shown(results.accuracy(row, "pgd")),
                shown(results.pgd_beside(row)),
                shown(results.robust(row)),
                shown(results.accuracy(row, "l1")),
            ]
        )
        if row.name in three or (row.method, row.target) == ("edges", "edges"):
            theirs = published.TABLE_5_1[row.method]
            lost = ("lost" if value is None else f"about {value:g}" for value in (theirs.saliency, theirs.gradient))
            label = f"Swin-B, {row.method.replace('_', ' ')} (published)"
            rows.append([label, *lost, "", f"{theirs.clean:.2f}", "", "", f"{theirs.auto_attack:.2f}", ""])
    return Table(
        f"{results.setting.name}: correlation of gradients with edges, and robustness of networks whose logit gradients were aligned with a "
        "map (table 5.1)",
        (
            "training",
            "corr. saliency",
            "corr. loss gradient",
            "common mode",
            "clean",
            f"PGD-{results.setting.pgd_steps}, all images",
            f"PGD-{results.setting.pgd_steps}, AutoAttack's images",
            "AutoAttack",
            "test ‖∇L‖₁",
        ),
        rows,
    )


def channels(results: Results) -> Table:
    """Figure 4.4 as numbers."""
    rows = []
    for row in results.setting.of("colour"):
        found = results.cell(statistics.channels, row)["arrays"]
        for number, name in enumerate(_channel_names(row, len(found["zeros"]))):
            low, median = np.log10(np.maximum(found["quantiles"][number], 1e-38))
            below = found["below"][number]
            rows.append(
                [
                    f"{row.label}: {name}",
                    f"{median:.2f}",
                    f"{low:.2f}",
                    *(f"{100 * one:.3f}" for one in (*below, found["zeros"][number])),
                ]
            )
    return Table(
        f"{results.setting.name}: sizes of the loss gradient's entries by colour channel, first network (figure 4.4); shares in per cent",
        ("training", "median log10", "1 % quantile log10", "below 1e-9", "below 1e-10", "exactly 0"),
        rows,
    )


def _channel_names(row: Row, count: int) -> tuple[str, ...]:
    return (
        ("all", "red", "green", "blue")
        if count == 4
        else ("all", *(f"channel {number}" for number in range(count - 1)))
    )
