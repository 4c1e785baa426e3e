"""The training loop of a single network: progress, metrics, checkpoints, selection, resume."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrobust.batching import data_mesh, local_copy, replicate, shard_rows
from jaxrobust.iteration import settled

from ._checkpoints import BEST, LAST, STATE, CheckpointError, Checkpoints
from ._evaluation import Best, Evaluation, better, is_exhausted
from ._objectives import Batch
from ._records import Records
from ._state import TrainState
from ._step import TrainStep
from ._stopping import StopSignals, Terminated


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the last checkpoint is from before."""


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Callable[[int], Iterable[Mapping[str, Any]]],
    *,
    steps: int,
    directory: str | Path | None = None,
    checkpoint_every: int = 1000,
    keep: int = 2,
    log_every: int = 100,
    observe: Callable[[TrainState, Batch], Mapping[str, jax.Array]] | None = None,
    evaluation: Evaluation | None = None,
    network: Callable[[TrainState], Mapping[str, Any]] = lambda state: state.averaged_variables,
    before_epoch: Callable[[TrainState], TrainState] | None = None,
    epoch_steps: int | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """Run ``train_step`` until ``steps`` updates are made.

    With a ``directory``, ``checkpoints/`` and ``metrics.jsonl`` are written there (and ``timings.jsonl``, which is apart
    because times differ from run to run), and a call with the same directory continues from the latest checkpoint;
    the continued run makes the same updates as an undisturbed one, because batches and random numbers are functions of
    the step. SIGTERM and Ctrl-C end the run after the current step, with a checkpoint.

    Args:
        state: initial state, and the template for the checkpoint.
        train_step: see :func:`make_train_step`; it is jitted here and its state is donated.
        batches: ``batches(start_step)`` iterates over the batches from that step on, at least until ``steps``;
            :func:`jaxrobust.data.batches` with its ``start_step`` is such a function. The rows of all entries are
            split over the devices; on several hosts each process gives its own.
        steps: updates in all, those before a resume included.
        directory: where to write; nothing is written without it.
        checkpoint_every: updates between checkpoints; the last update is always saved.
        keep: how many checkpoints stay on disk.
        log_every: updates between records. Loss and gradient are checked for NaN and infinity then, and before each
            checkpoint, so that a checkpoint is never made of a diverged network.
        observe: further metrics, ``(state, batch) -> {name: scalar}``, jitted here and computed for records alone.
        evaluation: held-out measurements, the choice of the best network, early stopping.
        network: the variables that are measured, and kept in ``checkpoints/best`` and, after the last step, in
            ``checkpoints/last``. Stochastic weight averaging computes batch-norm statistics here.
        before_epoch: applied to the state before steps ``0, epoch_steps, 2 * epoch_steps, ...``; a pure function.
        epoch_steps: updates per epoch, for ``before_epoch``.
        tensorboard: also write TensorBoard events (extra ``tensorboard``).
        progress: show a progress bar; by default when the output is a terminal.
        mesh: devices with the axis ``data``, all (of all hosts) by default.

    Raises:
        NonFiniteLossError: with the step and what to try.
        CheckpointError: if a checkpoint cannot be written.
        ValueError: if the batches end early, the devices do not divide one, or the checkpoint does not fit the state.
        Terminated: after SIGTERM; a ``SystemExit`` with exit code 75.
        KeyboardInterrupt: after Ctrl-C.
    """
    for name, value in {"checkpoint_every": checkpoint_every, "log_every": log_every}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if before_epoch is not None and (epoch_steps is None or epoch_steps < 1):
        raise ValueError(f"before_epoch needs epoch_steps, the number of updates per epoch, got {epoch_steps}")
    mesh = data_mesh() if mesh is None else mesh
    state = jax.tree.map(lambda leaf: leaf.copy(), state)  # the caller's arrays are not ours to donate
    state, best = replicate((state, Best.nothing()), mesh)
    step = 0
    metrics: Mapping[str, jax.Array] = {}
    with ExitStack() as stack:
        checkpoints = None
        if directory is not None:
            checkpoints = stack.enter_context(Checkpoints(Path(directory) / "checkpoints", keep=keep))
            step, restored = checkpoints.restore_latest(STATE, _pack(state, best))
            state, best = _unpack(restored)
        records = stack.enter_context(Records(directory, step, steps, tensorboard=tensorboard, progress=progress))
        stop = stack.enter_context(StopSignals())
        compiled = jax.jit(train_step, donate_argnums=0)
        observed = None if observe is None else jax.jit(observe)

        def is_due(every: int | None) -> bool:
            return step == steps or (every is not None and step % every == 0)

        def save() -> None:
            if checkpoints is not None:
                checkpoints.wait(BEST)  # the state says which network is the best: that one must be on disk
                checkpoints.save(STATE, step, _pack(state, best))

        try:
            over = step >= steps or is_exhausted(evaluation, best, step)
            for host_batch in () if over else batches(step):
                batch = {name: shard_rows(rows, mesh) for name, rows in host_batch.items()}
                if before_epoch is not None and step % (epoch_steps or 1) == 0:
                    state = before_epoch(state)
                state, metrics = settled(compiled(state, batch))
                step += 1
                ending = stop.after(step)
                recording, measuring = is_due(log_every), evaluation is not None and is_due(evaluation.every)
                saving = ending is not None or is_due(checkpoint_every)
                if recording or measuring or saving:
                    _check_finite(metrics, step, directory)
                if recording:
                    if checkpoints is not None:
                        checkpoints.check()
                    further = {} if observed is None else observed(state, batch)
                    records.training(step, {**metrics, **further}, images=len(batch["images"]))
                if evaluation is not None and measuring:
                    variables = local_copy(network(state))
                    results = evaluation.measure(variables)
                    records.evaluation(step, results)
                    best = replicate(better(evaluation, best, results, step), mesh)
                    if checkpoints is not None and int(best.step) == step:
                        checkpoints.save(BEST, step, replicate(_parts(variables), mesh))
                    over = is_exhausted(evaluation, best, step)
                if saving or over:
                    save()
                if ending is signal.SIGTERM:
                    raise Terminated(
                        f"terminated after step {step} of {steps}; {_kept(directory)}, the same again continues"
                    )
                if ending is not None:
                    raise KeyboardInterrupt
                if over or step == steps:
                    break
            if checkpoints is not None and (over or step == steps):
                checkpoints.save(LAST, step, replicate(_parts(network(state)), mesh))
        except (NonFiniteLossError, CheckpointError):
            raise
        except Exception:
            # A batch that cannot be read, for instance: what was learned until then is kept.
            if jax.process_count() == 1 and metrics and _is_finite(metrics) and not _is_donated(state):
                save()
            raise
    if step < steps and not over:
        raise ValueError(f"the batches ended after step {step}; {steps} steps were asked for")
    return state


def _pack(state: TrainState, best: Best) -> dict[str, Any]:
    return {**state._asdict(), "best": best}


def _unpack(saved: dict[str, Any]) -> tuple[TrainState, Best]:
    best = saved.pop("best")
    return TrainState(**saved), best


def _parts(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables as a training state holds them."""
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return {"params": variables["params"], "model_state": model_state}


def _is_finite(metrics: Mapping[str, Any]) -> bool:
    return all(math.isfinite(float(metrics[name])) for name in ("loss", "gradient_norm") if name in metrics)


def _is_donated(state: TrainState) -> bool:
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _kept(directory: str | Path | None) -> str:
    if directory is None:
        return "no directory was given, so nothing was saved"
    return f"the last checkpoint in {Path(directory) / 'checkpoints'} is intact"


def _check_finite(metrics: Mapping[str, Any], step: int, directory: str | Path | None) -> None:
    if _is_finite(metrics):
        return
    norm = f" and the gradient's norm {float(metrics['gradient_norm']):g}" if "gradient_norm" in metrics else ""
    raise NonFiniteLossError(
        f"the loss was {float(metrics['loss']):g}{norm} at step {step}; {_kept(directory)}. The usual causes are a "
        "learning rate that is too high and images outside [0, 1]"
    )
