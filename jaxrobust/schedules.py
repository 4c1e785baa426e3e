"""Schedules of the learning rate, of momentum and of radii that Optax does not have: ``step -> float32``, jittable.

A learning rate may be a number or a traced scalar. Every schedule counts whatever its caller counts: :func:`per_epoch`
makes one that counts epochs into one that counts steps. Constant, piecewise constant, exponential and linear schedules
are Optax's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

Rate: TypeAlias = float | jax.Array
"""A number or a traced scalar."""


def check_rate(learning_rate: Any) -> None:
    """Check a learning rate that is a concrete number; traced ones and schedules pass unseen.

    Raises:
        ValueError: if it is not finite and positive.
    """
    concrete = isinstance(learning_rate, (int, float, np.number))
    if concrete and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"the learning rate must be finite and above 0, got {learning_rate}")


def _check(learning_rate: Any, total_steps: int, warmup: float = 0.0) -> None:
    check_rate(learning_rate)
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a fraction of all steps and must lie in [0, 1], got {warmup}")


def per_epoch(schedule: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    """A schedule of epochs as one of steps: constant within each epoch.

    Example:
        >>> schedule = per_epoch(lambda epoch: 1 / (epoch + 1), steps_per_epoch=10)
        >>> [float(schedule(step)) for step in (0, 9, 10)]
        [1.0, 1.0, 0.5]
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
    return lambda step: schedule(step // steps_per_epoch)


def step_decay(
    learning_rate: Rate,
    total_steps: int,
    *,
    milestones: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """The optimizer-robustness study's schedule: the rate falls by ``factor`` at each milestone, a fraction of all steps.

    With 200 epochs: times 0.1 at epoch 100 and at epoch 150.

    Example:
        >>> schedule = step_decay(1.0, 200)
        >>> [round(float(schedule(step)), 4) for step in (99, 100, 150)]
        [1.0, 0.1, 0.01]
    """
    _check(learning_rate, total_steps)
    boundaries = [round(fraction * total_steps) for fraction in milestones]

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        rate = jnp.asarray(learning_rate, jnp.float32)
        for boundary in boundaries:
            rate = jnp.where(jnp.asarray(step) < boundary, rate, rate * factor)
        return rate

    return schedule


def doubling(initial: Rate, every: int, times: int) -> optax.Schedule:
    """``initial`` times 2 after each ``every`` steps, ``times`` times in all, then constant: the radius of certified training.

    Source: the thesis of Liu, Table 3.5: from 0.0064 to 0.1024, doubled every 20 of 100 epochs.

    Args:
        initial: the first value.
        every: steps between two doublings.
        times: how many doublings.

    Raises:
        ValueError: for a first value that is not positive, fewer than one step between doublings, or a negative number of
            them.

    Example:
        >>> schedule = doubling(0.0064, every=20, times=4)
        >>> [round(float(schedule(epoch)), 4) for epoch in (0, 19, 20, 79, 80, 1000)]
        [0.0064, 0.0064, 0.0128, 0.0512, 0.1024, 0.1024]
    """
    if isinstance(initial, (int, float, np.number)) and not (math.isfinite(initial) and initial > 0):
        raise ValueError(f"initial must be finite and above 0, got {initial}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if times < 0:
        raise ValueError(f"times must be at least 0, got {times}")

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.minimum(jnp.asarray(step, jnp.int32) // every, times)
        return jnp.ldexp(_float32(initial), done)

    return schedule


def warmup_cosine(learning_rate: Rate, total_steps: int, *, warmup: float = 0.05) -> optax.Schedule:
    """Linear warm-up over a fraction of all steps, then a cosine to zero."""
    _check(learning_rate, total_steps, warmup)
    rise = max(1, round(warmup * total_steps))

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - rise) / max(total_steps - rise, 1), 0, 1)
        fraction = jnp.where(step < rise, (step + 1) / rise, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        return jnp.asarray(learning_rate, jnp.float32) * fraction

    return schedule


def _cosine(start: Rate, end: Rate, step: jax.Array, first: float, last: float) -> jax.Array:
    """Half a cosine from ``start`` at step ``first`` to ``end`` at ``last``, constant outside."""
    # 1 + cos would cancel near the end, where the rate is smallest; the square of a sine keeps all its digits.
    remaining = jnp.clip((last - step) / max(last - first, 1e-6), 0, 1)
    weight = jnp.square(jnp.sin(jnp.pi / 2 * remaining))
    return _float32(start) * weight + _float32(end) * (1 - weight)


def _float32(value: Rate) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def one_cycle(
    peak: Rate,
    total_steps: int,
    *,
    warmup: float = 0.025,
    initial_factor: float = 25.0,
    final_factor: float = 1e4,
) -> optax.Schedule:
    """Cosine from ``peak / initial_factor`` up to ``peak``, and a longer cosine down to nearly zero.

    The values of PyTorch's ``OneCycleLR`` with cosine annealing and two phases: the peak is at step
    ``warmup * total_steps - 1`` and the last step, ``total_steps - 1``, has ``peak / initial_factor / final_factor``.
    PyTorch's own ``warmup`` is 0.3; Wang et al. (2023) train with 0.025 and one value per epoch, see :func:`per_epoch`.
    It also moves momentum unless told otherwise: :func:`one_cycle_momentum`.

    Args:
        peak: the highest rate.
        total_steps: steps in all, or epochs.
        warmup: fraction of the steps until the peak.
        initial_factor: peak over first rate.
        final_factor: first rate over last rate.

    Raises:
        ValueError: for a rate that is not positive, fewer than one step, a warm-up outside [0, 1] or a factor that is
            not positive.

    Example:
        >>> schedule = one_cycle(0.2, 2400)
        >>> [round(float(schedule(epoch)), 5) for epoch in (0, 59, 1000)]
        [0.008, 0.2, 0.13026]
    """
    _check(peak, total_steps, warmup)
    if not (initial_factor > 0 and final_factor > 0):
        raise ValueError(f"initial_factor and final_factor must be above 0, got {initial_factor} and {final_factor}")
    initial = peak / initial_factor
    return _up_and_down(initial, peak, initial / final_factor, total_steps, warmup, total_steps - 1)


def one_cycle_momentum(
    total_steps: int, *, warmup: float = 0.025, low: float = 0.85, high: float = 0.95
) -> optax.Schedule:
    """Momentum that falls from ``high`` to ``low`` while the rate of :func:`one_cycle` rises, and rises while it falls.

    PyTorch's ``OneCycleLR`` puts these values in place of the optimizer's own momentum, unless it is called with
    ``cycle_momentum=False``. Give it to :func:`jaxrobust.optimizers.sgd` as ``momentum``.

    Raises:
        ValueError: for fewer than one step, a warm-up outside [0, 1] or a momentum outside [0, 1).

    Example:
        >>> schedule = one_cycle_momentum(2400)
        >>> [round(float(schedule(epoch)), 4) for epoch in (0, 59, 2399)]
        [0.95, 0.85, 0.95]
    """
    _check(1.0, total_steps, warmup)
    if not (0 <= low < 1 and 0 <= high < 1):
        raise ValueError(f"momentum must lie in [0, 1), got low={low}, high={high}")
    return _up_and_down(high, low, high, total_steps, warmup, total_steps - 1)


def _up_and_down(initial: Rate, peak: Rate, final: Rate, total_steps: int, warmup: float, last: int) -> optax.Schedule:
    top = warmup * total_steps - 1

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        up, down = _cosine(initial, peak, step, 0, top), _cosine(peak, final, step, top, last)
        return jnp.where(step <= top, up, down)

    return schedule


Version = Literal["original", "a", "b", "c", "d", "e"]


class _Tail(NamedTuple):
    """Last epochs of a version, in the published 2400 epochs with peak 0.2."""

    begin: int
    rate: float
    exponential: bool


_TAILS: Mapping[str, _Tail] = {
    "a": _Tail(2160, 2e-4, exponential=False),
    "b": _Tail(2000, 2e-4, exponential=False),
    "c": _Tail(2000, 5e-5, exponential=True),
    "d": _Tail(1900, 1.5e-5, exponential=True),
    "e": _Tail(2000, 2e-4, exponential=True),
}
_EPOCHS, _PEAK = 2400, 0.2


def one_cycle_version(version: Version, peak: Rate, epochs: int) -> optax.Schedule:
    """The learning-rate versions of the data-geometry study: :func:`one_cycle` with other last epochs.

    ``"original"`` is :func:`one_cycle`. ``"a"`` and ``"b"`` end in a plateau of ``peak / 1000`` over the last tenth or
    sixth of the epochs, which a shorter cosine leads to. ``"c"``, ``"d"`` and ``"e"`` leave the original after 2000,
    1900 or 2000 of 2400 epochs and fall exponentially, down to ``peak`` times 1/4000, 3/40000 or 1/1000 in the last
    epoch: faster at first and with a longer tail. In the study, with peak 0.2, these are 2e-4, and 5e-5, 1.5e-5 and
    2e-4. All versions are equal during the warm-up.

    The study scales version c to 1600, 2000 and 3000 epochs, and prints neither how the cosine of a and b is shortened
    nor where the exponentials start; this is the continuous reading. Scaling with ``peak`` is ours.

    Args:
        version: ``"original"`` or ``"a"`` to ``"e"``.
        peak: the highest rate, 0.2 in the study.
        epochs: in all, 2400 in the study; the beginning of the last part is scaled with them and rounded down.

    Returns:
        A schedule of epochs; :func:`per_epoch` makes it one of steps.

    Raises:
        ValueError: for an unknown version, a rate that is not positive, or fewer than one epoch.

    Example:
        >>> schedule = one_cycle_version("c", 0.2, 2400)
        >>> [round(float(schedule(epoch)), 6) for epoch in (2000, 2100, 2399)]
        [0.014009, 0.003412, 5e-05]
    """
    if version not in get_args(Version):
        raise ValueError(f"unknown version {version!r}; choose one of {', '.join(get_args(Version))}")
    original = one_cycle(peak, epochs)
    if version == "original":
        return original
    tail = _TAILS[version]
    begin, final = tail.begin * epochs // _EPOCHS, peak * (tail.rate / _PEAK)
    if not tail.exponential:
        return _up_and_down(peak / 25, peak, final, epochs, 0.025, begin)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        fraction = jnp.clip((step - begin) / max(epochs - 1 - begin, 1), 0, 1)
        level = jnp.log(original(begin))
        decayed = jnp.exp(level + (jnp.log(_float32(final)) - level) * fraction)
        return jnp.where(step <= begin, original(step), decayed)

    return schedule


def cosine_with_warmup(
    peak: Rate, epochs: int, *, warmup_epochs: float = 5, warmup_rate: float = 1e-6, final_rate: float = 1e-5
) -> optax.Schedule:
    """Linear warm-up from ``warmup_rate``, then the cosine from ``peak`` to ``final_rate`` over *all* epochs.

    timm's cosine schedule, with which ImageNet networks are fine-tuned. The cosine does not wait for the warm-up: after it
    the rate continues where the cosine is by then, a little below the peak.

    Args:
        peak: rate that the warm-up aims at.
        epochs: in all.
        warmup_epochs: length of the warm-up, below ``epochs``; 0 for none.
        warmup_rate: first rate of the warm-up.
        final_rate: rate from the end of the last epoch on.

    Returns:
        A schedule of epochs, whole or not; timm changes the rate once per epoch, as :func:`per_epoch` does.

    Raises:
        ValueError: for a rate that is not positive, fewer than one epoch, or a warm-up that is not shorter than the rest.

    Example:
        >>> schedule = cosine_with_warmup(6.25e-4, 50)
        >>> [round(float(schedule(epoch)), 7) for epoch in (0, 1, 5, 25)]
        [1e-06, 0.0001258, 0.0006099, 0.0003175]
    """
    for rate in (peak, warmup_rate, final_rate):
        check_rate(rate)
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(f"warmup_epochs must lie in [0, epochs), got {warmup_epochs} of {epochs} epochs")

    def schedule(epoch: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.asarray(epoch, jnp.float32)
        fraction = epoch / max(warmup_epochs, 1e-6)
        rising = _float32(warmup_rate) * (1 - fraction) + _float32(peak) * fraction
        return jnp.where(epoch < warmup_epochs, rising, _cosine(peak, final_rate, epoch, 0, epochs))

    return schedule
