"""HopSkipJump: decision-based descent along an estimated normal of the decision boundary."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import iterate
from jaxrobust.random import fold_in_each, normal, uniform
from jaxrobust.threat import L2, Linf, ThreatModel, safe_norm
from jaxrobust.threat._base import flatten

from ._decision import Problem, Start, begin, finish
from ._minimum_norm import MinimumNormAttack
from ._types import Attack

_SAMPLE, _SEARCH, _BISECT = range(3)
_SEARCH_QUERIES = 20
_FEWEST_BISECTIONS = 10


class _Constants(NamedTuple):
    problem: Problem
    active: jax.Array
    gamma: Any
    phases: jax.Array  # [queries]: what each query is for
    rounds: jax.Array  # [queries]: the round it belongs to, from 1; 0 while the start is brought to the boundary


class _State(NamedTuple):
    query: jax.Array
    adversarial: jax.Array
    distance: jax.Array
    best: jax.Array
    best_distance: jax.Array
    # Of the estimate: sums of the noise, of the noise signed by its decision, and of the signs.
    noise: jax.Array
    signed_noise: jax.Array
    signs: jax.Array
    samples: jax.Array
    # Of the step and of the bisection between its end and the clean image.
    step_size: jax.Array
    stepped: jax.Array
    done: jax.Array
    low: jax.Array
    high: jax.Array


@functools.lru_cache(maxsize=32)
def _schedule(steps: int, initial_samples: int, max_samples: int, bisections: int) -> tuple[np.ndarray, np.ndarray]:
    """Phase and round of every query."""
    phases, rounds = [np.full(bisections, _BISECT)], [np.zeros(bisections)]
    for round_ in range(1, steps + 1):
        samples = min(int(initial_samples * math.sqrt(round_)), max_samples)
        lengths = (samples, _SEARCH_QUERIES, bisections)
        phases.append(np.repeat([_SAMPLE, _SEARCH, _BISECT], lengths))
        rounds.append(np.full(sum(lengths), round_))
    return np.concatenate(phases).astype(np.int32), np.concatenate(rounds).astype(np.int32)


def _sample(constants: _Constants, state: _State, round_: jax.Array) -> jax.Array:
    """A random point at a small distance from the boundary point."""
    problem, threat = constants.problem, constants.problem.threat
    images, keys = flatten(problem.images), fold_in_each(fold_in_each(problem.keys, 2), state.query)
    draw = normal if isinstance(threat, L2) else functools.partial(uniform, minval=-1, maxval=1)
    noise = jax.vmap(lambda key: draw(key, images.shape[1:], images.dtype))(keys)
    length = safe_norm(noise)[:, None]
    first = 0.1 * (state.distance if threat.bounds is None else threat.bounds[1] - threat.bounds[0])
    radius = jnp.where(round_ == 1, first, constants.gamma / images.shape[1] * state.distance)[:, None]
    return threat.clip(state.adversarial + radius * (noise / jnp.where(length > 0, length, 1)))


def _stride(constants: _Constants, state: _State, round_: jax.Array) -> jax.Array:
    """The end of a step along the estimated normal."""
    threat, mean = constants.problem.threat, (state.signs / state.samples)[:, None]
    # Without the baseline where all decisions agree, or nothing would be left.
    across = jnp.where(jnp.abs(mean) == 1, mean * state.noise, state.signed_noise - mean * state.noise)
    return threat.clip(state.adversarial + state.step_size[:, None] * threat.steepest(across))


def _middle(constants: _Constants, state: _State, round_: jax.Array) -> jax.Array:
    """The middle of the interval, as a point between the clean image and the end of the step."""
    threat, images = constants.problem.threat, flatten(constants.problem.images)
    perturbation = state.stepped - images
    reach = (state.low + state.high) / 2 * threat.norm(perturbation)
    return threat.clip(images + dataclasses.replace(cast(Any, threat), eps=reach).project(perturbation))


def _after_sample(
    constants: _Constants, state: _State, round_: jax.Array, candidate: jax.Array, fooled: jax.Array
) -> _State:
    noise, sign = candidate - state.adversarial, jnp.where(fooled, 1, -1).astype(candidate.dtype)
    return state._replace(
        noise=state.noise + noise,
        signed_noise=state.signed_noise + sign[:, None] * noise,
        signs=state.signs + sign,
        samples=state.samples + 1,
        step_size=state.distance / jnp.sqrt(round_.astype(candidate.dtype)),
        stepped=state.adversarial,
        done=~constants.active,
    )


def _after_stride(
    constants: _Constants, state: _State, round_: jax.Array, candidate: jax.Array, fooled: jax.Array
) -> _State:
    accept = fooled & ~state.done
    stepped = jnp.where(accept[:, None], candidate, state.stepped)
    done = state.done | accept
    return state._replace(
        adversarial=stepped,
        stepped=stepped,
        step_size=jnp.where(done, state.step_size, state.step_size / 2),
        done=done,
        low=jnp.zeros_like(state.low),
        high=jnp.ones_like(state.high),
    )


def _after_middle(
    constants: _Constants, state: _State, round_: jax.Array, candidate: jax.Array, fooled: jax.Array
) -> _State:
    middle = (state.low + state.high) / 2
    adversarial = jnp.where((fooled & constants.active)[:, None], candidate, state.adversarial)
    distance = constants.problem.threat.norm(adversarial - flatten(constants.problem.images))
    nearer = distance < state.best_distance
    return state._replace(
        adversarial=adversarial,
        distance=distance,
        best=jnp.where(nearer[:, None], adversarial, state.best),
        best_distance=jnp.where(nearer, distance, state.best_distance),
        noise=jnp.zeros_like(state.noise),
        signed_noise=jnp.zeros_like(state.signed_noise),
        signs=jnp.zeros_like(state.signs),
        samples=jnp.zeros_like(state.samples),
        low=jnp.where(fooled, state.low, middle),
        high=jnp.where(fooled, middle, state.high),
    )


def _step(constants: _Constants, state: _State) -> _State:
    """One query. The network stands outside the branches, which XLA's CPU backend runs more slowly."""
    phase, round_ = constants.phases[state.query], constants.rounds[state.query]
    candidate = jax.lax.switch(phase, (_sample, _stride, _middle), constants, state, round_)
    fooled = constants.problem.fooled(candidate)
    after = (_after_sample, _after_stride, _after_middle)
    state = jax.lax.switch(phase, after, constants, state, round_, candidate, fooled)
    return state._replace(query=state.query + 1)


