"""KW, IBP and CROWN-IBP: an upper bound of the worst case's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.certify._certified import rounding
from jaxrobust.losses._certified import certified_margins
from jaxrobust.threat import ThreatModel

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, Objective, Weight, accuracy, at_step, evaluated
from ._radius import MakeAttack, Rows, at_radius, check_subset, crafting_within, drawn

MethodAt = Callable[[Batch], losses.MarginMethod]


def kw(
    threat: ThreatModel,
    *,
    method: str = "fast-lin",
    eps: Weight | None = None,
    subset: int | None = None,
    attack: MakeAttack | None = None,
) -> Objective:
    """The mean of :func:`jaxrobust.losses.certified_cross_entropy` by linear bounds (Wong and Kolter, 2018).

    For ReLU networks the published dual bound is Fast-Lin. The network is in evaluation mode: running statistics of batch norm
    are used and never updated, so leave batch norm out, as all the published networks do. Metrics: ``loss``, ``accuracy``,
    ``certified_accuracy``, the share of images whose label is proved at the current radius, and with an attack
    ``robust_accuracy``.

    Args:
        threat: the set of perturbations; ``eps`` may replace its radius.
        method: see :func:`jaxrobust.certify.margins`.
        eps: radius, usually a schedule of steps: bounds at a large radius are useless for an untrained network. The thesis of Liu
            doubles it: ``schedules.doubling(0.0064, every=20 * steps_per_epoch, times=4)`` ends near 0.1.
        subset: how many images of the batch, drawn anew in each step, are bounded; all by default.
        attack: makes an attack for the threat model, e.g. ``partial(attacks.pgd, steps=10)``. If given, the mean cross-entropy
            on the whole batch's adversarial images is added. The thesis finds the sum between adversarial training and KW
            in robustness, and weaker than KW in what is proved (section 3.3.4).

    Raises:
        ValueError: for an empty subset.

    Example:
        >>> from jaxrobust import Linf
        >>> objective = kw(Linf(0.1))
    """

    def method_at(batch: Batch) -> losses.MarginMethod:
        return method

    return _bounded(threat, method_at, None, eps, subset, attack)


def ibp(threat: ThreatModel, *, kappa: Weight = 0.5, eps: Weight | None = None, subset: int | None = None) -> Objective:
    """Interval bound propagation (Gowal et al., 2018): ``kappa * loss(x) + (1 - kappa) * bound``, means over the batch.

    The bound is :func:`jaxrobust.losses.certified_cross_entropy` by intervals. Mode and metrics are those of :func:`kw`. Such
    training works with schedules only: ``kappa`` falls from 1 to 0.5 while the radius rises from 0, both linearly
    (``optax.linear_schedule``).

    Args:
        threat, eps: see :func:`kw`.
        kappa: weight of the images' own cross-entropy.
        subset: how many images are bounded, see :func:`kw`; the cross-entropy is that of all. Bounds by intervals are cheap, so
            this is for comparisons.

    Raises:
        ValueError: for an empty subset.
    """

    def method_at(batch: Batch) -> losses.MarginMethod:
        return "interval"

    return _bounded(threat, method_at, kappa, eps, subset, None)


def crown_ibp(
    threat: ThreatModel,
    *,
    kappa: Weight = 0.5,
    beta: Weight = 1.0,
    eps: Weight | None = None,
    subset: int | None = None,
) -> Objective:
    """CROWN-IBP (Zhang et al., 2020): :func:`ibp` with tighter margins.

    Margins are ``beta`` times those of CROWN, whose intermediate bounds are intervals, plus ``1 - beta`` times those of
    intervals alone. Mode and metrics are those of :func:`kw`.

    Args:
        threat, kappa, eps, subset: see :func:`ibp`.
        beta: in [0, 1]. Published: from 1 to 0 while the radius rises, so that training ends as IBP does.

    Raises:
        ValueError: for an empty subset.
    """

    def method_at(batch: Batch) -> losses.MarginMethod:
        share = at_step(beta, batch)
        return {"crown-interval": share, "interval": 1 - share}

    return _bounded(threat, method_at, kappa, eps, subset, None)


def _bounded(
    threat: ThreatModel,
    method_at: MethodAt,
    kappa: Weight | None,
    eps: Weight | None,
    subset: int | None,
    attack: MakeAttack | None,
) -> Objective:
    check_subset(subset)

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits_fn, labels = evaluated(apply, variables), batch["labels"]
        logits = logits_fn(batch["images"])
        rows = drawn(key, Rows(batch["images"], labels, logits, None), subset)
        within = at_radius(threat, eps, batch)
        margins = certified_margins(logits_fn, rows.images, rows.labels, within, method_at(batch))
        value = losses.cross_entropy(-margins, rows.labels).mean()
        if kappa is not None:
            share = at_step(kappa, batch)
            value = share * losses.cross_entropy(logits, labels).mean() + (1 - share) * value
        metrics = {
            "accuracy": accuracy(logits, labels),
            "certified_accuracy": certified_share(margins, rows.labels, rows.logits),
        }
        if attack is not None:
            adversarial = logits_fn(batch["adversarial"])
            value = value + losses.cross_entropy(adversarial, labels).mean()
            metrics["robust_accuracy"] = accuracy(adversarial, labels)
        return value, Aux(unchanged(variables), {"loss": value, **metrics})

    return objective if attack is None else AdversarialObjective(crafting_within(threat, eps, attack), objective)


def certified_share(margins: jax.Array, labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Share of images whose lower bounds of margins ``[batch, classes]`` are positive beyond rounding, float32."""
    own = jnp.arange(margins.shape[-1], dtype=labels.dtype) == labels[:, None]
    return (jnp.where(own, jnp.inf, margins).min(-1) > rounding(logits)).mean(dtype=jnp.float32)


def unchanged(variables: Any) -> dict[str, Any]:
    """The model state of a network in evaluation mode."""
    return {name: leaf for name, leaf in variables.items() if name != "params"}
