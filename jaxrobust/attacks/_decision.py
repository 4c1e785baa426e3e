"""What attacks that see decisions only share: a first misclassified image, and a result that rounding does not undo."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, fold_in_each, normal, typed_key, uniform
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten

from ._loop import misclassified
from ._types import Attack

_BLEND_QUERIES = 10


class Problem(NamedTuple):
    """What stays the same during a search. Images during the search are flat, ``[batch, features]``."""

    threat: ThreatModel
    logits_fn: Closure
    keys: jax.Array
    images: jax.Array
    labels: jax.Array

    def fooled(self, flat: jax.Array) -> jax.Array:
        """One query: whether each image is misclassified, ``[batch]``."""
        return misclassified(self.logits_fn(flat.reshape(self.images.shape)), self.labels)


class Start(NamedTuple):
    """Where a search starts.

    Attributes:
        adversarial: ``[batch, features]``, misclassified images; the clean image where none was found.
        found: ``[batch]`` bool, whether ``adversarial`` is misclassified.
        active: ``[batch]`` bool, whether there is something to search: a misclassified image was found, and it is not
            the clean image itself.
    """

    adversarial: jax.Array
    found: jax.Array
    active: jax.Array


class _Approach(NamedTuple):
    query: jax.Array
    start: Start
    # The line from the clean image to what was found, and the part of it where the boundary is.
    end: jax.Array
    low: jax.Array
    high: jax.Array


@jax.jit
def _start_keys(key: jax.Array, images: jax.Array) -> jax.Array:
    return fold_in_each(example_keys(key, images.shape[0]), 0)


def begin(
    threat: ThreatModel,
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    tries: int,
    start: Attack | None,
) -> tuple[Problem, Start]:
    """The problem, and misclassified images on the lines from the clean images to ``start``'s or to random noise.

    The noise is uniform in the box. Without a box it is Gaussian around the image, at first with the image's root mean
    square as its scale, which then doubles with every try and starts over after sixteen. Folds 0 and 1 of the keys are
    used here. Queries per example: ``tries + 12``.
    """
    key = typed_key(key)
    proposal = images if start is None else start(_start_keys(key, images), logits_fn, images, labels)
    problem, state = _examine(threat, key, Closure(logits_fn), images, labels, proposal)
    return problem, iterate(_approach, (problem, tries), state, tries + _BLEND_QUERIES).start


@jax.jit
def _examine(
    threat: ThreatModel, key: jax.Array, logits_fn: Closure, images: jax.Array, labels: jax.Array, proposal: jax.Array
) -> tuple[Problem, _Approach]:
    problem = Problem(threat, logits_fn, example_keys(key, images.shape[0]), images, labels)
    clean, proposal = flatten(images), threat.clip(flatten(proposal).astype(images.dtype))
    wrong = problem.fooled(clean)
    active = ~wrong & problem.fooled(proposal)
    adversarial = jnp.where(active[:, None], proposal, clean)
    ones = jnp.ones_like(clean[:, :1])
    return problem, _Approach(
        jnp.zeros((), jnp.int32), Start(adversarial, wrong | active, active), adversarial, jnp.zeros_like(ones), ones
    )


def _approach(constants: tuple[Problem, Any], state: _Approach) -> _Approach:
    """One query: first a random image, which is taken if it is the first misclassified one, then halving."""
    (problem, tries), start = constants, state.start
    trying, images = state.query < tries, flatten(problem.images)
    middle = (state.low + state.high) / 2
    blend = problem.threat.clip(images + middle * (state.end - images))
    candidate = jnp.where(trying, _noise(problem, state.query), blend)
    fooled = problem.fooled(candidate)
    new, halved = fooled & trying & ~start.found, fooled & ~trying & start.active
    take = (new | halved)[:, None]
    return _Approach(
        state.query + 1,
        Start(jnp.where(take, candidate, start.adversarial), start.found | new, start.active | new),
        jnp.where(new[:, None], candidate, state.end),
        jnp.where(trying | halved[:, None], state.low, middle),
        jnp.where(halved[:, None], middle, state.high),
    )


def _noise(problem: Problem, number: jax.Array) -> jax.Array:
    images, keys = flatten(problem.images), fold_in_each(fold_in_each(problem.keys, 1), number)
    if problem.threat.bounds is not None:
        low, high = problem.threat.bounds
        return jax.vmap(lambda key: uniform(key, images.shape[1:], images.dtype, low, high))(keys)
    size = jnp.sqrt(jnp.square(images).mean(-1, keepdims=True))
    scale = jnp.where(size > 0, size, 1) * jnp.exp2(jnp.asarray(number % 16, images.dtype))
    return images + scale * jax.vmap(lambda key: normal(key, images.shape[1:], images.dtype))(keys)


@jax.jit
def finish(problem: Problem, start: Start, adversarial: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Results ``[batch, ...]`` and success ``[batch]`` of a search; one query.

    A point found by bisection lies so close to the decision boundary that rounding, which differs between compiled
    programs, may change its class. It is pushed away from the clean image by a ten-thousandth of its distance, where
    that leaves it misclassified.
    """
    images = flatten(problem.images)
    pushed = problem.threat.clip(images + (1 + 1e-4) * (adversarial - images))
    better = start.active & problem.fooled(pushed)
    result = jnp.where(better[:, None], pushed, jnp.where(start.active[:, None], adversarial, images))
    return result.reshape(problem.images.shape), start.found