@jax.jit
def _initial(start: Start) -> _State:
    zeros, nothing = jnp.zeros_like(start.adversarial), jnp.zeros_like(start.adversarial[:, 0])
    return _State(
        query=jnp.zeros((), jnp.int32),
        adversarial=start.adversarial,
        distance=nothing,
        best=start.adversarial,
        best_distance=jnp.where(start.active, jnp.inf, nothing),
        noise=zeros,
        signed_noise=zeros,
        signs=nothing,
        samples=nothing,
        step_size=nothing,
        stepped=start.adversarial,
        done=~start.active,
        low=nothing,
        high=jnp.ones_like(nothing),
    )


def _bisections(threat: ThreatModel, images: jax.Array, gamma: float) -> int:
    """Halvings down to the threshold, ``gamma / d^1.5`` in l2 and ``gamma / d^2`` in l-infinity, or to the last bit."""
    exponent = 1.5 if isinstance(threat, L2) else 2.0
    halvings = math.ceil(exponent * math.log2(math.prod(images.shape[1:])) - math.log2(gamma))
    return max(_FEWEST_BISECTIONS, min(halvings, jnp.finfo(images.dtype).nmant + 1))


def hop_skip_jump(
    threat: ThreatModel,
    *,
    steps: int = 64,
    initial_gradient_samples: int = 100,
    max_gradient_samples: int = 10_000,
    gamma: float = 1.0,
    tries: int = 100,
    start: Attack | None = None,
) -> MinimumNormAttack:
    """HopSkipJump: descent along the normal of the decision boundary, estimated from decisions alone.

    From a point on the boundary at distance ``r``, step ``t`` draws ``B_t = initial_gradient_samples * sqrt(t)`` random
    directions ``u_b`` of unit length and estimates the normal,

    ``v = mean_b (phi_b - mean phi) u_b``, ``phi_b = +1`` if ``x + delta u_b`` is misclassified, ``-1`` otherwise,

    with ``delta = gamma r / d``; it goes ``r / sqrt(t)`` along ``v`` (its sign in l-infinity), halving the step until its
    end is misclassified, and returns to the boundary by bisection towards the clean image: on the line in l2, by
    clipping the perturbation in l-infinity. The nearest of all boundary points is the result. Source: Chen et al.,
    2020.

    An image for which no misclassified start is found counts as robust. Noise is often of one and the same class for a
    network, so its images need a ``start``.

    Cost per example, in forward passes: ``sum_t B_t`` (about ``2/3 initial_gradient_samples steps^1.5``) and in each step 20
    for its length and ``1.5 log2(d)`` (l2) or ``2 log2(d)`` (l-infinity) for the bisection, from 10 to 24 in float32; at
    first ``tries + 13`` and one bisection: 37 050 (l2) or 37 440 (l-infinity) with the defaults on 32x32x3 pixels. Every
    example takes all queries. No backward pass.

    Departures from the reference (the authors' program):
        1. The step is halved at most 20 times; then the point stays where it is.
        2. The result is the nearest boundary point of all steps, not the last.
        3. Bisection halves at least 10 times, which matters below a hundred pixels, and at most to the last bit.
        4. ``delta`` is relative to the distance of the boundary point, as in the paper, not to that before the bisection;
           in the first step it is a tenth of the box, or of the distance without a box.
        5. The result is pushed off the boundary by a ten-thousandth of its distance, so that rounding does not decide
           its class.

    Args:
        threat: :class:`~jaxrobust.threat.L2` or :class:`~jaxrobust.threat.Linf`; its radius matters to the call form only.
        steps: estimates of the normal.
        initial_gradient_samples: random directions in the first step.
        max_gradient_samples: most random directions in a step.
        gamma: scale of the radius ``delta`` and of the threshold of the bisection, ``gamma / d^1.5`` (l2) or
            ``gamma / d^2`` (l-infinity) of the distance.
        tries: random images among which the first misclassified one is the start: uniform in the box, or without a box
            Gaussian around the image, of growing scale.
        start: an attack, or any function with its arguments, whose images are tried before the random ones, at its own
            cost. They may lie at any distance.

    Raises:
        ValueError: for another norm, or numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> attack = hop_skip_jump(Linf(0.3), steps=5)
        >>> found = attack.minimum_norm(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
        >>> found.distances.round(2).tolist()  # each of four pixels falls by a quarter of 2 - 1
        [0.25]
    """
    if not isinstance(threat, (L2, Linf)):
        raise ValueError(f"HopSkipJump is defined for L2 and Linf, got {type(threat).__name__}")
    if steps < 0 or tries < 0 or not 1 <= initial_gradient_samples <= max_gradient_samples:
        raise ValueError(
            "steps and tries must be at least 0, and 1 <= initial_gradient_samples <= max_gradient_samples; "
            f"got {steps}, {tries}, {initial_gradient_samples} and {max_gradient_samples}"
        )
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        problem, first = begin(threat, key, logits_fn, images, labels, tries=tries, start=start)
        bisections = _bisections(threat, images, gamma)
        phases, rounds = _schedule(steps, initial_gradient_samples, max_gradient_samples, bisections)
        constants = _Constants(problem, first.active, gamma, jnp.asarray(phases), jnp.asarray(rounds))
        state = iterate(_step, constants, _initial(first), len(phases))
        return finish(problem, first, state.best)

    return MinimumNormAttack(threat, search)
