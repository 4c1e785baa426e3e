"""Objectives: what a training step minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.attacks import Attack, Loss

from ._state import Apply

Batch = Mapping[str, jax.Array]
"""``{"images": [batch, height, width, channels] in [0, 1], "labels": int [batch]}``."""


class Aux(NamedTuple):
    """What an objective returns beside its value: the new model state and scalar metrics."""

    model_state: Any
    metrics: dict[str, jax.Array]


Objective = Callable[[Apply, Any, jax.Array, Batch], tuple[jax.Array, Aux]]
"""``(apply, variables, key, batch) -> (scalar, Aux)``."""


def _accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)


def standard(loss: Loss = losses.cross_entropy) -> Objective:
    """Mean loss on the images as they are.

    Label smoothing: ``standard(partial(losses.cross_entropy, label_smoothing=0.1))``. Metrics: ``loss``,
    ``accuracy``. Cost: one forward and one backward pass.
    """

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits, model_state = apply(variables, batch["images"], train=True, key=key)
        value = loss(logits, batch["labels"]).mean()
        metrics = {"loss": value, "accuracy": _accuracy(logits, batch["labels"])}
        return value, Aux(model_state, metrics)

    return objective


def adversarial(attack: Attack, loss: Loss = losses.cross_entropy) -> Objective:
    """Mean loss on adversarial images: adversarial training (Madry et al., 2018).

    The attack sees the network in evaluation mode and the current parameters as constants: it computes no
    parameter gradients and never touches batch-norm statistics; the update sees adversarial images in training
    mode. Metrics: ``loss``, ``accuracy`` (both on adversarial images). Cost: the attack plus one forward and one
    backward pass.
    """
    inner = standard(loss)

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        attack_key, key = jax.random.split(key)
        constant = jax.lax.stop_gradient(variables)
        logits_fn = partial(_evaluation_logits, apply, constant)
        images = attack(attack_key, logits_fn, batch["images"], batch["labels"])
        return inner(apply, variables, key, {**batch, "images": jax.lax.stop_gradient(images)})

    return objective


def _evaluation_logits(apply: Apply, variables: Any, images: jax.Array) -> jax.Array:
    return apply(variables, images, train=False)[0]
