"""Checkpoints by Orbax: atomic, the latest few kept, restored by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

Tree = TypeVar("Tree")


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
