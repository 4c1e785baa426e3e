"""Rows of a study trained and measured at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

import jax

from jaxrobust.reporting import CommandError


def together(tasks: Sequence[Sequence[Callable[[], object]]], workers: int) -> None:
    """Take the steps of every task in order, several tasks at a time.

    XLA computes small networks on one core; threads use the others. After an error or an interrupt, the steps that are
    being taken are still finished, so that their cells are kept.
    """
    if workers == 1:
        for task in tasks:
            for step in task:
                step()
        return
    stop = Event()

    def take(task: Sequence[Callable[[], object]]) -> None:
        for step in task:
            if not stop.is_set():
                step()

    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(take, task) for task in tasks]):
            future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def worker_count(asked: int | None, alone: bool) -> int:
    """What was asked for, or as many as processors, up to 4.

    Args:
        asked: by the command line, or ``None``.
        alone: one by default, as for accelerators: ``engine="fit"`` has all devices to itself, and handles signals.

    Raises:
        CommandError: for several workers where there are several devices. Programs for several devices, started by
            several threads, would wait for each other for ever.
    """
    devices = jax.local_device_count()
    if asked is not None:
        if asked > 1 and devices > 1:
            raise CommandError(f"--workers must be 1 where there are several devices, here {devices}")
        return asked
    if alone or jax.default_backend() != "cpu" or devices > 1:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)
