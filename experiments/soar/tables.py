"""Tables of the report: the published rows beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.study import estimate
from jaxrobust.reporting import Table

from . import published
from .outcomes import Outcome, Outcomes
from .presets import Setting
from .published import HALF, PARTS

METHODS = ("standard", "pgd10", "trades", "mart", "mma", "pgd1", "foar_pgd1", "soar_pgd1", "soar_exact")
HEADS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "targeted": "targeted",
    "autoattack": "AutoAttack",
    "autoattack" + HALF: "AutoAttack, ε/2",
    "simba": "SimBA",
    "gradient_count": "gradient count",
    "clipped_first": "clipped, first epoch (%)",
    "clipped_last": "clipped, last epoch (%)",
    "eps1_printed": "radius 1 as printed (%)",
    "eps1_clean": "radius 1, from the image (%)",
    "pgd20_50": "PGD20-50",
} | {
    f"confidence_{name}": f"{text} images"
    for name, text in (("clean", "clean"), ("random", "random"), ("pgd1", "PGD1"))
}
for _part, _text in zip(PARTS, ("APGD-CE", "APGD-T", "FAB-T", "Square"), strict=True):
    HEADS |= {_part: _text, _part + HALF: f"{_text}, ε/2"}


def head(column: str) -> str:
    """How a column is called."""
    if column in HEADS:
        return HEADS[column]
    name, _, letter = column.partition("_")
    return name.upper() + (f"-{letter.upper()}" if letter else "")


def number(outcome: Outcome, column: str, images: int | None = None) -> str:
    """Mean and standard error over seeds on so many of the images, empty if not measured."""
    return str(estimate(outcome.column(column, images))) if column in outcome else ""


def beside(
    caption: str,
    columns: Sequence[str],
    outcomes: Outcomes,
    names: Sequence[str],
    theirs: published.Table,
    heads: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
    images: int | None = None,
) -> Table:
    """Our rows, each with the published one below it, and published rows that we do not have.

    Args:
        caption: of the table.
        columns: of the published table.
        outcomes: our rows.
        names: rows in order; those that neither side has are left out.
        theirs: the published table.
        heads: names of columns, where they are not the usual ones.
        also: columns of ours alone, at the end.
        images: so many test images, from the first, so that columns can be compared; by default all that a column has.
    """
    rows = []
    for name in names:
        if name in outcomes:
            rows.append(
                [outcomes[name].row.label, *(number(outcomes[name], column, images) for column in (*columns, *also))]
            )
        if name in theirs:
            values = [f"{theirs[name][column]:.2f}" if column in theirs[name] else "" for column in columns]
            rows.append([f"{published.LABELS[name]} (published)", *values, *("" for _ in also)])
    return Table(caption, ("method", *((heads or {}).get(column, head(column)) for column in (*columns, *also))), rows)


def l2_heads(radii: Sequence[float]) -> dict[str, str]:
    """Names of the l2 columns."""
    found = {f"l2_{number}": f"l2 {radius:.3g}" for number, radius in enumerate(radii)}
    margins = {f"{column}_margin": f"{text}, margin" for column, text in found.items()}
    return {**found, **margins, "l2_r": f"l2 {radii[-1]:.3g}, transfer"}


def l2(setting: Setting, outcomes: Outcomes) -> Table:
    """Table 3.9, with PGD on the margin of the logits beside that on cross-entropy.

    The published radii are others than those of a small setting; they are compared in order, from the largest.
    """
    heads, count = l2_heads(setting.l2_radii), len(setting.l2_radii)
    skip = len(published.L2_RADII) - count
    theirs = {
        name: {f"l2_{number}": row[f"l2_{number + skip}"] for number in range(count)} | {"l2_r": row["l2_r"]}
        for name, row in published.L2.items()
    }
    if skip:  # the radii are not the published ones: say which stand there
        radii = ", ".join(f"{radius:.3g}" for radius in published.L2_RADII[skip:])
        caption = f"Table 3.9: PGD100 in l2; published at radii {radii}"
    else:
        caption = "Table 3.9: PGD100 in l2"
    names = ("standard", "pgd10", "pgd10_l2", "trades_l2", "soar_pgd1")
    columns = [f"l2_{number}" for number in range(count)]
    margins = [f"{column}_margin" for column in columns]
    return beside(caption, (*columns, "l2_r"), outcomes, names, theirs, heads, margins)


def cost() -> Table:
    """Table 3.5 beside what the library's objectives need."""
    ours = {"FOAR": "1 F, 2 B at zero; 2 F, 3 B with PGD1", "SOAR": "3 F, 4 B with PGD1", "Standard": "1 F, 1 B"}
    rows = [
        [name, forward, backward, ours.get(name, "k + 1 F, k + 1 B")]
        for name, (forward, backward) in published.COST.items()
    ]
    return Table("Table 3.5: passes per update", ("method", "forward", "backward", "here"), rows)


def capacity(outcomes: Outcomes, images: int | None) -> Table:
    """Table 3.10."""
    names = ("soar_16", "soar_64", "soar_cnn6", "soar_cnn8", "soar_pgd1")
    caption = "Table 3.10: SOAR on networks of different size"
    columns, also = tuple(published.CAPACITY["soar_pgd1"]), ("targeted", "autoattack")
    table = beside(caption, columns, outcomes, names, published.CAPACITY, also=also, images=images)
    if "soar_64" in outcomes:
        table.rows = [
            [row[0].replace("SOAR", "SOAR, ResNet-10", 1) if row[0] == "SOAR (published)" else row[0], *row[1:]]
            for row in table.rows
        ]
    return table
