"""Averages of the parameters over the steps: pairs of pure functions, as Optax transformations are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from ._state import Apply


class AverageState(NamedTuple):
    """The average so far.

    Attributes:
        step: steps seen, int32.
        params: averaged parameters.
    """

    step: jax.Array
    params: Any


class Averaging(NamedTuple):
    """``init(params) -> state`` and ``update(state, params) -> state``, called after every step."""

    init: Callable[[Any], AverageState]
    update: Callable[[AverageState, Any], AverageState]


def _averaging(weight_of_new: Callable[[jax.Array], jax.Array]) -> Averaging:
    """``average <- (1 - weight(t)) average + weight(t) params`` after step ``t``, counted from 1."""

    def init(params: Any) -> AverageState:
        # A copy: the parameters themselves may be donated to a step beside this state.
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(state: AverageState, params: Any) -> AverageState:
        step = state.step + 1
        weight = weight_of_new(step)

        def mix(average: jax.Array, new: jax.Array) -> jax.Array:
            part = weight.astype(average.dtype)
            # Exactly the new value where the weight is one.
            return jnp.where(part == 1, new, average + part * (new - average))

        return AverageState(step, jax.tree.map(mix, state.params, params))

    return Averaging(init, update)


def ema(decay: float = 0.995, *, warmup_steps: int = 0, ramp: bool = True) -> Averaging:
    """Exponential moving average of the parameters.

    After step ``t``, with ``k = t - warmup_steps``: ``average <- tau average + (1 - tau) params`` where ``tau`` is 0
    before the warm-up is over and ``min(decay, (1 + k) / (10 + k))`` from then on. Source: the schedule of
    TensorFlow's moving average, as Wang et al. (2023) train with it (decay 0.995, warm-up over 2.5 % of the steps).

    Args:
        decay: weight of the old average, in [0, 1).
        warmup_steps: until then the average is the parameters themselves.
        ramp: ``False`` for the constant ``decay`` from the end of the warm-up.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative warm-up.

    Example:
        >>> averaging = ema(0.5, ramp=False)
        >>> averaging.update(averaging.init(jnp.array(0.0)), jnp.array(1.0)).params.item()
        0.5
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")

    def weight(step: jax.Array) -> jax.Array:
        k = jnp.maximum(step - warmup_steps, 0).astype(jnp.float32)
        # 1 - (1 + k) / (10 + k), rounded once.
        new = jnp.maximum(1 - decay, 9 / (10 + k)) if ramp else jnp.full((), 1 - decay, jnp.float32)
        return jnp.where(step < warmup_steps, 1.0, new)

    return _averaging(weight)


def swa(start_step: int, *, every: int = 1) -> Averaging:
    """Stochastic weight averaging: the mean of the parameters after steps ``start_step, start_step + every, ...``.

    Before ``start_step`` the average is the parameters themselves. Source: Izmailov et al., 2018, who take one set of
    parameters per epoch (``every`` = steps per epoch) and then compute batch-norm statistics anew
    (:func:`recompute_batch_statistics`).

    Args:
        start_step: the first step that counts, at least 1.
        every: steps between two that count.

    Raises:
        ValueError: for numbers below 1.

    Example:
        >>> averaging = swa(start_step=2)
        >>> state = averaging.init(jnp.array(0.0))
        >>> for params in (10.0, 1.0, 2.0, 6.0):
        ...     state = averaging.update(state, jnp.array(params))
        >>> state.params.item()
        3.0
    """
    if start_step < 1 or every < 1:
        raise ValueError(f"start_step and every must be at least 1, got {start_step} and {every}")

    def weight(step: jax.Array) -> jax.Array:
        since = step - start_step
        mean = 1 / (since // every + 1).astype(jnp.float32)
        return jnp.where(since < 0, 1.0, jnp.where(since % every == 0, mean, 0.0))

    return _averaging(weight)


def recompute_batch_statistics(apply: Apply, variables: Any, batches: Iterable[jax.Array]) -> dict[str, Any]:
    """Variables whose batch-norm statistics are the mean of those of the given batches, in training mode.

    Running statistics are a moving average over parameters that are gone; averaged parameters need their own
    (Izmailov et al., 2018).

    Args:
        apply: the network; its running statistics must be updated as ``m * old + (1 - m) * batch``.
        variables: ``{"params": ..., "batch_stats": ...}``; without batch norm they are returned as they are.
        batches: images ``[batch, height, width, channels]`` in [0, 1].

    Raises:
        ValueError: if there are no batches.
    """
    if "batch_stats" not in variables:
        return dict(variables)

    @jax.jit
    def updated(statistics: Any, images: jax.Array) -> Any:
        return apply({**variables, "batch_stats": statistics}, images, train=True)[1]["batch_stats"]

    old = variables["batch_stats"]
    zeros, ones = (jax.tree.map(lambda leaf, value=value: jnp.full_like(leaf, value), old) for value in (0, 1))
    total, count = zeros, 0
    momentum = None
    for images in batches:
        from_zero = updated(zeros, images)
        if momentum is None:  # the update is affine in the old value: its slope is the momentum
            momentum = jax.tree.map(jnp.subtract, updated(ones, images), from_zero)
        total = jax.tree.map(lambda sum_, new, m: sum_ + new / (1 - m), total, from_zero, momentum)
        count += 1
    if not count:
        raise ValueError("there are no batches to compute batch-norm statistics from")
    return {**variables, "batch_stats": jax.tree.map(lambda sum_: sum_ / count, total)}
