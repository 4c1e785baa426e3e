"""Checkpoints by Orbax: asynchronous, atomic, the latest few kept, restored by name on any number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust.random import is_key

Tree = TypeVar("Tree")
Weights = Literal["averaged", "raw"]
_ITEM = "default"  # what Orbax calls the only item of a step
STATE, BEST, LAST = "state", "best", "last"
"""Series of a run of ``fit``: training states, the best network by a held-out measure, and the one after the last step."""


class CheckpointError(OSError):
    """A checkpoint could not be written; earlier ones are intact."""


class Checkpoints:
    """A folder of checkpoints, one series of steps per name.

    A checkpoint is written in the background, beside its final place, and renamed when it is whole: a run killed at any
    moment leaves the previous one intact. Use it as a context manager, or call :meth:`close`, so that pending writes
    end. On several hosts all processes make the same calls, and the folder is one that all of them see.

    Args:
        directory: where to write; made if missing.
        keep: how many steps of each series stay on disk.
        every: only steps divisible by it are written.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, every: int = 1) -> None:
        if keep < 1 or every < 1:
            raise ValueError(f"keep and every must be at least 1, got keep={keep}, every={every}")
        self._directory = Path(directory).absolute()
        self._keep, self._every = keep, every
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "os_error_code" not in str(error):
                raise  # tensorstore reports a full disk as ValueError; this is something else
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rpartition(": ")[2]
            raise CheckpointError(
                f"cannot write a checkpoint in {self._directory}: {reason}; the earlier ones are intact. Make room, or "
                "mend the permissions, and run the same again: it continues from the last one"
            ) from error

    def _manager(self, name: str) -> ocp.CheckpointManager:
        if name not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep if name not in (BEST, LAST) else 1,
                save_interval_steps=self._every,
                cleanup_tmp_directories=True,
                # Several hosts meet at barriers, and those of one series must not be taken for those of another.
                multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name),
            )
            with self._writing():
                self._managers[name] = ocp.CheckpointManager(
                    self._directory / name, options=options, item_handlers=ocp.StandardCheckpointHandler()
                )
        return self._managers[name]

    def save(self, name: str, step: int, tree: Any) -> None:
        """Write ``tree`` (arrays and random keys) as step ``step`` of series ``name``, in the background.

        The arrays are copied before this returns and may be donated. A step that is there already is not written again.

        Raises:
            CheckpointError: if this checkpoint, or the one before, cannot be written.
        """
        manager = self._manager(name)
        if step in manager.all_steps():
            return
        with self._writing():
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(_key_data, tree)))

    def check(self) -> None:
        """Notice at once that a checkpoint could not be written.

        Raises:
            CheckpointError: saying why.
        """
        with self._writing():
            for manager in self._managers.values():
                manager.check_for_errors()

    def wait(self, name: str) -> None:
        """Wait until what was saved in a series is on disk.

        Raises:
            CheckpointError: if it cannot be written.
        """
        self._wait_for(self._manager(name))

    def _wait_for(self, manager: ocp.CheckpointManager) -> None:
        with self._writing():
            manager.wait_until_finished()

    def restore_latest(self, name: str, tree: Tree) -> tuple[int, Tree]:
        """The latest step and its tree, or ``(0, tree)`` if there is none.

        Args:
            name: the series.
            tree: gives structure, shapes, dtypes and devices. The devices need not be those it was saved from.

        Raises:
            ValueError: if the checkpoint does not fit ``tree``.
        """
        manager = self._manager(name)
        manager.wait_until_finished()
        step = manager.latest_step()
        if step is None:
            return 0, tree
        template = jax.tree.map(_key_data, tree)
        mismatch = (
            f"the checkpoint {self._directory / name / str(step)} does not fit this network and optimizer; use the "
            "settings it was made with, or another folder"
        )
        # Orbax reports a wrong shape from a background task, with a page of tracebacks: look before restoring.
        if _shapes(manager.item_metadata(step)) != _shapes(template):
            raise ValueError(mismatch)
        try:
            restored = manager.restore(step, args=ocp.args.StandardRestore(template))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{mismatch} ({error})") from error
        return step, jax.tree.map(_like, tree, restored)

    def close(self) -> None:
        """Wait for pending writes and release the files.

        Raises:
            CheckpointError: if a pending one cannot be written.
        """
        managers, self._managers = self._managers, {}
        with ExitStack() as stack:  # every series is waited for and closed, also behind one that failed
            for manager in managers.values():
                stack.callback(manager.close)
                stack.callback(self._wait_for, manager)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    """Shapes of all leaves, in an order that does not depend on how the containers are represented."""
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _like(original: Any, restored: Any) -> Any:
    if is_key(original):
        return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(original))
    return restored


