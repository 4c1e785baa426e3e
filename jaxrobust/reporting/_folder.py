"""A folder of results: of one configuration, and used by one process at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrobust.files import write_text

from ._command import CommandError


class ResultFolder:
    """Claims a folder for one configuration, which is kept in its ``config.json``; a context manager.

    Args:
        folder: made if missing.
        configuration: what decides the results, as JSON values.
        results: patterns of files below the folder that are results. Without any, another configuration may take the
            folder over: a run that ended in a mistake does not claim it.

    Raises:
        CommandError: if the folder cannot be written, is in use by another run, or holds results of another
            configuration.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any], *, results: tuple[str, ...]) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise CommandError(
                f"cannot write to {folder}: {error.strerror or error}; choose another folder with --output"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise CommandError(
                f"another run is using {folder}; wait for it or choose another folder with --output"
            ) from error
        self._claim(configuration, results)

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    def _claim(self, configuration: Mapping[str, Any], results: tuple[str, ...]) -> None:
        text = json.dumps(configuration, indent=1, sort_keys=True) + "\n"
        path = self.folder / "config.json"
        stored = read_json(path)
        if stored is None or not any(True for pattern in results for _ in self.folder.glob(pattern)):
            write_text(path, text)
            return
        differences = list(_differences(stored, json.loads(text)))
        if differences:
            self.close()
            listed = "; ".join(differences[:5]) + (" ..." if len(differences) > 5 else "")
            raise CommandError(
                f"{self.folder} holds results of another configuration ({listed}); choose another folder with "
                "--output, or delete this one"
            )


def read_json(path: Path) -> Any | None:
    """The JSON in a file, or ``None`` if it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _differences(stored: Any, given: Any, path: str = "") -> Iterator[str]:
    if not isinstance(stored, dict) or not isinstance(given, dict):
        if stored != given:
            yield f"{path}: {json.dumps(stored)} there, {json.dumps(given)} now"
        return
    for key in sorted({*stored, *given}):
        inner = f"{path}.{key}" if path else key
        if key not in given:
            yield f"{inner}: there, but not now"
        elif key not in stored:
            yield f"{inner}: now, but not there"
        else:
            yield from _differences(stored[key], given[key], inner)
