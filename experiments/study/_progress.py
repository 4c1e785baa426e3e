"""Progress over the cells of a study."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """A progress bar on a terminal, one plain line per cell computed elsewhere. Both go to standard error."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._total = 0
        self._begin = time.monotonic()
        self._bar: Any = None

    def expect(self, cells: int) -> None:
        """Tell how many cells there will be in all; the bar starts."""
        self._total = cells
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=cells)
            self._bar.start()

    def begin(self, name: str) -> None:
        """A cell is being computed."""
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        else:
            seconds = time.monotonic() - self._begin
            total = f"/{self._total}" if self._total else ""
            print(f"[{seconds:6.1f} s] {len(self._done) + 1}{total} {name}", file=sys.stderr, flush=True)

    def end(self, name: str) -> None:
        """A cell is finished, now or before."""
        self._done.add(name)
        if self._bar is not None:
            self._bar.update(self._task, completed=len(self._done), total=max(self._total, len(self._done)))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
