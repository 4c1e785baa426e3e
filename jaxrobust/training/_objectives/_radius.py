"""What certified training adds to objectives: a radius that grows, attacks within it, and a part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from jaxrobust.attacks import Attack, pgd
from jaxrobust.losses._expansion import with_radius
from jaxrobust.threat import ThreatModel

from .._state import Apply
from ._base import Batch, Craft, Weight, at_step, crafting

MakeAttack = Callable[[ThreatModel], Attack]
"""Makes the attack for a threat model, whose radius is that of the current step and may be traced."""

AnyThreat = TypeVar("AnyThreat", bound=ThreatModel)


def ten_steps(threat: ThreatModel) -> Attack:
    """PGD with 10 steps of a fifth of the radius, from a random start."""
    return pgd(threat, steps=10, step_size=threat.eps / 5)


def at_radius(threat: AnyThreat, eps: Weight | None, batch: Batch) -> AnyThreat:
    """The threat model with the radius of this step; its own for ``None``."""
    return threat if eps is None else with_radius(threat, at_step(eps, batch))


def crafting_within(threat: ThreatModel, eps: Weight | None, attack: MakeAttack) -> Craft:
    """The stage that attacks ``batch["images"]`` at the radius of this step, with the network in evaluation mode."""

    def craft(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> Batch:
        return crafting(attack(at_radius(threat, eps, batch)), "running")(apply, variables, key, batch)

    return craft


class Rows(NamedTuple):
    """Some rows of a batch."""

    images: jax.Array
    labels: jax.Array
    logits: jax.Array
    adversarial: jax.Array | None


def check_subset(subset: int | None) -> None:
    """Raise ``ValueError`` for an empty part of the batch."""
    if subset is not None and subset < 1:
        raise ValueError(f"subset must be at least 1, or None for the whole batch, got {subset}")


def drawn(key: jax.Array, rows: Rows, subset: int | None) -> Rows:
    """``subset`` rows, each with the same probability and none twice; all rows, in order, where there are no more."""
    size = len(rows.images)
    if subset is None or subset >= size:
        return rows
    chosen = jax.random.choice(key, size, (subset,), replace=False)
    return jax.tree.map(lambda array: array[chosen], rows)
