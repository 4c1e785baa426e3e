"""The order of training data: a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np


def generator(seed: int, epoch: int, *stream: int) -> np.random.Generator:
    """Random numbers of an epoch, independent for each seed, epoch and stream."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch], spawn_key=stream)))


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(size)``, int32, independent for each pair of seed and epoch."""
    return generator(seed, epoch).permutation(size).astype(np.int32)


def epoch_batches(
    size: int, batch_size: int, seed: int, epoch: int, drop_last: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The indices of one epoch: full batches ``[steps, batch_size]``, and the last partial one or ``None``."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = epoch_order(size, seed, epoch)
    steps = size // batch_size
    full, rest = order[: steps * batch_size].reshape(steps, batch_size), order[steps * batch_size :]
    return full, None if drop_last or not rest.size else rest


def steps_per_epoch(size: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of batches in an epoch."""
    return size // batch_size if drop_last else -(-size // batch_size)
