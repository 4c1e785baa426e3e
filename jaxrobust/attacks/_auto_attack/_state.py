"""The progress of an evaluation on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.files import write_atomically, write_text

DIGESTS = ("images or labels", "classifier's parameters")
"""What an identity holds as a digest only."""


class Progress:
    """What is known so far: arrays in memory, and in a folder if there is one.

    Layout: ``evaluation.json`` says what is evaluated, ``progress.npz`` holds all small arrays and is replaced as a
    whole after every batch, ``adversarial.npy`` holds the images found. An image is written before the progress that
    says that it was found, so a process killed at any moment loses the batch it was working on and nothing else.

    Args:
        folder: made if missing; ``None`` keeps everything in memory.
        identity: JSON values that say what is evaluated; compared with those of the folder.
        images: ``[n, ...]``, the clean images, floating point.

    Raises:
        ValueError: if the folder belongs to another evaluation or cannot be written.
    """

    def __init__(self, folder: str | Path | None, identity: dict[str, Any], images: np.ndarray) -> None:
        self._folder = None if folder is None else Path(folder)
        self.arrays: dict[str, np.ndarray] = {}
        if self._folder is None:
            self.images = images.copy()
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"state must be a folder that can be made; {self._folder}: {error.strerror or error}"
            ) from error
        _check(self._folder, json.loads(json.dumps(identity)))
        path = self._folder / "adversarial.npy"
        saved = self._folder / "progress.npz"
        if saved.exists() and path.exists():
            with np.load(saved, allow_pickle=False) as archive:
                self.arrays = dict(archive)
        else:
            write_atomically(path, lambda temporary: np.save(temporary, images))
        self.images = np.lib.format.open_memmap(path, mode="r+")

    def save(self) -> None:
        """Write what was found since the last call."""
        if self._folder is None:
            return
        self.images.flush()  # type: ignore[attr-defined]
        write_atomically(
            self._folder / "progress.npz", lambda temporary: np.savez(temporary, **dict[str, Any](self.arrays))
        )


def _check(folder: Path, identity: dict[str, Any]) -> None:
    """Mark a new folder with what is evaluated; refuse one that belongs to something else."""
    path = folder / "evaluation.json"
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        write_text(path, json.dumps(identity, indent=1) + "\n")
        return
    except json.JSONDecodeError:
        raise ValueError(f"{path} is not a state of auto_attack; use another folder for state") from None
    for name in sorted({*stored, *identity}):
        old, new = stored.get(name), identity.get(name)
        if old != new:
            found = f"its {name} differ" if name in DIGESTS else f"it has {name} = {old}, this one {new}"
            raise ValueError(
                f"the state in {folder} belongs to another evaluation: {found}. Use another folder for state, or delete "
                "this one to begin again"
            )
