"""Decoupled direction and norm (DDN)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.losses import log_odds
from jaxrobust.threat import L2, ThreatModel
from jaxrobust.threat._base import flatten

from ._carlini_wagner import Nearest, finish, succeeded
from ._minimum_norm import MinimumNormAttack


def cosine(start: Any, end: Any, step: jax.Array, steps: int) -> jax.Array:
    """From ``start`` at step 0 to ``end`` at step ``steps``, along half a cosine wave."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi / steps * step)) / 2


def farthest(threat: ThreatModel, images: jax.Array) -> jax.Array:
    """Norm of the largest perturbation within the box, ``[batch]``; infinite without a box."""
    if threat.bounds is None:
        return jnp.full(images.shape[:1], jnp.inf, images.dtype)
    low, high = threat.bounds
    return threat.norm(jnp.maximum(images - low, high - images))


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    initial_norm: Any
    gamma: Any


class _State(NamedTuple):
    step: jax.Array
    adversarial: jax.Array
    norm: jax.Array
    nearest: Nearest


class _Program(NamedTuple):
    step: Callable[[_Constants, _State], _State]
    end: Callable[[_Constants, _State], tuple[jax.Array, jax.Array]]


@jax.jit
def _start(constants: _Constants) -> _State:
    images = flatten(constants.images)
    nothing = jnp.full(images.shape[:1], jnp.inf, images.dtype)
    norm = jnp.full_like(nothing, constants.initial_norm)
    return _State(jnp.zeros((), jnp.int32), images, norm, Nearest(images, nothing))


@functools.lru_cache(maxsize=64)
def _program(targeted: bool, levels: int | None, steps: int) -> _Program:
    def logits_at(constants: _Constants, flat: jax.Array) -> jax.Array:
        return constants.logits_fn(flat.reshape(constants.images.shape))

    def quantized(threat: ThreatModel, flat: jax.Array) -> jax.Array:
        if levels is None or threat.bounds is None:
            return flat
        low, high = threat.bounds
        unit = (high - low) / (levels - 1)
        return low + unit * jnp.round((flat - low) / unit)

    def updated(constants: _Constants, state: _State, wrong: jax.Array) -> Nearest:
        distance = constants.threat.norm(state.adversarial - flatten(constants.images))
        return state.nearest.updated(state.adversarial, distance, wrong)

    def step(constants: _Constants, state: _State) -> _State:
        threat, images = constants.threat, flatten(constants.images)

        def loss(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = logits_at(constants, flat)
            # Unlike that of the cross-entropy, this gradient cannot underflow; the two point the same way.
            total = log_odds(logits, constants.labels).sum()
            return -total if targeted else total, logits

        gradient, logits = jax.grad(loss, has_aux=True)(state.adversarial)
        wrong = succeeded(logits, constants.labels, 0.0, targeted=targeted)
        rate = cosine(1.0, 0.01, state.step.astype(images.dtype), steps)
        perturbation = state.adversarial - images + rate * threat.steepest(gradient)
        norm = state.norm * jnp.where(wrong, 1 - constants.gamma, 1 + constants.gamma)
        norm = jnp.minimum(norm, farthest(threat, images))
        moved = quantized(threat, images + norm[:, None] * threat.steepest(perturbation))
        return _State(state.step + 1, threat.clip(moved), norm, updated(constants, state, wrong))

    @jax.jit
    def end(constants: _Constants, state: _State) -> tuple[jax.Array, jax.Array]:
        threat, logits_fn, images, labels = constants[:4]
        wrong = succeeded(logits_at(constants, state.adversarial), labels, 0.0, targeted=targeted)
        nearest = updated(constants, state, wrong)
        return finish(threat, logits_fn, images, labels, nearest, targeted=targeted, push=levels is None)

    return _Program(step, end)


def ddn(
    threat: ThreatModel,
    *,
    steps: int = 100,
    initial_norm: float = 1.0,
    gamma: float = 0.05,
    levels: int | None = None,
    targeted: bool = False,
) -> MinimumNormAttack:
    """Decoupled direction and norm (DDN): steps along the gradient on a sphere that shrinks and grows by success.

    From the clean image, with ``N_0 = initial_norm``, step ``k`` of ``K`` is

    ``u = delta_k + alpha_k grad / ||grad||``, ``N_{k+1} = N_k (1 - gamma)`` if ``x + delta_k`` is misclassified, else
    ``N_k (1 + gamma)``, ``delta_{k+1} = clip(x + N_{k+1} u / ||u||) - x``,

    with the gradient of the cross-entropy and ``alpha`` falling from 1 to 0.01 along a cosine. The nearest of all
    adversarial images on the way is the result. Source: Rony et al., 2019.

    Cost per example: ``steps`` forward and backward passes, and two forward passes.

    Departures from the reference (the authors' program, and Foolbox):
        1. The gradient is that of ``log((1 - p_y) / p_y)``, which has the direction of the cross-entropy's and does not
           vanish where the softmax is saturated. Where it is zero there is no step; the reference goes in a random
           direction.
        2. The last image is judged as well, by one more forward pass.
        3. ``alpha_k`` follows the cosine. Foolbox multiplies one step's decay on top of the other.
        4. Without levels, the result is pushed off the boundary by a ten-thousandth of its distance, so that rounding
           does not decide its class.

    Args:
        threat: an :class:`~jaxrobust.threat.L2` ball; its radius matters to the call form only.
        steps: number of steps.
        initial_norm: length of the first perturbation, in images' units.
        gamma: share by which the length changes in a step.
        levels: round images to that many equally spaced values in the box, 256 for 8-bit images; ``None`` for no
            rounding.
        targeted: ``labels`` are the classes to reach.

    Raises:
        ValueError: for another norm, fewer than one step, numbers out of range, or levels without a box.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> found = ddn(L2(0.6)).minimum_norm(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
        >>> found.distances.round(1).tolist()  # the plane sum(x) = 1 is at distance (2 - 1) / 2
        [0.5]
    """
    if not isinstance(threat, L2):
        raise ValueError(f"DDN is defined for L2, got {type(threat).__name__}; use fmn for Linf and L1")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not (initial_norm > 0 and 0 < gamma < 1):
        raise ValueError(f"initial_norm must be positive and gamma in (0, 1), got {initial_norm} and {gamma}")
    if levels is not None and (levels < 2 or threat.bounds is None):
        raise ValueError(f"levels must be at least 2, and divide a box; got {levels} with bounds {threat.bounds}")

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del key  # nothing is drawn
        program = _program(targeted, levels, steps)
        constants = _Constants(threat, Closure(logits_fn), images, labels, initial_norm, gamma)
        return program.end(constants, iterate(program.step, constants, _start(constants), steps))

    return MinimumNormAttack(threat, search)
