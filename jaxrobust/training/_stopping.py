"""Stopping a run from outside: SIGTERM and Ctrl-C end it after the step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax

EXIT_TERMINATED = 75
"""Exit code of a run that SIGTERM ended after saving: the one of ``sysexits.h`` for 'temporary failure, try again'."""


class Terminated(SystemExit):
    """SIGTERM came; everything up to this step is saved, and the same call continues.

    Uncaught, it ends the program with exit code :data:`EXIT_TERMINATED`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message, self.code = message, EXIT_TERMINATED

    def __str__(self) -> str:
        return self.message


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying from them; a context manager.

    A second SIGINT interrupts at once. Outside the main thread, where Python sets no handlers, nothing is noted. On several
    hosts a SIGTERM to any process stops all of them after the same step (JAX's preemption service).
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, *((signal.SIGTERM,) if jax.process_count() == 1 else ())):
                self._previous[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def after(self, step: int) -> signal.Signals | None:
        """The signal that ends the run after this step, if any; on several hosts the same answer everywhere."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
        return self.received
