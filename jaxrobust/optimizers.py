"""The study's optimizers as Optax transformations, with PyTorch's semantics.

The optimizer-robustness study trained with PyTorch 1.12 defaults, and Optax's transformations of the same names differ
from them in details that change what is learned. Each docstring says where. A learning rate may be a number, a traced
scalar (a population of learning rates in one compiled step; the state's structure does not depend on it) or an Optax
schedule.

The study's equation (4.2) weighs the *new* gradient by ``b1`` and ``b2``: its betas are one minus those used here and
everywhere else. It prints no bias correction, but the networks were trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

LearningRate: TypeAlias = Any
"""A number, a traced scalar or an Optax schedule."""
OptimizerFactory = Callable[..., optax.GradientTransformation]


def _check_rate(learning_rate: Any) -> None:
    concrete = isinstance(learning_rate, (int, float, np.number))
    if concrete and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"the learning rate must be finite and above 0, got {learning_rate}")


def _check_decay(**decays: float) -> None:
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {decay}")


def _chain(
    learning_rate: LearningRate, weight_decay: float, *scalings: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Coupled weight decay (added to the gradient), the scalings, and the learning rate."""
    _check_rate(learning_rate)
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    decay = (optax.add_decayed_weights(weight_decay),) if weight_decay else ()
    return optax.chain(*decay, *scalings, optax.scale_by_learning_rate(learning_rate))


def sgd(
    learning_rate: LearningRate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Stochastic gradient descent as ``torch.optim.SGD``: no dampening, coupled weight decay.

    Differs from ``optax.sgd`` only in having weight decay. The momentum buffer starts as the first gradient, as in
    PyTorch, which a trace starting from zero does as well.
    """
    _check_decay(momentum=momentum)
    if nesterov and not momentum:
        raise ValueError("nesterov needs a momentum above 0")
    trace = (optax.trace(decay=momentum, nesterov=nesterov),) if momentum else ()
    return _chain(learning_rate, weight_decay, *trace)


def momentum(
    learning_rate: LearningRate, *, decay: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """:func:`sgd` with momentum 0.9, the study's control (table 4.7)."""
    return sgd(learning_rate, momentum=decay, nesterov=nesterov, weight_decay=weight_decay)


def adam(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam as ``torch.optim.Adam``: bias-corrected, ``eps`` outside the square root, coupled weight decay.

    Equal to ``optax.adam`` without weight decay; with it, the decay is added to the gradient before the moments, which
    is not ``optax.adamw``.
    """
    _check_decay(b1=b1, b2=b2)
    return _chain(learning_rate, weight_decay, optax.scale_by_adam(b1, b2, eps))


def rmsprop(
    learning_rate: LearningRate, *, decay: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """RMSProp as ``torch.optim.RMSprop``: decay 0.99, ``eps`` outside the square root, no bias correction.

    ``optax.rmsprop`` differs twice by default: its decay is 0.9 and its ``eps`` is inside the square root.
    """
    _check_decay(decay=decay)
    scaling = optax.scale_by_rms(decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=False)
    return _chain(learning_rate, weight_decay, scaling)


def sign_sgd(learning_rate: LearningRate, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Sign gradient descent, ``w <- w - learning_rate * sign(g)`` with ``sign(0) = 0``: equation (4.3).

    The memory-free limit of Adam and RMSProp. Equal to ``optax.sign_sgd``.
    """
    return _chain(learning_rate, weight_decay, optax.scale_by_sign())


def adagrad(
    learning_rate: LearningRate,
    *,
    eps: float = 1e-10,
    initial_accumulator: float = 0.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adagrad as ``torch.optim.Adagrad``: ``g / (sqrt(sum g^2) + eps)``, the sum starting from zero.

    ``optax.adagrad`` starts the sum from 0.1, adds ``eps`` (1e-7) inside the square root, and makes no step where the
    sum is zero. It did not take part in the published study.
    """

    def init(params: optax.Params) -> Any:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, initial_accumulator), params)

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, Any]:
        del params
        state = jax.tree.map(lambda total, gradient: total + jnp.square(gradient), state, updates)
        return jax.tree.map(lambda g, total: g / (jnp.sqrt(total) + eps), updates, state), state

    return _chain(learning_rate, weight_decay, optax.GradientTransformation(init, update))


def adamw(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> optax.GradientTransformation:
    """AdamW as ``torch.optim.AdamW``: weight decay 0.01, decoupled, multiplied by the learning rate.

    ``optax.adamw`` has the same form with a default decay of 1e-4. It did not take part in the published study.
    """
    _check_decay(b1=b1, b2=b2)
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    return _chain(learning_rate, 0.0, optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay))


OPTIMIZERS: Mapping[str, OptimizerFactory] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "rmsprop": rmsprop,
    "sign_sgd": sign_sgd,
    "adagrad": adagrad,
    "adamw": adamw,
}
"""All optimizers by name."""


def by_name(name: str) -> OptimizerFactory:
    """The factory of that name.

    Raises:
        ValueError: listing the names.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def step_decay(
    learning_rate: float | jax.Array,
    total_steps: int,
    *,
    milestones: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """The study's schedule: the rate falls by ``factor`` at each milestone, a fraction of all updates.

    With 200 epochs: times 0.1 at epoch 100 and at epoch 150. ``learning_rate`` may be traced.

    Example:
        >>> schedule = step_decay(1.0, 200)
        >>> [round(float(schedule(step)), 4) for step in (99, 100, 150)]
        [1.0, 0.1, 0.01]
    """
    _check_rate(learning_rate)
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    boundaries = [round(fraction * total_steps) for fraction in milestones]

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        rate = jnp.asarray(learning_rate, jnp.float32)
        for boundary in boundaries:
            rate = jnp.where(jnp.asarray(step) < boundary, rate, rate * factor)
        return rate

    return schedule


def warmup_cosine(learning_rate: float | jax.Array, total_steps: int, *, warmup: float = 0.05) -> optax.Schedule:
    """Linear warm-up over a fraction of all updates, then a cosine to zero. ``learning_rate`` may be traced."""
    _check_rate(learning_rate)
    rise = max(1, round(warmup * total_steps))

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - rise) / max(total_steps - rise, 1), 0, 1)
        fraction = jnp.where(step < rise, (step + 1) / rise, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        return jnp.asarray(learning_rate, jnp.float32) * fraction

    return schedule
