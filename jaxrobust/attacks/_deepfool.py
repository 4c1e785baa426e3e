"""DeepFool: Newton-like steps onto the nearest linearised decision boundary."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import L2, Linf, ThreatModel
from jaxrobust.threat._base import flatten

from ._loop import misclassified
from ._minimum_norm import MinimumNormAttack
from ._targets import highest_wrong_classes

SMALLEST_STEP = 1e-4
"""Least length of a step, in images' units, so that rounding does not end the search on the boundary."""


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    targets: jax.Array
    overshoot: Any

    def logits_at(self, flat: jax.Array) -> jax.Array:
        return self.logits_fn(flat.reshape(self.images.shape))


class _State(NamedTuple):
    """The iterate, flat, the sum of all steps, and whether the iterate is misclassified, after which it stays."""

    moving: jax.Array
    total: jax.Array
    done: jax.Array


def _free(threat: ThreatModel, flat: jax.Array, normals: jax.Array) -> jax.Array:
    """The normals without the pixels that the box stops on the way, ``[..., batch, features]``."""
    if threat.bounds is None:
        return normals
    low, high = threat.bounds
    stopped = ((flat <= low) & (normals < 0)) | ((flat >= high) & (normals > 0))
    return jnp.where(stopped, 0, normals)


def _step(constants: _Constants, state: _State) -> _State:
    threat, labels, targets = constants.threat, constants.labels, constants.targets
    logits, pullback = jax.vjp(constants.logits_at, state.moving)
    done = state.done | misclassified(logits, labels)

    classes = logits.shape[-1]
    differences = jax.nn.one_hot(targets.T, classes, dtype=logits.dtype)  # [targets, batch, classes]
    differences = differences - jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    (normals,) = jax.vmap(pullback)(differences)  # [targets, batch, features]
    normals = _free(threat, state.moving, normals)
    values = jnp.take_along_axis(logits, targets, axis=1) - jnp.take_along_axis(logits, labels[:, None], axis=1)
    slopes = jax.vmap(threat.dual_norm)(normals).T
    steep = slopes > 0
    distances = jnp.where(steep, jnp.abs(values).astype(slopes.dtype) / jnp.where(steep, slopes, 1), jnp.inf)

    nearest = distances.argmin(1)
    length = jnp.maximum(distances.min(1), SMALLEST_STEP)
    length = jnp.where(jnp.isfinite(length) & ~done, length, 0)[:, None]
    normal = normals[nearest, jnp.arange(len(nearest))]
    total = state.total + length * threat.steepest(normal)
    moved = threat.clip(flatten(constants.images) + (1 + constants.overshoot) * total)
    return _State(jnp.where(done[:, None], state.moving, moved), total, done)


@functools.partial(jax.jit, static_argnames="classes")
def _start(
    threat: ThreatModel, logits_fn: Closure, images: jax.Array, labels: jax.Array, overshoot: Any, *, classes: int
) -> tuple[_Constants, _State]:
    targets = highest_wrong_classes(logits_fn(images), labels, classes - 1)
    flat = flatten(images)
    state = _State(flat, jnp.zeros_like(flat), jnp.zeros(labels.shape, bool))
    return _Constants(threat, logits_fn, images, labels, targets, overshoot), state


@jax.jit
def _finish(constants: _Constants, state: _State) -> tuple[jax.Array, jax.Array]:
    done = state.done | misclassified(constants.logits_at(state.moving), constants.labels)
    finite = jnp.isfinite(state.moving).all(-1)
    return state.moving.reshape(constants.images.shape), done & finite


def deepfool(
    threat: ThreatModel,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    classes: int = 10,
) -> MinimumNormAttack:
    """DeepFool: step after step onto the nearest boundary of the linearised classifier, until the class changes.

    At ``x_k`` with label ``y``, for the wrong classes ``j``, with ``f_j = z_j - z_y``, ``w_j`` its gradient and ``q``
    the dual of the norm,

    ``l = argmin_j |f_j| / ||w_j||_q``, ``r_k = |f_l| / ||w_l||_q * steepest(w_l)``,
    ``x_{k+1} = clip(x_0 + (1 + overshoot) sum_{i <= k} r_i)``,

    where ``steepest(w)`` is the unit step that most increases ``<w, .>``: ``w / ||w||_2`` in l2, ``sign(w)`` in
    l-infinity. It is fast, and its distances are upper bounds, not minima. Source: Moosavi-Dezfooli et al., 2016.

    Every image is clipped to the box, as in Foolbox, and the next step makes up for what was cut off. In l1, where a
    step changes one pixel, that would be most of it: there is no l1 version.

    Cost per example: in each step one forward and ``classes - 1`` backward passes, and two forward passes. Every
    example takes all steps; those that are misclassified stay where they are.

    Departures from the reference (Foolbox):
        1. A step has at least the length 1e-4, so that rounding does not end the search on the boundary. The reference
           adds as much to every step.
        2. ``w_j`` has no part in pixels that already are at the end of the box towards which it points. The reference
           lets them move on, clips them, and comes ever closer to the boundary without crossing it.

    Args:
        threat: :class:`~jaxrobust.threat.L2` or :class:`~jaxrobust.threat.Linf`; its radius matters to the call form
            only.
        steps: largest number of steps.
        overshoot: how much further than the linearised boundary an image goes, relative to the whole way.
        classes: how many of the classes with the highest logits on the clean image are considered, that of the label
            included.

    Raises:
        ValueError: for another norm, fewer than one step or two classes, or a negative overshoot.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> attack = deepfool(L2(0.6))
        >>> found = attack.minimum_norm(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
        >>> found.distances.round(3).tolist()  # the plane sum(x) = 1 is at distance (2 - 1) / 2
        [0.51]
    """
    if not isinstance(threat, (L2, Linf)):
        raise ValueError(f"DeepFool is defined for L2 and Linf, got {type(threat).__name__}; use fmn or ead for L1")
    if steps < 1 or classes < 2:
        raise ValueError(f"steps must be at least 1 and classes at least 2, got {steps} and {classes}")
    if not overshoot >= 0:
        raise ValueError(f"overshoot must be at least 0, got {overshoot}")

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del key  # nothing is drawn
        constants, state = _start(threat, Closure(logits_fn), images, labels, overshoot, classes=classes)
        return _finish(constants, iterate(_step, constants, state, steps))

    return MinimumNormAttack(threat, search)
