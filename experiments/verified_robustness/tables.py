"""Tables of the report: the published numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrobust.certify import ExactStatus
from jaxrobust.reporting import Table

from . import measures, published
from .published import Published
from .results import SPARSE, Column, Results, shown
from .rows import Row

DIGITS = 4
"""Of radii."""
COLUMNS: tuple[Column, ...] = ("clean", "pgd", "linear", "interval")


def methods(results: Results) -> Table:
    """Tables 3.6 to 3.8: each row, and the published one below it."""
    setting = results.setting
    bound = "CRO" if setting.smooth else "Lin"
    has_exact = bool(setting.exact_images)
    head = ["training", "CTE", "PGD", f"CRE {bound}", "CRE IBP"]
    head += ["CRE analytic"] if setting.smooth else [f"CRE MIP, {_exact_images(results)} images"] if has_exact else []
    head += [f"ACB {bound}", "ACB IBP", "ACB PEC", "partial only"]
    theirs = published.BLOCKS[setting.theirs] if setting.theirs else {}
    rows = []
    for row in setting.rows:
        rows.append([row.label, *_ours(results, row, has_exact)])
        if row.theirs in theirs:
            rows.append([f"{row.label} (published)", *_published(theirs[row.theirs], setting.smooth or has_exact)])
    caption = f"{setting.title}: errors in per cent, average certified bounds (ACB) as radii in pixels"
    if setting.theirs:
        caption += f"; published: {published.TITLES[setting.theirs]}, {published.table(setting.theirs)}"
    return Table(caption, head, rows)


def _ours(results: Results, row: Row, has_exact: bool) -> list[str]:
    errors = [shown(results.error(row, column)) for column in COLUMNS]
    if results.setting.smooth:
        errors.append(shown(results.analytic_error(row)))
    elif has_exact:
        errors.append(exact_error(results, row))
    bounds = [results.bound(row, "linear"), results.bound(row, "interval"), results.envelope(row)]
    return [*errors, *(shown(values, DIGITS) for values in bounds), shown(results.partial(row))]


def exact_error(results: Results, row: Row) -> str:
    """The exact error; with time-outs, from the least to the largest that it can be."""
    least, most = results.exact(row)
    return shown(most) if least == most else f"{shown(least)} to {shown(most)}"


def _published(row: Published, has_middle: bool) -> list[str]:
    errors = [f"{value:.2f}" for value in (row.clean, row.pgd, row.linear, row.interval)]
    middle = ["" if row.exact is None else f"{row.exact:.2f}"] if has_middle else []
    bounds = (row.bound_linear, row.bound_interval, row.bound_envelope)
    return [*errors, *middle, *(f"{value:.{DIGITS}f}" for value in bounds), ""]


def _exact_images(results: Results) -> int:
    return len(results.networks.test(results.setting, results.setting.exact_images)[1])


def exact(results: Results) -> Table:
    """Section 8.8: attack, exact answer and bounds on the same images."""
    rows = []
    for row in results.setting.rows:
        found = results.arrays(measures.exact, row)
        undecided, status = found["undecided"], found["status"]
        solved = undecided.sum()
        robust = ((status == ExactStatus.VERIFIED) & undecided).sum()
        rows.append(
            [
                row.label,
                shown(results.beside_exact(row, "pgd")),
                exact_error(results, row),
                shown(results.beside_exact(row, "linear")),
                shown(results.beside_exact(row, "interval")),
                str(solved),
                str(robust),
                str(((status == ExactStatus.FALSIFIED) & undecided).sum()),
                str((status == ExactStatus.TIMEOUT).sum()),
                str((status == ExactStatus.NUMERICAL).sum()),
                f"{found['binaries'][undecided].mean():.1f}" if solved else "",
            ]
        )
    head = ("training", "PGD", "CRE MIP", "CRE Lin", "CRE IBP")
    counts = ("undecided", "robust", "broken", "time-outs", "too close to call", "unstable units")
    return Table(
        f"{results.setting.title}: exact answers on the first {_exact_images(results)} test images, errors in per cent, and what became of "
        f"the undecided images of all networks within {results.setting.exact_seconds:g} s each",
        (*head, *counts),
        rows,
    )


def search(results: Sequence[Results]) -> list[Table]:
    """Table 3.9, one for each setting."""
    return [_search(one) for one in results]


def _search(results: Results) -> Table:
    setting, rows = results.setting, []
    theirs = published.SEARCH[setting.theirs] if setting.theirs else {}
    for row in setting.rows:
        found = results.arrays(measures.search, row)
        evaluations = [found[f"{name}_evaluations"].mean(1, dtype=np.float64) for name in ("binary", "envelope")]
        gap = found["envelope"].astype(np.float64) - found["binary"]
        rows.append(
            [
                row.label,
                f"{evaluations[0].mean():g}",
                shown(evaluations[1].tolist()),
                shown(results.ratio(row), 3),
                f"{theirs[row.theirs][0]:.2f}" if row.theirs in theirs else "",
                f"{theirs[row.theirs][1]:.3f}" if row.theirs in theirs else "",
                shown(found["envelope"].mean(1, dtype=np.float64).tolist(), DIGITS),
                f"{gap.min():+.1e} to {gap.max():+.1e}",
            ]
        )
    caption = f"{setting.title}: bound calculations to find the largest certified radius in [0, {setting.search_to:g}] to {published.PRECISION:g}"
    if setting.theirs:
        caption += f"; published: {published.TITLES[setting.theirs]}, table 3.9"
    head = ("training", "T_Lin", "T_PEC", "T_PEC / T_Lin", "T_PEC (published)", "ratio (published)")
    return Table(caption, (*head, "mean radius", "radius by PEC - by binary search"), rows)


def parameters(results: Results, rows: Sequence[Row]) -> Table:
    """Figure 3.8 as numbers."""
    found = []
    for row in rows:
        values = np.abs(results.networks.parameters(results.setting, row))
        largest = values.max(1).tolist()
        found.append(
            [row.label, shown(results.mean_parameter(row), 3), shown(largest), shown(results.sparsity(row), 1)]
        )
    return Table(
        f"{results.setting.title}: weights and biases",
        ("training", "mean |w|", "largest |w|", f"|w| < {SPARSE:g} (%)"),
        found,
    )
