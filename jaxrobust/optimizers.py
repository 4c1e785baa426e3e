"""The study's optimizers as Optax transformations, with PyTorch's semantics.

The optimizer-robustness study trained with PyTorch 1.12 defaults, and Optax's transformations of the same names differ
from them in details that change what is learned. Each docstring says where. A learning rate may be a number, a traced
scalar (a population of learning rates in one compiled step; the state's structure does not depend on it) or an Optax
schedule; see also :mod:`jaxrobust.schedules`.

Weight decay applies to all parameters, or to those that ``weight_decay_mask`` says: a pytree of booleans shaped as the
parameters, or a function that makes one from them, such as ``models.decay_mask``.

The study's equation (4.2) weighs the *new* gradient by ``b1`` and ``b2``: its betas are one minus those used here and
everywhere else. It prints no bias correction, but the networks were trained with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxrobust.schedules import check_rate

LearningRate: TypeAlias = Any
"""A number, a traced scalar or an Optax schedule."""
Mask: TypeAlias = Any
"""Pytree of booleans, a function from parameters to one, or ``None``: which parameters decay, all by default."""
OptimizerFactory = Callable[..., optax.GradientTransformation]


def _check_decay(**decays: float) -> None:
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {decay}")


def _weight_decay(weight_decay: float, mask: Mask) -> tuple[optax.GradientTransformation, ...]:
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    return (optax.add_decayed_weights(weight_decay, mask),) if weight_decay else ()


def _chain(
    learning_rate: LearningRate, weight_decay: float, mask: Mask, *scalings: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Coupled weight decay (added to the gradient), the scalings, and the learning rate."""
    check_rate(learning_rate)
    return optax.chain(*_weight_decay(weight_decay, mask), *scalings, optax.scale_by_learning_rate(learning_rate))


class _TraceState(NamedTuple):
    step: jax.Array
    trace: optax.Updates


def _scheduled_trace(momentum: optax.Schedule, nesterov: bool) -> optax.GradientTransformation:
    """``optax.trace`` with a decay for each step."""

    def init(params: optax.Params) -> _TraceState:
        return _TraceState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, _TraceState]:
        del params
        decay = jnp.asarray(momentum(state.step))

        def add(gradient: jax.Array, trace: jax.Array) -> jax.Array:
            return gradient + decay.astype(trace.dtype) * trace

        trace = jax.tree.map(add, updates, state.trace)
        return jax.tree.map(add, updates, trace) if nesterov else trace, _TraceState(state.step + 1, trace)

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: LearningRate,
    *,
    momentum: float | optax.Schedule = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Stochastic gradient descent as ``torch.optim.SGD``: no dampening, coupled weight decay.

    Differs from ``optax.sgd`` only in having weight decay and in taking a schedule for ``momentum``. The momentum buffer
    starts as the first gradient, as in PyTorch, which a trace starting from zero does as well. With ``nesterov`` the
    step is ``g + momentum * u`` for the new buffer ``u = momentum * u + g``.
    """
    if callable(momentum):
        trace: tuple[optax.GradientTransformation, ...] = (_scheduled_trace(momentum, nesterov),)
    else:
        _check_decay(momentum=momentum)
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0")
        trace = (optax.trace(decay=momentum, nesterov=nesterov),) if momentum else ()
    return _chain(learning_rate, weight_decay, weight_decay_mask, *trace)


def momentum(
    learning_rate: LearningRate,
    *,
    decay: float | optax.Schedule = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """:func:`sgd` with momentum 0.9, the study's control (table 4.7)."""
    return sgd(
        learning_rate,
        momentum=decay,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )


def adam(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """Adam as ``torch.optim.Adam``: bias-corrected, ``eps`` outside the square root, coupled weight decay.

    Equal to ``optax.adam`` without weight decay; with it, the decay is added to the gradient before the moments, which
    is not ``optax.adamw``.
    """
    _check_decay(b1=b1, b2=b2)
    return _chain(learning_rate, weight_decay, weight_decay_mask, optax.scale_by_adam(b1, b2, eps))


def rmsprop(
    learning_rate: LearningRate,
    *,
    decay: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """RMSProp as ``torch.optim.RMSprop``: decay 0.99, ``eps`` outside the square root, no bias correction.

    ``optax.rmsprop`` differs twice by default: its decay is 0.9 and its ``eps`` is inside the square root.
    """
    _check_decay(decay=decay)
    scaling = optax.scale_by_rms(decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=False)
    return _chain(learning_rate, weight_decay, weight_decay_mask, scaling)


def sign_sgd(
    learning_rate: LearningRate, *, weight_decay: float = 0.0, weight_decay_mask: Mask = None
) -> optax.GradientTransformation:
    """Sign gradient descent, ``w <- w - learning_rate * sign(g)`` with ``sign(0) = 0``: equation (4.3).

    The memory-free limit of Adam and RMSProp. Equal to ``optax.sign_sgd``.
    """
    return _chain(learning_rate, weight_decay, weight_decay_mask, optax.scale_by_sign())


def adagrad(
    learning_rate: LearningRate,
    *,
    eps: float = 1e-10,
    initial_accumulator: float = 0.0,
    weight_decay: float = 0.0,
    weight_decay_mask: Mask = None,
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

    return _chain(learning_rate, weight_decay, weight_decay_mask, optax.GradientTransformation(init, update))


def adamw(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """AdamW as ``torch.optim.AdamW``: weight decay 0.01, decoupled, multiplied by the learning rate.

    ``optax.adamw`` has the same form with a default decay of 1e-4. It did not take part in the published study.
    """
    _check_decay(b1=b1, b2=b2)
    decay = _weight_decay(weight_decay, weight_decay_mask)
    return _chain(learning_rate, 0.0, None, optax.scale_by_adam(b1, b2, eps), *decay)


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
