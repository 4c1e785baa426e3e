"""Decoded arrays on disk: written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxrobust.files import replacing


def default_cache_dir() -> Path:
    """``jaxrobust`` under ``XDG_CACHE_HOME``, or under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrobust"


def _is_whole(path: Path, description: Path) -> bool:
    try:
        expected = json.loads(description.read_text())
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return [list(array.shape), str(array.dtype), path.stat().st_size] == expected


def cached_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array stored at ``path`` (``.npy``), made and stored if it is missing or damaged.

    A small ``.json`` beside it records shape, dtype and size, and is written last.
    """
    description = path.with_suffix(".json")
    if _is_whole(path, description):
        return np.load(path, allow_pickle=False)
    if path.exists():
        print(f"the cached array {path} is damaged and is made again", file=sys.stderr)
    array = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
        record = json.dumps([list(array.shape), str(array.dtype), temporary.stat().st_size])
    with replacing(description) as temporary:
        temporary.write_text(record)
    return array
