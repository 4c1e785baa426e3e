"""Comparisons of rows, and their published counterparts, as claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.study import Claim, Theirs, above, paired_difference

from . import published
from .outcomes import Outcome, Outcomes
from .tables import head

TABLES = {
    "3.2": published.WHITE_BOX,
    "3.3": published.BLACK_BOX,
    "3.4": published.AUTO_ATTACK,
    "3.7": published.INITIALISATION,
    "3.8": published.FOAR_INITIALISATION,
    "3.9": published.L2,
    "3.10": published.CAPACITY,
}


def lead(text: str, outcome: Outcome, first: str, second: str, theirs: Theirs = None, at_least: float = 0.0) -> Claim:
    """The claim that a row's accuracy in the first column is above that in the second by so much, on the same images."""
    found = outcome.gap(first, second)
    return above(text, paired_difference(found, [0.0] * len(found)), theirs, at_least=at_least)


def gap(table: str, a: tuple[str, str], b: tuple[str, str]) -> Theirs:
    """A published difference of two entries, each a row and a column; ``None`` where one is missing."""
    entries = TABLES[table]
    try:
        return entries[a[0]][a[1]] - entries[b[0]][b[1]], f"table {table}"
    except KeyError:
        return None


def rows(
    outcomes: Outcomes, column: str, a: str, b: str, table: str, counted: bool = True, attack: str | None = None
) -> list[Claim]:
    """The claim that row ``a`` is above row ``b``; none where one was not measured."""
    if a not in outcomes or b not in outcomes or column not in outcomes[a] or column not in outcomes[b]:
        return []
    first, second = outcomes[a], outcomes[b]
    text = f"{attack or head(column)}: {first.row.label} above {second.row.label}"
    theirs = gap(table, (a, column), (b, column))
    return [above(text, paired_difference(first.column(column), second.column(column)), theirs, counted=counted)]


def best(outcomes: Outcomes, columns: Iterable[str], name: str, others: Sequence[str], table: str) -> list[Claim]:
    """The row above the best of the others, by the mean."""
    claims = []
    for column in columns:
        rivals = [other for other in others if other in outcomes and column in outcomes[other] and other != name]
        if name not in outcomes or column not in outcomes[name] or not rivals:
            continue
        rival = max(rivals, key=lambda other: outcomes[other].mean(column))
        theirs = max(row[column] for other, row in TABLES[table].items() if other in others and other != name)
        claims.append(
            above(
                f"{head(column)}: {outcomes[name].row.label} above the best other method (ours: {outcomes[rival].row.label})",
                paired_difference(outcomes[name].column(column), outcomes[rival].column(column)),
                (TABLES[table][name][column] - theirs, f"table {table}"),
            )
        )
    return claims
