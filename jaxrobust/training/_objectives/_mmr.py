"""MMR and MMR+at: cross-entropy and hinges on the distances to the faces of the linear region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxrobust import losses
from jaxrobust.attacks import LogitsFn
from jaxrobust.threat import ThreatModel

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, Objective, Weight, accuracy, at_step, evaluated
from ._certified import unchanged
from ._radius import MakeAttack, crafting_within, ten_steps


def mmr(
    threat: ThreatModel,
    *,
    boundary_gamma: Weight,
    decision_gamma: Weight,
    weight: Weight = 1.0,
    boundaries: Weight = 0.02,
    decisions: int | None = None,
) -> Objective:
    """Mean cross-entropy plus ``weight`` times the mean of :func:`jaxrobust.losses.mmr` (Croce et al., 2019).

    For networks of affine layers and ReLU. The network is in evaluation mode: running statistics of batch norm are used and never
    updated, so leave batch norm out, as the published networks do. Metrics: ``loss``, of which ``penalty`` is a part, and
    ``accuracy``.

    Args:
        threat: the norm; neither radius nor box is used.
        boundary_gamma, decision_gamma, decisions: see :func:`jaxrobust.losses.mmr`. The published values for both gammas on MNIST
            are 0.1 to 0.2 (l-infinity, at radius 0.1) and 0.45 to 0.6 (l2, at 0.3).
        weight: of the penalty, published as a linear rise from 0 over 10 epochs to values from 0.1 to 6.
        boundaries: see :func:`jaxrobust.losses.mmr`; a schedule gives shares. Published: from 0.1 to 0.02.

    Example:
        >>> from jaxrobust import Linf
        >>> objective = mmr(Linf(0.1), boundary_gamma=0.1, decision_gamma=0.1, weight=2.0)
    """
    term = _penalty(threat, boundary_gamma, decision_gamma, weight, boundaries, decisions)

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits_fn, images, labels = evaluated(apply, variables), batch["images"], batch["labels"]
        logits = logits_fn(images)
        penalty = term(logits_fn, images, labels, batch)
        value = losses.cross_entropy(logits, labels).mean() + penalty
        return value, Aux(
            unchanged(variables), {"loss": value, "penalty": penalty, "accuracy": accuracy(logits, labels)}
        )

    return objective


def mmr_at(
    threat: ThreatModel,
    *,
    boundary_gamma: Weight,
    decision_gamma: Weight,
    attack: MakeAttack = ten_steps,
    weight: Weight = 1.0,
    boundaries: Weight = 0.02,
    decisions: int | None = None,
) -> AdversarialObjective:
    """MMR with adversarial training: every second image of the batch is replaced by an adversarial one (Croce et al., 2019).

    Cross-entropy and penalty are those of the mixed batch, which the attack leaves under ``batch["adversarial"]``. Mode and metrics
    are those of :func:`mmr`, but ``accuracy`` is that of the images which stay as they are, and ``robust_accuracy`` that of
    the others.

    Args:
        threat: the norm, and what the attack may do.
        attack: makes an attack for the threat model; by default 10 steps of a fifth of the radius.
        boundary_gamma, decision_gamma, weight, boundaries, decisions: see :func:`mmr`.
    """
    term = _penalty(threat, boundary_gamma, decision_gamma, weight, boundaries, decisions)
    attacked = crafting_within(threat, None, attack)

    def craft(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Batch:
        half = {"images": batch["images"][::2], "labels": batch["labels"][::2]}
        found = attacked(apply, variables, key, half)["adversarial"]
        return {**batch, "adversarial": batch["images"].at[::2].set(found)}

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits_fn, images, labels = evaluated(apply, variables), batch["adversarial"], batch["labels"]
        logits = logits_fn(images)
        penalty = term(logits_fn, images, labels, batch)
        value = losses.cross_entropy(logits, labels).mean() + penalty
        clean = slice(1 if len(labels) > 1 else 0, None, 2)  # of one image the mean would not be a number
        metrics = {
            "loss": value,
            "penalty": penalty,
            "accuracy": accuracy(logits[clean], labels[clean]),
            "robust_accuracy": accuracy(logits[::2], labels[::2]),
        }
        return value, Aux(unchanged(variables), metrics)

    return AdversarialObjective(craft, objective)


def _penalty(
    threat: ThreatModel,
    boundary_gamma: Weight,
    decision_gamma: Weight,
    weight: Weight,
    boundaries: Weight,
    decisions: int | None,
) -> Callable[[LogitsFn, jax.Array, jax.Array, Batch], jax.Array]:
    def penalty(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, batch: Batch) -> jax.Array:
        values = losses.mmr(
            logits_fn,
            images,
            labels,
            threat,
            boundary_gamma=at_step(boundary_gamma, batch),
            decision_gamma=at_step(decision_gamma, batch),
            boundaries=at_step(boundaries, batch),
            decisions=decisions,
        )
        return at_step(weight, batch) * values.mean()

    return penalty
