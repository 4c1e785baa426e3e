"""SimBA: one random direction after the other, by the probability of the label alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.frequency import dct_matrix
from jaxrobust.iteration import Closure, iterate
from jaxrobust.losses import log_odds
from jaxrobust.random import example_keys, typed_key
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten

from ._loop import misclassified
from ._types import Attack, check_inputs

Basis = Literal["pixel", "dct"]


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    order: jax.Array  # [batch, directions], a permutation per example
    step_size: jax.Array
    trials: Any  # directions to try, over all passes


class _State(NamedTuple):
    perturbation: jax.Array
    loss: jax.Array  # log-odds, since the probability itself rounds to 1
    success: jax.Array
    trial: jax.Array  # the direction that each example is at, counted over all passes
    backward: jax.Array  # whether the step along the direction has failed, and the opposite one is due


def _pixel(images: jax.Array, index: jax.Array) -> jax.Array:
    """Unit vectors, ``[batch, features]``."""
    flat = flatten(images)
    return jax.nn.one_hot(index, flat.shape[1], dtype=flat.dtype)


def _cosine(images: jax.Array, index: jax.Array) -> jax.Array:
    """Images of one cosine coefficient of one channel, of length 1, ``[batch, features]``."""
    height, width, channels = images.shape[1:]
    row, column, channel = jnp.unravel_index(index, images.shape[1:])
    rows = dct_matrix(height, images.dtype)[row][:, :, None, None]
    columns = dct_matrix(width, images.dtype)[column][:, None, :, None]
    return flatten(rows * columns * jax.nn.one_hot(channel, channels, dtype=images.dtype)[:, None, None, :])


def _make_step(direction: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[_Constants, _State], _State]:
    def step(constants: _Constants, state: _State) -> _State:
        threat, images = constants.threat, constants.images
        index = jnp.take_along_axis(constants.order, (state.trial % constants.order.shape[1])[:, None], axis=1)[:, 0]
        signed = jnp.where(state.backward, -constants.step_size, constants.step_size)[:, None]
        moved = threat.project(state.perturbation + signed * direction(images, index), flatten(images))
        logits = constants.logits_fn(threat.clip(flatten(images) + moved).reshape(images.shape))
        loss, success = log_odds(logits, constants.labels), misclassified(logits, constants.labels)
        active = ~state.success & (state.trial < constants.trials)
        accept = active & (success | (loss > state.loss))
        over = accept | state.backward
        return _State(
            jnp.where(accept[:, None], moved, state.perturbation),
            jnp.where(accept, loss, state.loss),
            state.success | (accept & success),
            state.trial + (active & over).astype(state.trial.dtype),
            ~over,
        )

    return step


_STEPS = {"pixel": _make_step(_pixel), "dct": _make_step(_cosine)}


def _ranks(shape: tuple[int, ...], low_frequencies_first: bool) -> np.ndarray:
    """What the directions are sorted by: nothing, or the squared radius of their frequency."""
    ranks = np.zeros(shape, np.int32)
    if low_frequencies_first:
        height, width, _ = shape
        ranks += (np.arange(height)[:, None] ** 2 + np.arange(width) ** 2)[:, :, None]
    return ranks.reshape(-1)


@partial(jax.jit, static_argnames="directions")
def _prepare(
    threat: ThreatModel,
    key: jax.Array,
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    ranks: jax.Array,
    step_size: Any,
    trials: Any,
    directions: int,
) -> tuple[_Constants, _State]:
    def order(key: jax.Array) -> jax.Array:
        permutation = jax.random.permutation(key, ranks.size)
        return permutation[jnp.argsort(ranks[permutation], stable=True)]  # random among equals

    if step_size is None:
        size = threat.norm(jnp.ones((1, directions), images.dtype))[0]
        step_size = jnp.asarray(threat.eps, images.dtype) * jnp.minimum(2.5 / size, 1)
    orders = jax.vmap(order)(example_keys(key, images.shape[0]))
    constants = _Constants(
        threat, logits_fn, images, labels, orders, jnp.asarray(step_size, images.dtype), jnp.asarray(trials, jnp.int32)
    )
    logits, none = logits_fn(images), jnp.zeros(labels.shape, jnp.int32)
    start = _State(
        perturbation=jnp.zeros_like(flatten(images)),
        loss=log_odds(logits, labels),
        success=misclassified(logits, labels),
        trial=none,
        backward=none.astype(bool),
    )
    return constants, start


@jax.jit
def _finish(constants: _Constants, state: _State) -> jax.Array:
    found = state.success & (state.trial > 0)
    adversarial = constants.threat.clip(flatten(constants.images) + state.perturbation)
    return jnp.where(found[:, None], adversarial, flatten(constants.images)).reshape(constants.images.shape)


def simba(
    threat: ThreatModel,
    *,
    step_size: float | None = None,
    passes: int = 1,
    queries: int | None = None,
    basis: Basis = "pixel",
    low_frequencies_first: bool = True,
) -> Attack:
    """SimBA, simple black-box attack: steps along random orthonormal directions, kept where they lower ``p_y``.

    Each example goes through the directions of the basis in a random order of its own. It tries ``+step_size``, then
    ``-step_size``, and keeps the first that lowers the probability of the label; it stops as soon as it is misclassified.
    An example that is not misclassified at the end is returned as it was. Source: Guo et al., 2019; the l-infinity form
    with one pass of step ``eps`` over the pixels is that of the second-order study (SOAR).

    Cost: ``queries + 1`` forward passes, by default ``2 passes d + 1`` for ``d`` pixels and channels, whether examples
    are finished early or not; no backward pass. An example makes at most two queries for each direction.

    Departures from the reference (the authors' program):
        1. The positive step is tried first.
        2. The perturbation is projected onto the ball after each step; the reference bounds it by the number of steps.
        3. ``p_y`` is compared through ``log(p_y / (1 - p_y))``: the same order, but it does not stop changing where
           ``p_y`` rounds to 1.
        4. Every example has its own order of directions, and moves on to the next as soon as a step is kept.
        5. The cosine transform is that of the whole image in all frequencies, lowest first, instead of a growing block.

    Args:
        threat: the norm ball.
        step_size: length of a step, a direction having Euclidean length 1. By default 2.5 times that of which as many steps
            as there are directions within reach just fill the ball, but at most ``eps``: ``eps`` in l-infinity,
            ``2.5 eps / sqrt(n)`` in l2 and ``2.5 eps / n`` in l1 for ``n = min(d, queries)``. On linear models with Gaussian
            weights this is near the best length in l2; much longer or shorter steps find far less.
        passes: how often the directions are gone through, in the same order.
        queries: budget for each example; by default enough for all passes.
        basis: ``"pixel"``, one pixel of one channel each, for images of any shape; or ``"dct"``, one coefficient of the
            cosine transform of one channel each, for images ``[batch, height, width, channels]``.
        low_frequencies_first: for ``"dct"``, sort the directions by the radius of their frequency, in random order
            among equals.

    Raises:
        ValueError: for an unknown basis, fewer than one pass or query, or images without height, width and
            channels where the basis is ``"dct"``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.5)], axis=1)
        >>> attack = simba(Linf(0.25))
        >>> attack(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0])).sum().item()
        1.25
    """
    if basis not in get_args(Basis):
        raise ValueError(f"basis must be one of {', '.join(get_args(Basis))}, got {basis!r}")
    if passes < 1 or (queries is not None and queries < 1):
        raise ValueError(f"passes and queries must be at least 1, got {passes} and {queries}")

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        if basis == "dct" and images.ndim != 4:
            raise ValueError(
                f'basis="dct" needs images [batch, height, width, channels], got {images.shape}; use "pixel"'
            )
        features = math.prod(images.shape[1:])
        budget = 2 * passes * features if queries is None else min(queries, 2 * passes * features)
        ranks = jnp.asarray(_ranks(images.shape[1:], basis == "dct" and low_frequencies_first))
        constants, start = _prepare(
            threat, typed_key(key), Closure(logits_fn), images, labels, ranks, step_size, passes * features,
            directions=min(features, budget),
        )  # fmt: skip
        return _finish(constants, iterate(_STEPS[basis], constants, start, budget))

    return attack
