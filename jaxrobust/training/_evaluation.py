"""Held-out measurements during training, the choice of the best network by them, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Evaluation:
    """What is measured during training, and what is made of it.

    Attributes:
        measure: ``variables -> {name: value}``, recorded under ``eval/``. It gets what ``network`` of :func:`fit` makes
            of the state, by default the averaged variables.
        every: steps between measurements, by default only after the last.
        select: the measurement whose largest value decides which network is kept as the best, in
            ``checkpoints/best``; of equal ones the latest (Wang et al., 2023).
        patience: stop after so many measurements without a new best; never by default.
    """

    measure: Callable[[Any], Mapping[str, float]]
    every: int | None = None
    select: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in {"every": self.every, "patience": self.patience}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.patience is not None and (self.select is None or self.every is None):
            raise ValueError("patience counts measurements without a new best: it needs select and every as well")


class Best(NamedTuple):
    """The best measurement so far; part of every checkpoint.

    Attributes:
        score: float32, minus infinity before the first.
        step: int32, -1 before the first.
    """

    score: jax.Array
    step: jax.Array

    @classmethod
    def nothing(cls) -> Best:
        """Before the first measurement."""
        return cls(jnp.array(-jnp.inf, jnp.float32), jnp.array(-1, jnp.int32))


def better(evaluation: Evaluation, best: Best, results: Mapping[str, float], step: int) -> Best:
    """The best after a new measurement: its ``step`` is this one if it is no worse. NaN is never the best.

    Raises:
        ValueError: if the selected measurement was not made.
    """
    if evaluation.select is None:
        return best
    if evaluation.select not in results:
        raise ValueError(f"select is {evaluation.select!r}, but what was measured is {', '.join(results)}")
    score = float(results[evaluation.select])
    if math.isnan(score) or score < float(best.score):
        return best
    return Best(jnp.array(score, jnp.float32), jnp.array(step, jnp.int32))


def is_exhausted(evaluation: Evaluation | None, best: Best, step: int) -> bool:
    """Whether patience has ended the run at this step."""
    if evaluation is None or evaluation.patience is None or evaluation.every is None or int(best.step) < 0:
        return False
    return step - int(best.step) >= evaluation.patience * evaluation.every
