"""Reports: claims, sections and their Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxrobust.reporting import Table, print_table

from ._statistics import PairedDifference


def pixels(radius: float) -> str:
    """A radius, multiples of 1/255 as such."""
    steps = radius * 255
    return f"{round(steps)}/255" if 0 < radius < 0.09 and abs(steps - round(steps)) < 1e-6 else f"{radius:g}"


Verdict = Literal["holds", "does not hold", "not shown"]


def verdict(difference: PairedDifference, at_least: float = 0.0) -> Verdict:
    """Whether ``a - b > at_least`` is shown by the interval over seeds, refuted by it, or neither.

    A single seed shows nothing, whatever its value.
    """
    if math.isnan(difference.low):
        return "not shown"
    if difference.low > at_least:
        return "holds"
    return "does not hold" if difference.high < at_least else "not shown"


def verdict_alike(difference: PairedDifference, within: float) -> Verdict:
    """Whether ``|a - b| < within`` is shown by the interval over seeds, refuted by it, or neither.

    A single seed shows nothing, whatever its value.
    """
    if math.isnan(difference.low):
        return "not shown"
    if -within < difference.low and difference.high < within:
        return "holds"
    return "does not hold" if difference.low > within or difference.high < -within else "not shown"


def holds(condition: bool) -> Verdict:
    """The verdict on an exact statement; what is measured over seeds needs an interval."""
    return "holds" if condition else "does not hold"


@dataclass
class Claim:
    """A published claim beside what was found."""

    text: str
    published: str
    ours: str
    difference: str
    verdict: Verdict
    counted: bool = True
    """``False`` for a negative control: reported, but not part of the summary."""


@dataclass
class Section:
    """One part of a report."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    """File below the report's folder, without suffix, and caption."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Section:
        """Rebuild from ``dataclasses.asdict``."""
        return cls(
            title=stored["title"],
            text=stored["text"],
            tables=[Table(**table) for table in stored["tables"]],
            claims=[Claim(**claim) for claim in stored["claims"]],
            figures=[(path, caption) for path, caption in stored["figures"]],
        )

    def claims_table(self) -> Table:
        """All claims: published | ours | difference | does the claim hold."""
        return Table(
            f"{self.title}: does the claim hold?",
            ("claim", "published", "ours", "difference", "verdict"),
            [
                (
                    c.text,
                    c.published,
                    c.ours,
                    c.difference,
                    c.verdict if c.counted else f"{c.verdict} (control)",
                )
                for c in self.claims
            ],
        )

    def markdown(self) -> str:
        """The section in Markdown."""
        parts = [f"## {self.title}\n", *(f"{paragraph}\n" for paragraph in self.text)]
        if self.claims:
            parts.append(self.claims_table().markdown())
        parts += [table.markdown() for table in self.tables]
        parts += [f"![{caption}]({path}.png)\n\n*{caption}*\n" for path, caption in self.figures]
        return "\n".join(parts)


def report(title: str, introduction: Iterable[str], sections: Iterable[Section]) -> str:
    """The whole report in Markdown, opening with a count of the verdicts."""
    sections = list(sections)
    counted = [claim.verdict for section in sections for claim in section.claims if claim.counted]
    words: tuple[Verdict, ...] = ("holds", "does not hold", "not shown")
    summary = ", ".join(f"{counted.count(word)} × {word}" for word in words)
    rule = (
        "A claim measured over seeds holds, or does not, where its 95 % interval leaves no doubt; otherwise, and with a "
        "single seed, it is not shown."
    )
    lines = [f"# {title}\n", *(f"{line}\n" for line in introduction), f"Claims: {summary}. {rule}\n"]
    return "\n".join([*lines, *(section.markdown() for section in sections)])


def print_sections(sections: Iterable[Section], folder: Path) -> None:
    """Print what a study found, and where in its folder the report is."""
    for section in sections:
        for table in section.tables:
            print_table(table)
        if section.claims:
            print_table(section.claims_table())
    print(f"report:  {folder / 'report.md'}")
    print(f"figures: {folder / 'figures'}")
