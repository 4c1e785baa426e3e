"""A progress bar on the terminal for long work with a known end."""

from __future__ import annotations

import sys
from typing import Any


class ProgressBar:
    """A bar on standard error with count, remaining time and a text; nothing where none is wanted. A context manager.

    Args:
        total: the count at the end.
        completed: the count at the beginning, above 0 when earlier work is continued.
        show: by default whether standard error is a terminal.
    """

    def __init__(self, total: float, *, completed: float = 0, show: bool | None = None, text: str = "") -> None:
        self._bar: Any = None
        if show if show is not None else sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(text, total=total, completed=completed)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, completed: float, text: str) -> None:
        """Show a new count and text."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, description=text)
