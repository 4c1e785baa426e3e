"""The Boundary Attack."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import iterate
from jaxrobust.random import fold_in_each, normal
from jaxrobust.threat import L2, ThreatModel, safe_norm
from jaxrobust.threat._base import flatten

from ._decision import Problem, Start, begin, finish
from ._minimum_norm import MinimumNormAttack
from ._types import Attack

_WINDOW = 30
_CONVERGED = 1e-7


class _Constants(NamedTuple):
    problem: Problem
    active: jax.Array
    adaptation: Any
    check_every: Any


class _Outcomes(NamedTuple):
    """The latest outcomes of one kind of query in a ring ``[batch, window]``, and their number since the last change."""

    ring: jax.Array
    number: jax.Array


class _State(NamedTuple):
    step: jax.Array
    adversarial: jax.Array
    spherical_step: jax.Array
    source_step: jax.Array
    spherical: _Outcomes
    source: _Outcomes


@jax.jit
def _initial(start: Start, spherical_step: Any, source_step: Any) -> _State:
    batch, dtype = start.found.shape[0], start.adversarial.dtype
    nothing = _Outcomes(jnp.zeros((batch, _WINDOW), bool), jnp.zeros((batch,), jnp.int32))
    return _State(
        jnp.zeros((), jnp.int32),
        start.adversarial,
        jnp.full((batch,), spherical_step, dtype),
        jnp.full((batch,), source_step, dtype),
        nothing,
        nothing,
    )


def _record(outcomes: _Outcomes, success: jax.Array, when: jax.Array) -> _Outcomes:
    here = when & (jnp.arange(_WINDOW, dtype=jnp.int32) == outcomes.number[:, None] % _WINDOW)
    return _Outcomes(jnp.where(here, success[:, None], outcomes.ring), outcomes.number + when.astype(jnp.int32))


def _judge(outcomes: _Outcomes, low: float, high: float, adaptation: Any) -> tuple[_Outcomes, jax.Array]:
    """The factor for a step size whose rate of success, over a full window, leaves ``[low, high]``; then start afresh."""
    full, rate = outcomes.number >= _WINDOW, outcomes.ring.mean(-1)
    larger, smaller = full & (rate > high), full & (rate < low)
    factor = jnp.where(larger, adaptation, jnp.where(smaller, 1 / adaptation, 1.0))
    return outcomes._replace(number=jnp.where(larger | smaller, 0, outcomes.number)), factor


def _step(constants: _Constants, state: _State) -> _State:
    problem = constants.problem
    images, keys = flatten(problem.images), fold_in_each(fold_in_each(problem.keys, 2), state.step)

    def divide(x: jax.Array, length: jax.Array) -> jax.Array:
        return x / jnp.where(length > 0, length, 1)[:, None]

    inward = images - state.adversarial
    distance = safe_norm(inward)
    source = divide(inward, distance)
    noise = jax.vmap(lambda key: normal(key, images.shape[1:], images.dtype))(keys)
    noise = noise - (noise * source).sum(-1, keepdims=True) * source
    noise = divide(noise, safe_norm(noise)) * (state.spherical_step * distance)[:, None]
    # On the sphere around the image, by Pythagoras, and then inwards by the step and by what the sphere was missed.
    spherical = (noise - inward) / jnp.sqrt(1 + jnp.square(state.spherical_step))[:, None]
    spherical = problem.threat.clip(images + spherical)
    length = safe_norm(images - spherical)
    step = jnp.maximum(state.source_step * distance + length - distance, 0)
    candidate = problem.threat.clip(spherical + divide(images - spherical, length) * step[:, None])

    checks = state.step % (constants.check_every + 1) == constants.check_every
    query = jnp.where(checks, spherical, candidate)
    fooled = problem.fooled(query)
    active = constants.active & (state.source_step >= _CONVERGED)
    accept = active & fooled & (safe_norm(images - query) < distance)
    spherical_outcomes, both = _judge(_record(state.spherical, fooled, checks), 0.2, 0.5, constants.adaptation)
    source_outcomes, alone = _judge(_record(state.source, fooled, ~checks), 0.1, 0.25, constants.adaptation)
    return _State(
        state.step + 1,
        jnp.where(accept[:, None], query, state.adversarial),
        state.spherical_step * both.astype(images.dtype),
        state.source_step * (both * alone).astype(images.dtype),
        spherical_outcomes,
        source_outcomes,
    )


def boundary(
    threat: ThreatModel,
    *,
    steps: int = 5000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    step_adaptation: float = 1.5,
    check_every: int = 10,
    tries: int = 100,
    start: Attack | None = None,
) -> MinimumNormAttack:
    """Boundary Attack: a random walk along the decision boundary towards the image. It sees decisions only.

    From a misclassified image at distance ``r`` a candidate goes ``spherical_step * r`` in a random direction orthogonal
    to the line to the clean image, back onto the sphere of radius ``r``, and ``source_step * r`` inwards; it is
    accepted if it is misclassified. Both steps grow by ``step_adaptation`` where more than half of the points on the sphere
    are misclassified, as near a flat boundary, and shrink where fewer than a fifth are; the step inwards also grows where
    more than a quarter of the candidates are accepted and shrinks below a tenth. Source: Brendel et al., 2018.

    An image for which no misclassified start is found counts as robust. Noise is often of one and the same class for a
    network, so its images need a ``start``.

    Cost per example: ``steps + tries + 13`` forward passes, no backward pass.

    Departures from the reference (Foolbox 3):
        1. Every query is a step. One in ``check_every + 1`` goes to the sphere, which measures how flat the boundary is;
           there the walk moves only if clipping to the box brought it nearer.
        2. Both rates of success are taken over the last 30 outcomes. The reference takes 100 for the sphere, and notes the
           other rate in every tenth step only: its steps change once in a thousand queries.
        3. Each example has directions of its own, and bisection instead of a linear search finds the start on the line.
        4. The result is pushed off the boundary by a ten-thousandth of its distance, so that rounding does not decide
           its class.

    Args:
        threat: an :class:`~jaxrobust.threat.L2` ball; its radius matters to the call form only.
        steps: queries of the walk.
        spherical_step: first length of the orthogonal step, relative to the distance.
        source_step: first length of the step inwards, relative to the distance. An example is finished when it has
            become smaller than 1e-7.
        step_adaptation: factor by which steps grow and shrink.
        check_every: candidates between two queries on the sphere.
        tries: random images among which the first misclassified one is the start: uniform in the box, or without a box
            Gaussian around the image, of growing scale.
        start: an attack, or any function with its arguments, whose images are tried before the random ones, at its own
            cost. They may lie at any distance.

    Raises:
        ValueError: for another norm, numbers of steps or tries below 0, or step sizes out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> attack = boundary(L2(0.6), steps=1000)
        >>> found = attack.minimum_norm(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
        >>> found.distances.round(2).tolist()  # the plane sum(x) = 1 is at distance (2 - 1) / 2
        [0.5]
    """
    if not isinstance(threat, L2):
        raise ValueError(f"the Boundary Attack is defined for L2, got {type(threat).__name__}; "
                         "use hop_skip_jump for Linf")  # fmt: skip
    if steps < 0 or tries < 0 or check_every < 1:
        raise ValueError(f"steps and tries must be at least 0 and check_every at least 1, got {steps}, {tries} "
                         f"and {check_every}")  # fmt: skip
    if not (spherical_step > 0 and 0 < source_step < 1 and step_adaptation > 1):
        raise ValueError("spherical_step must be positive, source_step in (0, 1) and step_adaptation above 1, "
                         f"got {spherical_step}, {source_step} and {step_adaptation}")  # fmt: skip

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        problem, first = begin(threat, key, logits_fn, images, labels, tries=tries, start=start)
        constants = _Constants(problem, first.active, step_adaptation, check_every)
        state = iterate(_step, constants, _initial(first, spherical_step, source_step), steps)
        return finish(problem, first, state.adversarial)

    return MinimumNormAttack(threat, search)
