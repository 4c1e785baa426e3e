"""What a run shows and writes while it goes on: progress bar, metrics, speed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import jax

from jaxrobust.progress import ProgressBar

from ._metrics import MetricsLog


class Records:
    """The progress bar, ``metrics.jsonl`` and ``timings.jsonl`` of one run of :func:`fit`; a context manager.

    On several hosts only the first one shows and writes.

    Args:
        directory: where to write; nothing is written without it.
        step: steps made before.
        steps: steps in all.
        tensorboard: also write TensorBoard events.
        progress: show a progress bar; by default when the output is a terminal.
    """

    def __init__(
        self, directory: str | Path | None, step: int, steps: int, *, tensorboard: bool, progress: bool | None
    ) -> None:
        first = jax.process_index() == 0
        self._stack = ExitStack()
        self._log: MetricsLog | None = None
        self._timings: IO[str] | None = None
        if directory is not None and first:
            self._log = MetricsLog(directory, resume_step=step, tensorboard=tensorboard)
            self._stack.callback(self._log.close)
            self._timings = self._stack.enter_context((Path(directory) / "timings.jsonl").open("a"))
        self._bar = ProgressBar(steps, completed=step, show=progress if first else False, text="training")
        self._step, self._time, self._shown = step, time.monotonic(), ""

    def __enter__(self) -> Records:
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def training(self, step: int, metrics: Mapping[str, Any], *, images: int) -> None:
        """Record the metrics of a step whose batch had so many images, and the speed since the last record."""
        values = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()
        seconds, speed = now - self._time, images * (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        if self._log is not None:
            self._log.write(step, values)
            self._log.write_event(step, "images_per_second", speed)
        if self._timings is not None:
            timing = {"step": step, "seconds": round(seconds, 3), "images_per_second": round(speed, 1)}
            self._timings.write(json.dumps(timing) + "\n")
            self._timings.flush()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "gradient_norm")
        self._shown = f"{shown}  {speed:.0f} images/s"
        self._bar.update(step, self._shown)

    def evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Record what was measured after a step; the time it took does not count as training."""
        values = {f"eval/{name}": float(value) for name, value in results.items()}
        if self._log is not None:
            self._log.write(step, values)
        self._bar.update(step, self._shown + "".join(f"  {name} {value:.4g}" for name, value in values.items()))
        self._step, self._time = step, time.monotonic()
