"""Adversarial weight perturbation, around any objective."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.threat import safe_norm

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, Objective


def awp(objective: Objective, *, gamma: float = 5e-3, start_step: int = 0) -> Objective:
    """The objective at the worst weights nearby: adversarial weight perturbation (Wu et al., 2020).

    Every parameter array ``w`` of more than one axis moves by ``gamma * ||w|| * g / ||g||``, where ``g`` is the objective's
    gradient there. Value, gradient, model state and metrics are those at the moved weights, the move being constant. The
    pass that finds the move leaves running statistics alone, and shares dropout masks and adversarial images with the
    pass that follows: an :class:`AdversarialObjective` stays one, with the same attack. Cost: the objective's forward
    and backward passes twice, its attack once.

    Departures from the published code:

    1. There a copy of the network makes a step of SGD, whose length is then normalised away. Here the gradient itself is
       normalised, which is the same move.
    2. There the optimizer acts on the moved weights, which are moved back afterwards, so that weight decay is that of
       the moved weights. Here it sees the weights as they are.
    3. There only parameters named ``weight`` move. Here also other arrays of more than one axis, such as the position
       embeddings of a transformer; neither moves biases and the scales of batch norm.

    Args:
        objective: what is made robust, e.g. :func:`trades` or :func:`adversarial`.
        gamma: length of the move relative to that of the weights.
        start_step: number of updates (``batch["step"]``) before which nothing moves; the passes are the same. A batch
            without a step counts as one after it.

    Raises:
        ValueError: for a negative ``gamma`` or ``start_step``.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    if start_step < 0:
        raise ValueError(f"start_step must be at least 0, got {start_step}")
    if isinstance(objective, AdversarialObjective):
        return AdversarialObjective(objective.craft, awp(objective.loss, gamma=gamma, start_step=start_step))

    def moved_objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        constant = jax.lax.stop_gradient(variables)

        def value(params: Any) -> jax.Array:
            return objective(apply, {**constant, "params": params}, key, batch)[0]

        # Before start_step a move of length zero, not lax.cond: branches with convolutions are slow on CPU.
        active = batch["step"] >= start_step if start_step and "step" in batch else True
        length = jnp.where(active, gamma, 0.0)
        gradients = jax.grad(value)(constant["params"])
        params = jax.tree.map(partial(_moved, length), variables["params"], gradients)
        return objective(apply, {**variables, "params": params}, key, batch)

    return moved_objective


def _moved(length: jax.Array, weights: jax.Array, gradient: jax.Array) -> jax.Array:
    if weights.ndim < 2:
        return weights
    norm = safe_norm(gradient.reshape(-1))
    relative = length.astype(weights.dtype) * safe_norm(jax.lax.stop_gradient(weights).reshape(-1))
    return weights + relative * gradient / jnp.where(norm > 0, norm, 1)
