"""The order of training data: a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(size)``, int32, independent for each pair of seed and epoch."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(size).astype(np.int32)


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


class _Batches:
    """Random access to the batches of a run, as Grain wants its sources."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, epochs: int, drop_last: bool
    ) -> None:
        self._images, self._labels, self._seed = images, labels, seed
        self._batch_size, self._drop_last = batch_size, drop_last
        self._steps = steps_per_epoch(len(images), batch_size, drop_last)
        self._length = self._steps * epochs
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(step, self._steps)
        known, order = self._order
        if known != epoch:
            order = epoch_order(len(self._images), self._seed, epoch)
            self._order = (epoch, order)
        index = order[position * self._batch_size : (position + 1) * self._batch_size]
        return {"images": self._images[index], "labels": self._labels[index]}


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epochs: int,
    start_step: int = 0,
    drop_last: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Shuffled batches ``{"images", "labels"}`` for a training loop, read ahead by Grain.

    The batch of a step depends only on the arguments before ``start_step``, so a run continues where it stopped.

    Raises:
        ValueError: for arrays of different length, or if there is not one batch.
    """
    import grain

    if len(images) != len(labels):
        raise ValueError(f"images and labels differ in length: {len(images)} and {len(labels)}")
    source = _Batches(images, np.asarray(labels, np.int32), batch_size, seed, epochs, drop_last)
    if not len(source):
        raise ValueError(f"no batch of {batch_size} in {len(images)} images and {epochs} epochs")
    dataset = grain.MapDataset.source(source)[start_step:]
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))
