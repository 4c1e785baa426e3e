"""Work on a data set that can be interrupted: tasks, each with its results in a file of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.batching import Batches, data_mesh, replicate
from jaxrobust.files import write_atomically
from jaxrobust.iteration import Closure
from jaxrobust.progress import ProgressBar


@dataclass(frozen=True)
class Task:
    """What is computed of some images.

    Attributes:
        name: of its file; it says everything that decides the results.
        text: for people.
        rows: numbers of the images, in order.
        compute: of a network, images and labels, arrays ``[batch, ...]`` by name. Images must not influence each other.
    """

    name: str
    text: str
    rows: np.ndarray
    compute: Callable[[LogitsFn, jax.Array, jax.Array], dict[str, jax.Array]]


class Results:
    """What a task has found so far. Its file is replaced as a whole after every batch.

    A process killed at any moment loses the batch it was working on and nothing else.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self._path = task, folder / f"{task.name}.npz"
        self._arrays: dict[str, np.ndarray] = {}
        self._first = True
        if self._path.exists():
            with np.load(self._path, allow_pickle=False) as archive:
                self._arrays = dict(archive)

    @property
    def done(self) -> int:
        """How many images are done; more than the task has, if it once had more."""
        return int(self._arrays["batch_kept"].sum()) if self._arrays else 0

    def __getitem__(self, name: str) -> np.ndarray:
        """An array of the task's images, ``[rows, ...]``."""
        return self._arrays[name][: len(self.task.rows)]

    def of_all(self, name: str, count: int, dtype: Any) -> np.ndarray:
        """An array for ``count`` images, 0 for those that are not the task's."""
        whole = np.zeros(count, dtype)
        if len(self.task.rows):
            whole[self.task.rows] = self[name]
        return whole

    def add(self, found: dict[str, Any], *, kept: int, size: int, seconds: float) -> None:
        """Add what was found of a batch: ``kept`` images, and copies up to ``size``."""
        new = {name: np.asarray(array)[:kept] for name, array in found.items()}
        batch = {"kept": kept, "size": size, "seconds": seconds, "first": self._first}
        new |= {f"batch_{name}": np.array([value]) for name, value in batch.items()}
        old, self._first = self._arrays, False
        self._arrays = {name: np.concatenate([old[name], array]) if old else array for name, array in new.items()}
        write_atomically(self._path, lambda temporary: np.savez(temporary, **dict[str, Any](self._arrays)))

    def times(self) -> dict[str, float | bool]:
        """Seconds in all, and per image in the median batch.

        The first batch after each start is left out of the median, as programs are compiled then, unless it is the only one.
        """
        if not self._arrays:
            return {"seconds": 0.0}
        seconds, later = self._arrays["batch_seconds"], ~self._arrays["batch_first"]
        per_image = seconds / self._arrays["batch_size"]
        return {
            "seconds": float(seconds.sum()),
            "seconds_per_image": float(np.median(per_image[later] if later.any() else per_image)),
            "with_compilation": not later.any(),
        }


def run_tasks(
    tasks: Sequence[Task], logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray, *, folder: Path, batch_size: int
) -> list[Results]:
    """Compute what the files in a folder do not hold yet, in batches of one shape, on all devices of this process."""
    folder.mkdir(exist_ok=True)
    mesh = data_mesh(jax.local_devices())
    closure = replicate(Closure(logits_fn), mesh)
    results = [Results(task, folder) for task in tasks]

    def count() -> int:
        return sum(min(found.done, len(found.task.rows)) for found in results)

    with ProgressBar(sum(len(task.rows) for task in tasks), completed=count()) as bar:
        for number, found in enumerate(results):
            rows, text = found.task.rows, f"{found.task.text} ({number + 1} of {len(tasks)})"
            if found.done >= len(rows):
                continue
            batches = Batches(images, labels, jax.random.key(0), min(batch_size, len(rows)), mesh)
            for batch in batches(rows[found.done :]):
                bar.update(count(), text)
                begin = time.perf_counter()
                new = jax.block_until_ready(found.task.compute(closure, batch.images, batch.labels))
                seconds = time.perf_counter() - begin
                found.add(new, kept=batch.kept, size=len(batch.numbers), seconds=seconds)
            bar.update(count(), text)
    return results
