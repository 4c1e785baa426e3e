"""Standard training."""

from __future__ import annotations

from typing import Any

import jax

from jaxrobust import losses
from jaxrobust.attacks import Loss

from .._state import Apply
from ._base import Aux, Batch, Objective, accuracy


def standard(loss: Loss = losses.cross_entropy) -> Objective:
    """Mean loss on the images as they are.

    Label smoothing: ``standard(partial(losses.cross_entropy, label_smoothing=0.1))``. Metrics: ``loss``,
    ``accuracy``. Cost: one forward and one backward pass.
    """

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits, model_state = apply(variables, batch["images"], train=True, key=key)
        value = loss(logits, batch["labels"]).mean()
        metrics = {"loss": value, "accuracy": accuracy(logits, batch["labels"])}
        return value, Aux(model_state, metrics)

    return objective
