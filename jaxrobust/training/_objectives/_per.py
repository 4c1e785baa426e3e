"""PER and PER+at: cross-entropy and a hinge on the distances to the polyhedral envelope."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxrobust import losses
from jaxrobust.attacks import LogitsFn
from jaxrobust.certify import HalfSpaces, half_spaces
from jaxrobust.losses._per import check_envelope, envelope_penalty
from jaxrobust.threat import Extent, ThreatModel
from jaxrobust.threat._base import flatten

from .._state import Apply
from ._base import AdversarialObjective, Aux, Batch, Objective, Weight, accuracy, at_step, evaluated
from ._certified import certified_share, unchanged
from ._radius import MakeAttack, Rows, at_radius, check_subset, crafting_within, drawn, ten_steps


def per(
    threat: ThreatModel,
    *,
    alpha: Weight | None = None,
    beta: Weight = 1.0,
    worst: int = 4,
    eps: Weight | None = None,
    method: str = "fast-lin",
    subset: int | None = None,
) -> Objective:
    """Mean cross-entropy plus the mean of :func:`jaxrobust.losses.per`: polyhedral envelope regularisation (Liu et al., 2021).

    The network is in evaluation mode: running statistics of batch norm are used and never updated, so leave batch norm out, as
    the published networks do. Metrics: ``loss``, of which ``penalty`` is a part, ``accuracy`` and ``certified_accuracy``, the
    share of images whose label is proved at the current radius, among those whose envelope is computed.

    Args:
        threat: the set of perturbations to defend against; ``eps`` may replace its radius.
        alpha: distance from which on nothing is to be gained; 1.5 times the threat model's own radius by default, as in the
            thesis of Liu.
        beta: weight. The penalty means little for an untrained network: train one by :func:`standard` or
            :func:`adversarial` first, or begin with a weight of 0 (``optax.piecewise_interpolate_schedule``).
        worst: how many wrong classes count.
        eps: radius of the envelope, a number or a schedule of steps: ``schedules.doubling(0.0064, every=20 *
            steps_per_epoch, times=4)`` in the thesis's networks of one hidden layer, constant in its convolutional ones.
        method: ``"fast-lin"`` (L-PER), ``"fast-lin-interval"`` (I-PER), or see :func:`jaxrobust.certify.half_spaces`.
        subset: how many images of the batch, drawn anew in each step, have a penalty; all by default. An unbiased estimate
            that saves most of the time and memory: 20 or 10 of 100 in the thesis's convolutional networks.

    Raises:
        ValueError: for an empty subset, no class, or an alpha that is not positive.

    Example:
        >>> from jaxrobust import Linf
        >>> objective = per(Linf(0.1), beta=0.1)
    """
    penalty_of = _penalty(threat, alpha, beta, worst, eps, method, subset)

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits_fn, labels = evaluated(apply, variables), batch["labels"]
        logits = logits_fn(batch["images"])
        found = penalty_of(key, logits_fn, batch, Rows(batch["images"], labels, logits, None))
        value = losses.cross_entropy(logits, labels).mean() + found.penalty
        metrics = {"loss": value, **found._asdict(), "accuracy": accuracy(logits, labels)}
        return value, Aux(unchanged(variables), metrics)

    return objective


def per_at(
    threat: ThreatModel,
    *,
    attack: MakeAttack = ten_steps,
    alpha: Weight | None = None,
    beta: Weight = 1.0,
    worst: int = 4,
    eps: Weight | None = None,
    method: str = "fast-lin",
    subset: int | None = None,
) -> AdversarialObjective:
    """PER with adversarial training: ``(loss(x) + loss(x')) / 2 + PER(x')`` (Liu et al., 2021, Algorithm 3.6 of the thesis).

    Distances are those of the adversarial images to the envelope around the images. Mode and metrics are those of :func:`per`,
    and ``robust_accuracy``, on the adversarial images; what is certified are the images.

    Departures from the published code, which differs from the text as well: there half of the batch is attacked and the
    other half is not, and the penalty is that of its first images.

    Args:
        attack: makes an attack for the threat model at the radius of the step, e.g. ``partial(attacks.pgd, steps=10)``; by default
            10 steps of a fifth of the radius. The attack is not differentiated.
        threat, alpha, beta, worst, eps, method, subset: see :func:`per`.

    Raises:
        ValueError: see :func:`per`.
    """
    penalty_of = _penalty(threat, alpha, beta, worst, eps, method, subset)

    def objective(apply: Apply, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        logits_fn, labels = evaluated(apply, variables), batch["labels"]
        clean, adversarial = logits_fn(batch["images"]), logits_fn(batch["adversarial"])
        found = penalty_of(key, logits_fn, batch, Rows(batch["images"], labels, clean, batch["adversarial"]))
        entropies = (losses.cross_entropy(logits, labels).mean() for logits in (clean, adversarial))
        value = sum(entropies) / 2 + found.penalty
        metrics = {
            "loss": value,
            **found._asdict(),
            "accuracy": accuracy(clean, labels),
            "robust_accuracy": accuracy(adversarial, labels),
        }
        return value, Aux(unchanged(variables), metrics)

    return AdversarialObjective(crafting_within(threat, eps, attack), objective)


class _Found(NamedTuple):
    penalty: jax.Array
    certified_accuracy: jax.Array


def _penalty(
    threat: ThreatModel,
    alpha: Weight | None,
    beta: Weight,
    worst: int,
    eps: Weight | None,
    method: str,
    subset: int | None,
) -> Any:
    """``(key, logits_fn, batch, rows) -> _Found``."""
    check_subset(subset)
    reach = 1.5 * threat.eps if alpha is None else alpha
    check_envelope(reach, worst)

    def penalty_of(key: jax.Array, logits_fn: LogitsFn, batch: Batch, rows: Rows) -> _Found:
        images, labels, logits, adversarial = drawn(key, rows, subset)
        within = at_radius(threat, eps, batch)
        spaces = half_spaces(logits_fn, images, labels, within, method=method)
        penalty = envelope_penalty(
            spaces,
            images,
            labels,
            within,
            adversarial,
            alpha=at_step(reach, batch),
            beta=at_step(beta, batch),
            worst=worst,
        )
        lower = jax.lax.stop_gradient(_smallest(spaces, within, images))
        return _Found(penalty.mean(), certified_share(lower, labels, logits))

    return penalty_of


def _smallest(spaces: HalfSpaces, threat: ThreatModel, images: jax.Array) -> jax.Array:
    """Lower bounds of the margins over all that the threat model allows, ``[batch, classes]``."""
    extent = Extent(*(flatten(field) for field in threat.extent(images)))
    normals = spaces.normals.reshape(*spaces.margins.shape, -1)
    return spaces.margins - threat.support(-normals, extent)
