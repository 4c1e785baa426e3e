"""Objectives that penalise derivatives of the loss by the image: gradient norm, CURE, LLR, edge alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.attacks import Loss
from jaxrobust.losses._cure import cure_terms
from jaxrobust.losses._edge_alignment import alignment_and_logits
from jaxrobust.losses._llr import llr_terms
from jaxrobust.losses._terms import Terms, first_order_terms
from jaxrobust.threat import ThreatModel

from .._state import Apply
from ._base import Aux, Batch, Objective, Weight, accuracy, at_step, evaluated


def gradient_norm(
    threat: ThreatModel,
    *,
    loss_weight: float = 1.0,
    penalty_weight: Weight = 1.0,
    scale: jax.typing.ArrayLike | None = None,
    loss: Loss = losses.cross_entropy,
) -> Objective:
    """The mean of :func:`jaxrobust.losses.gradient_norm`, whose arguments these are.

    The network is in evaluation mode: running statistics of batch norm are used and never updated, as the study has it,
    and nothing is dropped. Metrics: ``loss``, of which ``penalty`` is a part, and ``accuracy``. A penalty that falls to
    nothing with the accuracy has found the constant classifier: warm up the learning rate and the weight.

    Args:
        threat: see :func:`jaxrobust.losses.gradient_norm`.
        loss_weight: of the loss.
        penalty_weight: of the penalty. The study raises it linearly over 5 epochs:
            ``optax.linear_schedule(0.0, 1.2, 5 * steps_per_epoch)``.
        scale, loss: see :func:`jaxrobust.losses.gradient_norm`.

    Example:
        >>> from jaxrobust import Linf
        >>> objective = gradient_norm(Linf(4 / 255), loss_weight=0.8, penalty_weight=1.2)
    """

    def terms(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Terms:
        return first_order_terms(
            evaluated(apply, variables),
            batch["images"],
            batch["labels"],
            threat,
            loss_weight=loss_weight,
            penalty_weight=at_step(penalty_weight, batch),
            scale=scale,
            loss=loss,
        )

    return regularized(terms)


def cure(*, step: float = 1.5, weight: Weight = 4.0, loss: Loss = losses.cross_entropy) -> Objective:
    """The mean of :func:`jaxrobust.losses.cure`, whose arguments these are; the weight may be a schedule of steps.

    Mode and metrics are those of :func:`gradient_norm`.
    """

    def terms(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Terms:
        value = cure_terms(
            evaluated(apply, variables), batch["images"], batch["labels"], step=step, weight=1.0, loss=loss
        )
        return value._replace(penalty=at_step(weight, batch) * value.penalty)

    if not step > 0:
        raise ValueError(f"step must be above 0, got {step}")
    return regularized(terms)


def llr(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    linearity_weight: float = 4.0,
    gradient_weight: float = 3.0,
    loss: Loss = losses.cross_entropy,
) -> Objective:
    """The mean of :func:`jaxrobust.losses.llr`, whose arguments these are.

    Mode and metrics are those of :func:`gradient_norm`.
    """

    def terms(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Terms:
        return llr_terms(
            key,
            evaluated(apply, variables),
            batch["images"],
            batch["labels"],
            threat,
            steps=steps,
            step_size=step_size,
            linearity_weight=linearity_weight,
            gradient_weight=gradient_weight,
            loss=loss,
        )

    return regularized(terms)


def edge_alignment(
    *,
    weight: Weight = 1.0,
    target: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    loss: Loss = losses.cross_entropy,
    **options: Any,
) -> Objective:
    """The mean of ``loss + weight * losses.edge_alignment``.

    Mode and metrics are those of :func:`gradient_norm`.

    Args:
        weight: of the alignment. The gradient-norm study's code raises it by 0.09 per epoch from 1 to 19.
        target: ``(key, images) -> maps``, such as a control; by default the images' edges.
        loss: per-example loss.
        **options: of :func:`jaxrobust.losses.edge_alignment`.
    """

    def terms(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Terms:
        target_key, class_key = jax.random.split(key)
        logits_fn, images, labels = evaluated(apply, variables), batch["images"], batch["labels"]
        maps = None if target is None else target(target_key, images)
        alignment, logits = alignment_and_logits(class_key, logits_fn, images, labels, maps, **options)
        return Terms(loss(logits, labels), at_step(weight, batch) * alignment, logits)

    return regularized(terms)


def regularized(
    terms: Callable[[Apply, Any, jax.Array, Batch], Terms],
    *,
    accuracy_name: str = "accuracy",
    limit: float | None = None,
) -> Objective:
    """The objective whose value is the mean of the terms' sum.

    Args:
        terms: of one batch.
        accuracy_name: what the accuracy where the loss was taken is called.
        limit: of the penalty; the share of examples at it is reported as ``clipped``.
    """

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        found = terms(apply, variables, key, batch)
        value = found.total.mean()
        metrics = {
            "loss": value,
            "penalty": found.penalty.mean(),
            accuracy_name: accuracy(found.logits, batch["labels"]),
        }
        if limit is not None:
            at_limit = found.penalty >= limit * (1 - 1e-6)  # up to the rounding of weight and mean
            metrics["clipped"] = at_limit.mean(dtype=jnp.float32)
        model_state = {name: leaf for name, leaf in variables.items() if name != "params"}
        return value, Aux(model_state, metrics)

    return objective
