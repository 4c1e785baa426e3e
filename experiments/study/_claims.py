"""Claims about differences of two rows, paired by seed."""

from __future__ import annotations

import math
from typing import TypeAlias

from ._report import Claim, Verdict, verdict, verdict_alike
from ._statistics import PairedDifference

NOT_STUDIED = "not studied"
Theirs: TypeAlias = tuple[float, str] | None
"""A published difference and where it is from; ``None`` where nobody published one."""


def above(
    text: str, found: PairedDifference, theirs: Theirs = None, *, at_least: float = 0.0, counted: bool = True
) -> Claim:
    """The claim that the first row is above the second by more than ``at_least``."""
    return _claim(text, found, theirs, str(found), verdict(found, at_least), counted)


def alike(text: str, found: PairedDifference, within: float, theirs: Theirs = None, *, counted: bool = True) -> Claim:
    """The claim that the rows differ by less than ``within``."""
    return _claim(text, found, theirs, found.interval, verdict_alike(found, within), counted)


def _claim(text: str, found: PairedDifference, theirs: Theirs, ours: str, decided: Verdict, counted: bool) -> Claim:
    if theirs is None:
        return Claim(text, NOT_STUDIED, ours, "", decided, counted)
    value, where = theirs
    apart = "" if math.isnan(found.mean) else f"{found.mean - value:+.2f}"
    return Claim(text, f"{value:+.2f} ({where})", ours, apart, decided, counted)
