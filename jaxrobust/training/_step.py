"""The training step: an objective and an optimizer, and nothing of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.batching import to_float
from jaxrobust.data import Augment, Mix
from jaxrobust.iteration import iterate

from ._averaging import Averaging
from ._objectives import AdversarialObjective, Batch, Objective
from ._state import Apply, TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


MIX_FOLD = 2**31 - 1
"""Folded into the key of the augmentation, which folds in the numbers of the images."""


class _Part(NamedTuple):
    """What one part of the batch contributes to a step."""

    gradients: Any
    model_state: Any
    metrics: dict[str, jax.Array]


def make_train_step(
    apply: Apply,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    augment: Augment | None = None,
    mix: Mix | None = None,
    extend: Callable[[TrainState, Batch], Batch] | None = None,
    averaging: Averaging | None = None,
    accumulate: int = 1,
) -> TrainStep:
    """A pure function ``(state, batch) -> (state, metrics)``; the caller jits, vmaps or shards it.

    Images may be 8-bit (they are divided by 255) or floating point. With a batch sharded over devices and a
    replicated state, ``jax.jit(step)`` is data-parallel training: batch-norm statistics and gradients are those of the
    whole batch, whatever the number of devices. Metrics are the objective's and ``gradient_norm``.

    Args:
        apply: see :class:`Apply`.
        objective: what is minimised. It finds the number of updates made under ``batch["step"]``.
        optimizer: an Optax optimizer.
        augment: applied to the images before the objective sees them.
        mix: ``(key, batch) -> batch``, mixes the augmented images with each other and makes their labels soft, ``[batch,
            classes]``, as :func:`jaxrobust.data.mix` does; the objective's loss must take such labels.
        extend: ``(state, batch) -> batch``, adds what is not augmented, after the augmentation: rows from ``state.memory``
            for instance.
        averaging: the one that :func:`init_state` was given.
        accumulate: parts into which the batch is split to save memory: their gradients are averaged, then one update
            is made. Batch norm sees one part at a time, and each part draws random numbers of its own.

    Raises:
        ValueError: if ``accumulate`` is below 1, or (when the step is traced) does not divide the batch.

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
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")

    def one_part(params: Any, model_state: Any, key: jax.Array, batch: Batch) -> _Part:
        loss = objective
        if isinstance(objective, AdversarialObjective):  # outside of grad: the attack is not differentiated
            attack_key, key = objective.split(key)
            batch = objective.craft(apply, {"params": params, **model_state}, attack_key, batch)
            loss = objective.loss

        def value(params: Any) -> tuple[jax.Array, Any]:
            return loss(apply, {"params": params, **model_state}, key, batch)

        gradients, aux = jax.grad(value, has_aux=True)(params)
        return _Part(gradients, aux.model_state, aux.metrics)

    def next_part(constants: tuple[Any, Any, jax.Array, Batch], sums: tuple[jax.Array, _Part]) -> Any:
        params, step, key, batch = constants
        number, total = sums
        rows = {name: array[:, number] for name, array in batch.items()}
        part = one_part(params, total.model_state, jax.random.fold_in(key, number), {**rows, "step": step})
        gradients, metrics = jax.tree.map(jnp.add, (total.gradients, total.metrics), (part.gradients, part.metrics))
        return number + 1, _Part(gradients, part.model_state, metrics)

    def all_parts(params: Any, model_state: Any, step: jax.Array, key: jax.Array, batch: Batch) -> _Part:
        # Part p has rows p, p + accumulate, ...: with rows sharded over devices each part has some of every device.
        split = {name: array.reshape(-1, accumulate, *array.shape[1:]) for name, array in batch.items()}
        first = {name: array[:, 0] for name, array in split.items()}
        shapes = jax.eval_shape(one_part, params, model_state, key, {**first, "step": step})
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)._replace(model_state=model_state)
        number = jnp.zeros((), jnp.int32)
        _, total = iterate(next_part, (params, step, key, split), (number, zeros), accumulate)
        return jax.tree.map(lambda leaf: leaf / accumulate, total)._replace(model_state=total.model_state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, objective_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        images = to_float(batch["images"])
        if augment is not None:
            images = augment(augment_key, images)
        batch = {**batch, "images": images}
        if mix is not None:
            batch = mix(jax.random.fold_in(augment_key, MIX_FOLD), batch)
        if extend is not None:
            batch = extend(state, batch)
        if len(batch["images"]) % accumulate:
            raise ValueError(
                f"a batch of {len(batch['images'])} images cannot be split into accumulate={accumulate} parts"
            )
        if accumulate == 1:
            part = one_part(state.params, state.model_state, objective_key, {**batch, "step": state.step})
        else:
            part = all_parts(state.params, state.model_state, state.step, objective_key, batch)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, opt_state = optimizer.update(part.gradients, state.opt_state, state.params)
            norm = optax.global_norm(part.gradients)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if averaging is not None:
            if average is None:
                raise ValueError("the state holds no average: give init_state the same averaging")
            average = averaging.update(average, params)
        new = TrainState(state.step + 1, params, part.model_state, opt_state, state.key, average, state.memory)
        return new, {**part.metrics, "gradient_norm": norm}

    return step
