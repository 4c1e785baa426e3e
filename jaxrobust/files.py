"""Writing files so that a process killed at any moment leaves the old ones or the new ones, never half of one."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place if the block ends well and is removed otherwise.

    Its name is used once: several processes may make the same file, and the last one's stays. It begins with a dot and
    keeps the suffix; a process killed while it writes leaves it behind.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill the file, as a whole or not at all, see :func:`replacing`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, see :func:`write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text))


def fingerprint(*arrays: np.ndarray | jax.Array) -> str:
    """A digest of shapes, dtypes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        is_key = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
        values = np.asarray(jax.random.key_data(array) if is_key else array)
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