def restore_variables(directory: str | Path, *, weights: Weights = "averaged") -> dict[str, Any]:
    """The network's variables in the latest checkpoint of a run of :func:`fit`.

    From a finished run that is the network after the last step, from one that goes on what the latest state holds. Only the parameters and the model's state are read, so the optimizer need not be known. The arrays are on the
    default device, whatever machine they were written on.

    Args:
        directory: the run's directory or its ``checkpoints`` folder, or one series of it, such as ``checkpoints/best``.
        weights: ``"raw"`` for the parameters as they are in a run with averaging: those of the latest state.

    Returns:
        ``{"params": ...}`` and, with batch norm, ``"batch_stats"``, as ``model.apply`` takes them.

    Raises:
        FileNotFoundError: if there is no such folder, or no whole checkpoint in it.
        ValueError: if there are several series, or the checkpoint is not a network's training state.
    """
    latest = _latest(Path(directory).absolute(), (LAST, STATE) if weights == "averaged" else (STATE,))
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(latest / _ITEM).tree
        if not isinstance(tree, dict) or not {"params", "model_state"} <= tree.keys():
            raise ValueError(
                f"the checkpoint {latest} is not the state of one network's training; give a directory that fit wrote. "
                "Members of a population are restored by train_population"
            )
        names = ["params", "model_state"]
        if weights == "averaged" and tree.get("average"):
            names[0] = "average"
        wanted = {name: tree[name] for name in names}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = handler.restore(
            latest / _ITEM,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True),
        )
    finally:
        handler.close()
    params = restored["average"]["params"] if "average" in names else restored["params"]
    return jax.tree.map(jnp.asarray, {"params": params, **restored["model_state"]})


def latest_step(directory: str | Path) -> int:
    """After which step the checkpoint was made that :func:`restore_variables` reads."""
    return int(_latest(Path(directory).absolute(), (LAST, STATE)).name)


def _latest(directory: Path, preferred: tuple[str, ...]) -> Path:
    """The folder of the latest step of a run, of its checkpoints or of one series.

    Of the series of a run it is in the first of the preferred ones that is up to date.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no folder {directory}")
    places = [directory, *sorted(directory.iterdir()), *sorted(directory.glob("checkpoints/*"))]
    series = {place: steps for place in places if (steps := _steps(place))}
    if not series:
        raise FileNotFoundError(
            f"there is no checkpoint in {directory}; give the directory of a run of fit, or wait for its first one"
        )
    if len(series) == 1:
        ((place, steps),) = series.items()
        return place / str(max(steps))
    if not {place.name for place in series} <= {STATE, BEST, LAST}:
        raise ValueError(f"{directory} holds several series of checkpoints; give one: {', '.join(map(str, series))}")
    latest = {place.name: place / str(max(steps)) for place, steps in series.items()}
    newest = max(int(latest[name].name) for name in (STATE, LAST) if name in latest)
    return next(latest[name] for name in preferred if name in latest and int(latest[name].name) == newest)


def _steps(place: Path) -> list[int]:
    """Steps whose checkpoints are whole: while they are being written, the names of their folders are no numbers."""
    if not place.is_dir():
        return []
    return [int(step.name) for step in place.iterdir() if step.name.isdigit() and (step / _ITEM).is_dir()]
