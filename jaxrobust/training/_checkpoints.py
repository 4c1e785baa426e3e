"""Checkpoints by Orbax: atomic, the latest few kept, restored by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

Tree = TypeVar("Tree")
_ITEM = "default"  # what Orbax calls the only item of a step


class Checkpoints:
    """A folder of checkpoints, one series of steps per name.

    A checkpoint is written beside its final place and renamed when it is whole, so a run killed at any moment
    leaves the previous one intact. Use it as a context manager, or call :meth:`close`, so that pending writes end.

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

    def _manager(self, name: str) -> ocp.CheckpointManager:
        if name not in self._managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, save_interval_steps=self._every)
            self._managers[name] = ocp.CheckpointManager(
                self._directory / name, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._managers[name]

    def save(self, name: str, step: int, tree: Any) -> None:
        """Write ``tree`` (arrays and random keys) as step ``step`` of series ``name``, in the background."""
        self._manager(name).save(step, args=ocp.args.StandardSave(jax.tree.map(_key_data, tree)))

    def restore_latest(self, name: str, tree: Tree) -> tuple[int, Tree]:
        """The latest step and its tree, or ``(0, tree)`` if there is none.

        Args:
            name: the series.
            tree: gives structure, shapes and dtypes of what was saved.

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
        """Wait for pending writes and release the files."""
        for manager in self._managers.values():
            manager.wait_until_finished()
            manager.close()
        self._managers.clear()


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    """Shapes of all leaves, in an order that does not depend on how the containers are represented."""
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(original: Any, restored: Any) -> Any:
    if _is_key(original):
        return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(original))
    return restored


def restore_variables(directory: str | Path) -> dict[str, Any]:
    """The network's variables in the latest checkpoint of a run of :func:`fit`.

    Only the parameters and the model's state are read, so the optimizer need not be known. The arrays are on the
    default device, whatever machine they were written on.

    Args:
        directory: the run's directory, its ``checkpoints`` folder, or the series ``checkpoints/state``.

    Returns:
        ``{"params": ...}`` and, with batch norm, ``"batch_stats"``, as ``model.apply`` takes them.

    Raises:
        FileNotFoundError: if there is no such folder, or no whole checkpoint in it.
        ValueError: if there are several series, or the checkpoint is not a network's training state.
    """
    latest = _latest(Path(directory).absolute())
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(latest / _ITEM).tree
        if not isinstance(tree, dict) or not {"params", "model_state"} <= tree.keys():
            raise ValueError(
                f"the checkpoint {latest} is not the state of one network's training; give a directory that fit wrote. "
                "Members of a population are restored by train_population"
            )
        wanted = {name: tree[name] for name in ("params", "model_state")}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = handler.restore(
            latest / _ITEM,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True),
        )
    finally:
        handler.close()
    return jax.tree.map(jnp.asarray, {"params": restored["params"], **restored["model_state"]})


def _latest(directory: Path) -> Path:
    """The folder of the latest step of the one series in a run's directory, its checkpoints or the series itself."""
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no folder {directory}")
    places = [directory, *sorted(directory.iterdir()), *sorted(directory.glob("checkpoints/*"))]
    series = {place: steps for place in places if (steps := _steps(place))}
    if not series:
        raise FileNotFoundError(
            f"there is no checkpoint in {directory}; give the directory of a run of fit, or wait for its first one"
        )
    if len(series) > 1:
        raise ValueError(f"{directory} holds several series of checkpoints; give one: {', '.join(map(str, series))}")
    ((place, steps),) = series.items()
    return place / str(max(steps))


def _steps(place: Path) -> list[int]:
    """Steps whose checkpoints are whole: while they are being written, the names of their folders are no numbers."""
    if not place.is_dir():
        return []
    return [int(step.name) for step in place.iterdir() if step.name.isdigit() and (step / _ITEM).is_dir()]
