"""The training step: an objective and an optimizer, and nothing of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxrobust.batching import to_float

from ._objectives import Batch, Objective
from ._state import Apply, TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, images [batch, height, width, channels]) -> images``, jittable."""


def make_train_step(
    apply: Apply,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    augment: Augment | None = None,
) -> TrainStep:
    """A pure function ``(state, batch) -> (state, metrics)``; the caller jits, vmaps or shards it.

    Images may be 8-bit (they are divided by 255) or floating point. With a batch sharded over devices and a
    replicated state, ``jax.jit(step)`` is data-parallel training.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxrobust import models, training
        >>> model = models.Linear(classes=3)
        >>> images, labels = jnp.zeros((4, 2, 2, 1)), jnp.zeros(4, jnp.int32)
        >>> state = training.init_state(model, jax.random.key(0), images, optax.sgd(0.1))
        >>> step = jax.jit(training.make_train_step(
        ...     training.linen_apply(model), training.standard(), optax.sgd(0.1)))
        >>> state, metrics = step(state, {"images": images, "labels": labels})
        >>> int(state.step)
        1
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, objective_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        images = to_float(batch["images"])
        if augment is not None:
            images = augment(augment_key, images)
        batch = {**batch, "images": images}

        def value(params: Any) -> tuple[jax.Array, Any]:
            return objective(apply, {"params": params, **state.model_state}, objective_key, batch)

        gradients, aux = jax.grad(value, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, aux.model_state, opt_state, state.key), aux.metrics

    return step
