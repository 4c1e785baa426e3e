"""The training loop of a single network: progress, metrics, checkpoints, resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrobust.progress import ProgressBar

from ._checkpoints import Checkpoints
from ._metrics import MetricsLog
from ._state import TrainState
from ._step import TrainStep

SERIES = "state"


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is from before."""


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Callable[[int], Iterable[Mapping[str, Any]]],
    *,
    steps: int,
    directory: str | Path | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> TrainState:
    """Run ``train_step`` until ``steps`` updates are made.

    With a ``directory``, ``checkpoints/`` and ``metrics.jsonl`` are written there, and a call with the same
    directory continues from the latest checkpoint; the continued run makes the same updates as an undisturbed one,
    because batches and random numbers are functions of the step.

    Args:
        state: initial state, and the template for the checkpoint.
        train_step: see :func:`make_train_step`; it is jitted here and its state is donated.
        batches: ``batches(start_step)`` iterates over the batches from that step on, at least until ``steps``;
            :func:`jaxrobust.data.batches` with its ``start_step`` is such a function.
        steps: updates in all, those before a resume included.
        directory: where to write; nothing is written without it.
        checkpoint_every: updates between checkpoints; the last update is always saved.
        log_every: updates between records. The loss is checked for NaN and infinity then, and before each
            checkpoint, so that a checkpoint is never made after a non-finite loss.
        evaluate: ``state -> {name: value}``, recorded under ``eval/``.
        evaluate_every: updates between evaluations, by default only after the last.
        tensorboard: also write TensorBoard events (extra ``tensorboard``).
        progress: show a progress bar; by default when the output is a terminal.

    Raises:
        NonFiniteLossError: with the step and what to try.
        ValueError: if the batches end early or the checkpoint does not fit the state.
    """
    for name, value in {"checkpoint_every": checkpoint_every, "log_every": log_every}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    checkpoints = None if directory is None else Checkpoints(Path(directory) / "checkpoints")
    start = 0
    if checkpoints is not None:
        start, state = checkpoints.restore_latest(SERIES, state)
    log = None if directory is None else MetricsLog(directory, resume_step=start, tensorboard=tensorboard)
    compiled = jax.jit(train_step, donate_argnums=0)
    if start == 0:
        state = jax.tree.map(lambda leaf: leaf.copy(), state)  # the caller's arrays are not ours to donate

    def is_due(every: int | None, step: int) -> bool:
        return step == steps or (every is not None and step % every == 0)

    step = start
    try:
        with ProgressBar(steps, completed=start, show=progress, text="training") as bar:
            for batch in batches(start) if start < steps else ():
                state, metrics = compiled(state, batch)
                step += 1
                save = checkpoints is not None and is_due(checkpoint_every, step)
                if save or is_due(log_every, step):
                    values = {name: float(value) for name, value in metrics.items()}
                    if not math.isfinite(values["loss"]):
                        raise NonFiniteLossError(_non_finite_message(step, values["loss"], directory))
                    if log is not None and is_due(log_every, step):
                        log.write(step, values)
                    bar.update(step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
                if evaluate is not None and is_due(evaluate_every, step):
                    results = {f"eval/{name}": float(value) for name, value in evaluate(state).items()}
                    if log is not None:
                        log.write(step, results)
                if checkpoints is not None and save:
                    checkpoints.save(SERIES, step, state)
                if step == steps:
                    break
    finally:
        if checkpoints is not None:
            checkpoints.close()
        if log is not None:
            log.close()
    if step < steps:
        raise ValueError(f"the batches ended after step {step}; {steps} steps were asked for")
    return state


def _non_finite_message(step: int, loss: float, directory: str | Path | None) -> str:
    kept = (
        "no directory was given, so nothing was saved"
        if directory is None
        else f"the last checkpoint in {Path(directory) / 'checkpoints'} is intact"
    )
    return (
        f"the loss was {loss} at step {step}; {kept}. The usual causes are a learning rate that is too high "
        "and images outside [0, 1]"
    )
