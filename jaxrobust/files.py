"""Writing files so that a process killed at any moment leaves the old ones or the new ones, never half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same folder, then rename it to ``path``."""
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, see :func:`write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text))
