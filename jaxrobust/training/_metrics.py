"""Where the metrics of a run go: a JSON line per record, and TensorBoard where asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrobust.files import write_text


class MetricsLog:
    """Writes ``metrics.jsonl`` (and TensorBoard events) in a folder, one record per call.

    A resumed run truncates what lies after its checkpoint, so that no step is recorded twice.

    Args:
        directory: the run's folder; made if missing.
        resume_step: records of later steps are dropped.
        tensorboard: also write TensorBoard events, which needs the extra ``tensorboard``.

    Raises:
        ImportError: with the command to run, if ``tensorboard`` is asked for and tensorboardX is missing.
    """

    def __init__(self, directory: str | Path, *, resume_step: int = 0, tensorboard: bool = False) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= resume_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        self._writer: Any = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    'TensorBoard output needs tensorboardX: pip install "jaxrobust[tensorboard]"'
                ) from error
            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalar metrics of one step."""
        record = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def write_event(self, step: int, name: str, value: float) -> None:
        """Write one number to TensorBoard alone: what differs from run to run and so is no metric."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line cut short by a killed run is left out."""
    records = []
    path = Path(path)
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
