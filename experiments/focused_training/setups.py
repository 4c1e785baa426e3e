"""What a row of the study's tables is, and the notation for it. Nothing heavy is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from jaxrobust.reporting import CommandError

Mode = Literal["monitor", "emulate", "emulate_pair", "oversample"]
Version = Literal["original", "a", "b", "c", "d", "e"]

SIZES = {"v": 1, "v'": 1, "2v": 2, "s": 1, "2s": 2, "4s": 4, "most": 1}
"""Sets of training images, in multiples of the setting's ``focus_size``."""
MARKS: dict[str, Mode] = {"": "monitor", "*": "emulate", "**": "emulate_pair", "+": "oversample"}

_SET = "|".join(sorted(SIZES, key=len, reverse=True))
_NOTATION = re.compile(
    rf"(?:-?(?P<hold_out>{_SET}))?,?(?P<version>[a-e])?\s*\((?P<focus>\.|{_SET})\)(?P<mark>\*\*|\*|\+)?"
)


@dataclass(frozen=True)
class Setup:
    """One row: what is held out, what is focused on, and how.

    Attributes:
        hold_out: set that is removed from the training images, or ``None``.
        focus: set that PGD-40 attacks after every epoch, and whose accuracy says which epoch is the best; or ``None``.
        mode: what else happens to the focus set.

            * ``"monitor"``: nothing; training does not know of it.
            * ``"emulate"``: in the beginning of each epoch PGD-40 examples of the whole set are made with the averaged
              weights, and every batch holds some of them as if they were images. TRADES perturbs them once more, so
              they may end up at twice the radius.
            * ``"emulate_pair"``: these examples are the adversarial partners of their clean images.
            * ``"oversample"``: every batch holds some of the set's clean images, to tell a harder attack from being seen
              more often. Not part of the published study.
        version: of the learning rate, see :func:`jaxrobust.schedules.one_cycle_version`.
        batch_size: images per batch, those of the focus set included.
        focus_per_batch: of these, images of the focus set.
        epochs: number of epochs.
        seeds: one network each.
        reference: table and row of the published numbers beside it; the row's setup may be only alike.
    """

    hold_out: str | None = None
    focus: str | None = None
    mode: Mode = "monitor"
    version: Version = "original"
    batch_size: int = 128
    focus_per_batch: int = 0
    epochs: int = 60
    seeds: tuple[int, ...] = (0,)
    reference: tuple[int, int] | None = None

    def __str__(self) -> str:
        """The study's notation, such as ``-v,c (2s)*``."""
        left = ",".join(
            [
                *([] if self.hold_out is None else [f"-{self.hold_out}"]),
                *([] if self.version == "original" else [self.version]),
            ]
        )
        mark = next(mark for mark, mode in MARKS.items() if mode == self.mode)
        return f"{left} ({self.focus or '.'}){mark}".strip()

    @property
    def run(self) -> str:
        """Names what is trained: rows that differ only in what they monitor are the same networks."""
        parts = [
            "all" if self.hold_out is None else f"without_{self.hold_out}",
            *([] if self.version == "original" else [f"version_{self.version}"]),
            *([] if self.mode == "monitor" else [f"{self.mode}_{self.focus}"]),
        ]
        return "-".join(parts).replace("'", "_prime")

    @property
    def ordinary(self) -> int:
        """Images per batch that are not of the focus set."""
        return self.batch_size - self.focus_per_batch


def parse(text: str) -> dict[str, Any]:
    """The notation as keyword arguments of :class:`Setup`: ``hold_out``, ``focus``, ``mode`` and ``version``.

    The minus may be left out: command lines take what begins with one for an option.

    Raises:
        CommandError: for a text that is no setup, or one that contradicts itself.

    Example:
        >>> parse("-v,c (2s)*")
        {'hold_out': 'v', 'focus': '2s', 'mode': 'emulate', 'version': 'c'}
    """
    found = _NOTATION.fullmatch(text.strip())
    if found is None:
        raise CommandError(
            f"unknown row {text!r}; a row is written [HELD OUT][,VERSION] (FOCUS)[MARK], e.g. 'v (s)', 'v,c (2s)*' or "
            f"'v (.)'; sets are {', '.join(SIZES)}, versions of the learning rate a to e, marks * (emulate), "
            "** (emulate_pair) and + (oversample)"
        )
    focus = None if found["focus"] == "." else found["focus"]
    mode = MARKS[found["mark"] or ""]
    if mode != "monitor" and focus is None:
        raise CommandError(f"the row {text!r} trains on a focus set and names none")
    if mode != "monitor" and focus == found["hold_out"]:
        raise CommandError(f"the row {text!r} holds out the set that it trains on")
    version = found["version"] or "original"
    return {"hold_out": found["hold_out"], "focus": focus, "mode": mode, "version": version}
