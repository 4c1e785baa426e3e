"""Long loops of tiny steps that keep only the states asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

State = TypeVar("State")

RecordAt: TypeAlias = Sequence[int] | np.ndarray
"""Steps to record, strictly increasing; a ``range`` will do."""


class Trajectory(NamedTuple):
    """Weights along a run.

    Attributes:
        steps: Numbers of updates made, shape ``[records]``, integers.
        weights: DCT coefficients after that many updates, shape ``[records, d]``.
    """

    steps: jax.Array
    weights: jax.Array


def log_spaced_steps(steps: int, count: int = 200) -> np.ndarray:
    """At most ``count + 1`` step numbers from 0 to ``steps``, evenly spaced on a logarithmic axis.

    Example:
        >>> log_spaced_steps(1000, 4).tolist()
        [0, 1, 10, 100, 1000]
    """
    if steps < 1 or count < 2:
        raise ValueError(f"want at least one step and two records, got steps={steps} and count={count}")
    spaced = np.rint(np.geomspace(1, steps, count)).astype(np.int64)
    return np.unique(np.concatenate([[0], spaced]))


def record_steps(steps: int, record_at: RecordAt | None) -> np.ndarray:
    """The steps to record as an array; by default evenly spaced on a logarithmic axis.

    Raises:
        ValueError: If the steps are not strictly increasing within ``[0, steps]``.
    """
    recorded = log_spaced_steps(steps) if record_at is None else np.asarray(record_at)
    if recorded.ndim != 1 or recorded.size == 0 or not np.issubdtype(recorded.dtype, np.integer):
        raise ValueError(f"record_at must be a non-empty sequence of step numbers, got {record_at}")
    if recorded[0] < 0 or recorded[-1] > steps or (np.diff(recorded) <= 0).any():
        raise ValueError(f"record_at must be strictly increasing within [0, {steps}], got {record_at}")
    return recorded.astype(np.int32)


def scan_and_record(
    step: Callable[[jax.Array, State], State], state: State, recorded: jax.Array, read: Callable[[State], Any]
) -> Any:
    """Apply ``step(index, state)`` and stack ``read(state)`` after the given numbers of applications.

    One compiled loop for any ``recorded``, in memory proportional to the number of records.

    Args:
        step: From the number of steps already made, and the state, to the next state.
        state: Initial state.
        recorded: Increasing integers ``[records]``; the last one is the length of the loop.
        read: What to keep of a state.

    Returns:
        ``read`` of the states, stacked on a new first axis.
    """

    def to_next_record(carry: tuple[jax.Array, State], until: jax.Array) -> tuple[Any, Any]:
        start, state = carry
        state = lax.fori_loop(start, until, step, state)
        return (until, state), read(state)

    _, records = lax.scan(to_next_record, (jnp.zeros((), recorded.dtype), state), recorded)
    return records
