"""The stream of training batches: every batch a pure function of seed, epoch and step."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ._order import epoch_order, generator, steps_per_epoch
from ._source import ImageSource

ORIGINAL, GENERATED, FOCUS = range(3)
"""Streams of random numbers within an epoch."""

READ_AHEAD = 512 << 20
"""Bytes of batches that wait to be used, as far as there is one batch for each thread."""


@dataclass(frozen=True)
class Generated:
    """Generated images that fill a part of every batch (Gowal et al. 2021; Wang et al. 2023).

    Attributes:
        images: ``[m, height, width, channels]``, of the shape and dtype of the original images; see :func:`open_npz`.
        labels: integers ``[m]``, the classes that the images were generated for.
        fraction: share of a batch, rounded down to ``int(fraction * batch_size)`` images.
    """

    images: ImageSource
    labels: np.ndarray
    fraction: float = 0.8


@dataclass(frozen=True)
class Focus:
    """A small set of which every batch names some members.

    The set itself, such as adversarial examples that the training step crafts and keeps, is none of the stream's
    business: a batch holds their row numbers, under ``"focus"``.

    Attributes:
        size: members of the set.
        per_batch: members per batch.
    """

    size: int
    per_batch: int


@dataclass(frozen=True)
class Shard:
    """The part of every batch of ``B`` rows that one of several processes reads.

    It is the rows from ``index * B / count`` to ``(index + 1) * B / count``.

    Attributes:
        index: number of the process, such as ``jax.process_index()``.
        count: number of processes, such as ``jax.process_count()``.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a shard's index must lie in 0..count - 1, got index={self.index}, count={self.count}")

    def rows(self, size: int) -> slice:
        """This shard's rows of ``size``."""
        if size % self.count:
            raise ValueError(
                f"{self.count} shards do not divide a batch of {size}; choose another size, and drop_last=True where "
                "an epoch's last batch is smaller"
            )
        return slice(self.index * size // self.count, (self.index + 1) * size // self.count)


def batches(
    images: ImageSource,
    labels: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epochs: int,
    start_step: int = 0,
    drop_last: bool = False,
    generated: Generated | None = None,
    epoch_steps: int | None = None,
    focus: Focus | None = None,
    shard: Shard | None = None,
    workers: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Shuffled batches ``{"images", "labels"}`` for a training loop, read ahead by Grain.

    The batch of a step depends neither on ``start_step`` nor on ``workers``: a run continues where it stopped. Making
    it costs as much as its rows, and once per epoch a permutation of the original images, however many generated
    ones there are.

    Plain epochs are permutations of the images, cut into batches, of which the last may be smaller. With ``generated``
    or ``epoch_steps`` all batches are full and an epoch has ``epoch_steps`` of them. Its original images are
    consecutive pieces of a new permutation, and of further ones if that runs out; its generated images, behind the
    original ones in a batch, are drawn uniformly with replacement.

    Args:
        images: ``[n, ...]``, an array or another :class:`ImageSource`. Pixels stay as they are: 8-bit images become
            floating point on the device.
        labels: integers ``[n]``.
        batch_size: images per batch, of all processes together.
        seed: of the order, not negative.
        epochs: number of epochs.
        start_step: number of batches to leave out, those of earlier epochs included.
        drop_last: leave out an epoch's last batch if it is not full.
        generated: fill a part of every batch with generated images.
        epoch_steps: batches per epoch; by default ``steps_per_epoch(n, batch_size, drop_last)``. Published recipes
            count 25 steps of 2048 images, as for 50,000 original ones, also where some of these are held out.
        focus: add to every batch ``"focus"``, int32 ``[per_batch]``: consecutive pieces of a permutation of the set
            that is new in every epoch, and of further ones if that runs out.
        shard: give only these rows of every batch (also of ``"focus"``), and read no others.
        workers: threads that read batches. Where rows come from a slow disk, more of them wait at the same time.

    Raises:
        ValueError: for arrays of different length, images of different shapes or dtypes, sizes that cannot be, a shard
            that does not divide a batch, or if there is not one batch.

    Example:
        >>> generated = Generated(np.ones((90, 2, 2, 1), np.uint8), np.ones(90, int), fraction=0.6)
        >>> batch = next(batches(
        ...     np.zeros((20, 2, 2, 1), np.uint8), np.zeros(20), 5, seed=0, epochs=1, generated=generated))
        >>> batch["labels"].tolist()
        [0, 0, 1, 1, 1]
    """
    import grain

    labels = np.asarray(labels)
    _check(images, labels, batch_size, generated, epoch_steps, focus)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    shard = Shard(0, 1) if shard is None else shard
    source = _Batches(images, labels, batch_size, seed, epochs, drop_last, generated, epoch_steps, focus, shard)
    batch_bytes = batch_size // shard.count * math.prod(images.shape[1:]) * images.dtype.itemsize
    ahead = max(workers, min(2 * workers, READ_AHEAD // max(batch_bytes, 1)))
    dataset = grain.MapDataset.source(source)[start_step:]
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=workers, prefetch_buffer_size=ahead)))


class _Permutations:
    """Endlessly many permutations of ``range(size)`` in each epoch, one behind the other."""

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self._size, self._seed, self._stream = size, seed, stream
        self._cached = functools.lru_cache(maxsize=2)(self._permutation)  # threads read ahead into the next epoch

    def _permutation(self, epoch: int, number: int) -> np.ndarray:
        if (self._stream, number) == (ORIGINAL, 0):
            return epoch_order(self._size, self._seed, epoch)
        return generator(self._seed, epoch, self._stream, number).permutation(self._size).astype(np.int32)

    def __call__(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """Entries ``begin`` to ``end``."""
        parts = [np.empty(0, np.int32)]
        for number in range(begin // self._size, -(-end // self._size)):
            first = number * self._size
            parts.append(self._cached(epoch, number)[max(begin - first, 0) : end - first])
        return np.concatenate(parts)


class _Batches:
    """Random access to the batches of a run, as Grain wants its sources; several threads use it at once."""

    def __init__(
        self,
        images: ImageSource,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        epochs: int,
        drop_last: bool,
        generated: Generated | None,
        epoch_steps: int | None,
        focus: Focus | None,
        shard: Shard,
    ) -> None:
        self._images, self._labels, self._seed = images, labels, seed
        self._generated, self._focus, self._shard = generated, focus, shard
        self._drawn = int(generated.fraction * batch_size) if generated is not None else 0
        self._taken = batch_size - self._drawn
        self._steps = steps_per_epoch(len(images), batch_size, drop_last) if epoch_steps is None else epoch_steps
        self._length = self._steps * epochs
        if self._length < 1 or not len(images):
            raise ValueError(f"no batch of {batch_size} in {len(images)} images and {epochs} epochs")
        # Plain epochs are over with their permutation; others go on with the next one.
        is_plain = generated is None and epoch_steps is None
        self._end = len(images) if is_plain else self._steps * self._taken
        self._order = _Permutations(len(images), seed, ORIGINAL)
        self._focus_order = None if focus is None else _Permutations(focus.size, seed, FOCUS)
        last = min(self._end - (self._steps - 1) * self._taken, self._taken) + self._drawn
        for size in (batch_size, last, 0 if focus is None else focus.per_batch):
            shard.rows(size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(step, self._steps)
        begin = step * self._taken
        rows = self._order(epoch, begin, min(begin + self._taken, self._end))
        here = self._shard.rows(len(rows) + self._drawn)
        parts = [(self._images, self._labels, rows[here])]
        if self._generated is not None:
            size = len(self._generated.images)
            drawn = generator(self._seed, epoch, GENERATED, step).integers(size, size=self._drawn)
            behind = slice(max(here.start - len(rows), 0), max(here.stop - len(rows), 0))
            parts.append((self._generated.images, np.asarray(self._generated.labels), drawn[behind]))
        parts = [part for part in parts if len(part[2])]
        batch = {
            "images": _joined([images[rows] for images, _, rows in parts]),
            "labels": _joined([labels[rows] for _, labels, rows in parts]).astype(np.int32),
        }
        if self._focus is not None and self._focus_order is not None:
            count = self._focus.per_batch
            batch["focus"] = self._focus_order(epoch, step * count, (step + 1) * count)[self._shard.rows(count)]
        return batch


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check(
    images: ImageSource,
    labels: np.ndarray,
    batch_size: int,
    generated: Generated | None,
    epoch_steps: int | None,
    focus: Focus | None,
) -> None:
    if len(images) != len(labels):
        raise ValueError(f"images and labels differ in length: {len(images)} and {len(labels)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if epoch_steps is not None and epoch_steps < 1:
        raise ValueError(f"epoch_steps must be at least 1, got {epoch_steps}")
    if focus is not None and min(focus.size, focus.per_batch) < 1:
        raise ValueError(f"focus needs at least one member, and one per batch, got {focus}")
    if generated is None:
        return
    if not 0 <= generated.fraction <= 1:
        raise ValueError(f"the fraction of generated images must lie in [0, 1], got {generated.fraction}")
    if len(generated.images) != len(generated.labels) or not len(generated.images):
        raise ValueError(
            "generated images and labels must have the same length, at least 1: got "
            f"{len(generated.images)} and {len(generated.labels)}"
        )
    kinds = [(tuple(one.shape[1:]), np.dtype(one.dtype)) for one in (images, generated.images)]
    if kinds[0] != kinds[1]:
        texts = [f"{dtype} {shape}" for shape, dtype in kinds]
        raise ValueError(f"generated images must be like the original ones, {texts[0]}; they are {texts[1]}")
