"""A study's folder: its configuration and its finished cells, safe against being killed at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from jaxrobust.files import write_atomically, write_text
from jaxrobust.reporting import CommandError, ResultFolder, read_json

from ._progress import Progress
from ._report import Section

_FINISHED = "[!.]*.json"
"""The finished cells; a killed run may leave temporary files beside them, whose names begin with a dot."""


Compute = Callable[[], Mapping[str, Any] | tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]
"""Makes a cell's JSON values, or a pair of those and a mapping of arrays."""


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _stem(name: str) -> str:
    """A cell's name as the name of a file."""
    return name.replace("/", "--")


class Run:
    """One study in one folder; use it as a context manager.

    Layout: ``config.json``, ``cells/<name>.json`` (with ``cells/<name>.npz`` where a cell has arrays),
    ``metrics.jsonl`` (all cells, one a line, rewritten at the end), ``timings.jsonl`` (one line per cell computed),
    ``checkpoints/`` while a long cell is being computed, and what the study adds: ``report.md``, ``figures/``.

    Args:
        folder: made if missing.
        configuration: what decides the numbers, as JSON values. A folder belongs to the configuration of what it holds.

    Raises:
        CommandError: if the folder cannot be written, is in use by another run, or holds another configuration.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._cells, self._checkpoints = self.folder / "cells", self.folder / "checkpoints"
        self._claim = ResultFolder(self.folder, configuration, results=(f"cells/{_FINISHED}", "checkpoints"))
        self._cells.mkdir(exist_ok=True)
        self._locks: dict[str, Lock] = {}
        self.progress = Progress()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        self._claim.close()

    def cell(
        self,
        name: str,
        compute: Compute,
    ) -> dict[str, Any]:
        """The result of a cell: read if it is finished, else computed and stored.

        Threads may ask for the same cell: one computes it and the others wait.

        Args:
            name: unique in the study; ``/`` separates levels.
            compute: returns JSON values, or a pair of those and a mapping of arrays. Arrays come back under the key
                ``"arrays"``.

        Raises:
            CommandError: if the result cannot be written (a full disk, for instance).
        """
        with self._locks.setdefault(name, Lock()):
            return self._cell(name, compute)

    def _cell(
        self,
        name: str,
        compute: Compute,
    ) -> dict[str, Any]:
        path, arrays_path = self._cells / f"{_stem(name)}.json", self._cells / f"{_stem(name)}.npz"
        if read_json(path) is None:
            begin = time.monotonic()
            self.progress.begin(name)
            result = compute()
            values, arrays = result if isinstance(result, tuple) else (result, {})
            try:
                # The JSON file is written last: it says that the cell is whole.
                if arrays:
                    write_atomically(arrays_path, lambda temporary: np.savez(temporary, **dict[str, Any](arrays)))
                record = {"cell": name, **values}
                write_text(path, _dump(record))
                with (self.folder / "timings.jsonl").open("a") as file:
                    file.write(json.dumps({"cell": name, "seconds": round(time.monotonic() - begin, 3)}) + "\n")
            except OSError as error:
                raise CommandError(
                    f"cannot store the result of {name} in {self._cells}: {error.strerror or error}; finished cells "
                    "are kept, run the same command again when there is room"
                ) from error
        self.progress.end(name)
        stored: dict[str, Any] = read_json(path) or {}
        if arrays_path.exists():
            with np.load(arrays_path) as file:
                stored["arrays"] = dict(file)
        return stored

    def is_finished(self, name: str) -> bool:
        """Whether the cell is on disk."""
        return read_json(self._cells / f"{_stem(name)}.json") is not None

    def checkpoints(self, name: str) -> Path:
        """Where a long cell keeps its progress while it is being computed; whoever fills the folder removes it."""
        return self._checkpoints / _stem(name)

    def write_section(self, part: str, section: Section) -> None:
        """Store one part's section, so that the report holds every part that is finished."""
        (self.folder / "sections").mkdir(exist_ok=True)
        self.write_text(f"sections/{part}.json", _dump(asdict(section)))

    def read_section(self, part: str) -> Section | None:
        """A stored section, or ``None``."""
        stored = read_json(self.folder / "sections" / f"{part}.json")
        return None if stored is None else Section.from_json(stored)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the study atomically."""
        path = self.folder / name
        write_text(path, text)
        return path

    def write_metrics(self) -> None:
        """Collect all finished cells in ``metrics.jsonl``, in the order of their names."""
        records = [record for path in sorted(self._cells.glob(_FINISHED)) if (record := read_json(path)) is not None]
        self.write_text("metrics.jsonl", "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))
