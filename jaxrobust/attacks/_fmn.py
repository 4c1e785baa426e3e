"""Fast minimum-norm attack (FMN)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import ThreatModel, safe_norm
from jaxrobust.threat._base import flatten

from ._carlini_wagner import Nearest, finish, succeeded
from ._ddn import cosine, farthest
from ._minimum_norm import MinimumNormAttack

SMALLEST_STEP = 1e-4
"""Least distance to the boundary that is assumed outside of it, so that rounding does not end the search."""


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    learning_rate: Any
    gamma_initial: Any
    gamma_final: Any


class _State(NamedTuple):
    step: jax.Array
    adversarial: jax.Array
    radius: jax.Array
    nearest: Nearest


class _Program(NamedTuple):
    step: Callable[[_Constants, _State], _State]
    end: Callable[[_Constants, _State], tuple[jax.Array, jax.Array]]


@jax.jit
def _start(constants: _Constants) -> _State:
    images = flatten(constants.images)
    far = jnp.full(images.shape[:1], jnp.inf, images.dtype)
    return _State(jnp.zeros((), jnp.int32), images, far, Nearest(images, far))


@functools.lru_cache(maxsize=64)
def _program(targeted: bool, steps: int) -> _Program:
    def logits_at(constants: _Constants, flat: jax.Array) -> jax.Array:
        return constants.logits_fn(flat.reshape(constants.images.shape))

    def step(constants: _Constants, state: _State) -> _State:
        threat, images, moving = constants.threat, flatten(constants.images), state.adversarial

        def loss(flat: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            logits = logits_at(constants, flat)
            margin = losses.margin(logits, constants.labels)
            values = -margin if targeted else margin
            return values.sum(), (values.astype(flat.dtype), logits)

        gradient, (values, logits) = jax.grad(loss, has_aux=True)(moving)
        wrong = succeeded(logits, constants.labels, 0.0, targeted=targeted)
        distance = threat.norm(moving - images)
        nearest = state.nearest.updated(moving, distance, wrong)

        now = state.step.astype(images.dtype)
        gamma = cosine(constants.gamma_initial, constants.gamma_final, now, steps)
        slope = threat.dual_norm(gradient)
        to_boundary = jnp.maximum(jnp.abs(values) / jnp.where(slope > 0, slope, 1), SMALLEST_STEP)
        estimate = distance + jnp.where(slope > 0, to_boundary, 0)
        outside = (1 + gamma) * jnp.where(jnp.isfinite(nearest.distance), state.radius, estimate)
        inside = jnp.minimum(state.radius * (1 - gamma), nearest.distance)
        radius = jnp.minimum(jnp.where(wrong, inside, outside), farthest(threat, images))

        rate = cosine(constants.learning_rate, constants.learning_rate / 100, now, steps)
        length = safe_norm(gradient)[:, None]
        perturbation = moving - images + rate * gradient / jnp.where(length > 0, length, 1)
        ball = dataclasses.replace(cast(Any, threat), eps=radius)
        moved = threat.clip(images + ball.project(perturbation, images))
        return _State(state.step + 1, moved, radius, nearest)

    @jax.jit
    def end(constants: _Constants, state: _State) -> tuple[jax.Array, jax.Array]:
        threat, logits_fn, images, labels = constants[:4]
        wrong = succeeded(logits_at(constants, state.adversarial), labels, 0.0, targeted=targeted)
        distance = threat.norm(state.adversarial - flatten(images))
        nearest = state.nearest.updated(state.adversarial, distance, wrong)
        return finish(threat, logits_fn, images, labels, nearest, targeted=targeted)

    return _Program(step, end)


def fmn(
    threat: ThreatModel,
    *,
    steps: int = 100,
    learning_rate: float = 1.0,
    gamma_initial: float = 0.05,
    gamma_final: float = 0.001,
    targeted: bool = False,
) -> MinimumNormAttack:
    """Fast minimum-norm attack (FMN): projected gradient steps in a ball whose radius follows the decision boundary.

    With the margin ``m(x') = max_{j != y} z_j(x') - z_y(x')`` and its gradient ``g``, step ``k`` of ``K`` from the
    clean image sets the radius ``r``,

    - while no adversarial image is known, to ``(1 + gamma_k) (||delta|| + |m| / ||g||_q)``, with the dual norm ``q``: a
      little beyond where the linearised boundary is;
    - else to ``(1 + gamma_k) r`` where ``x + delta`` is not adversarial and to ``(1 - gamma_k) r``, or the smallest
      distance known, where it is;

    and then moves, ``delta <- project(delta + alpha_k g / ||g||_2, r)``, into ball and box. ``alpha`` falls from
    ``learning_rate`` to a hundredth of it and ``gamma`` from ``gamma_initial`` to ``gamma_final``, along cosines. The
    nearest of all adversarial images on the way is the result. Source: Pintor et al., 2021.

    Cost per example: ``steps`` forward and backward passes, and two forward passes.

    Departures from the reference (the authors' program, and Foolbox):
        1. The factor ``1 + gamma_k`` while no adversarial image is known, and ``|m| / ||g||_q`` of at least 1e-4:
           without them the search ends on the near side of a boundary without curvature.
        2. l2 perturbations are scaled down to the ball (Foolbox leaves them as they are), and l1 projections are exact
           for ball and box together, not one after the other.
        3. The last image is judged as well, by one more forward pass.
        4. The result is pushed off the boundary by a ten-thousandth of its distance, so that rounding does not decide
           its class.

    Args:
        threat: :class:`~jaxrobust.threat.Linf`, :class:`~jaxrobust.threat.L2` or :class:`~jaxrobust.threat.L1`; its
            radius matters to the call form only.
        steps: number of steps.
        learning_rate: Euclidean length of the first step, in images' units.
        gamma_initial: share by which the radius changes in the first step.
        gamma_final: the same towards the last step.
        targeted: ``labels`` are the classes to reach; then the margin's sign is turned.

    Raises:
        ValueError: for fewer than one step, or numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> images = jnp.full((1, 2, 2, 1), 0.5)
        >>> found = fmn(Linf(0.3)).minimum_norm(jax.random.key(0), logits_fn, images, jnp.array([0]))
        >>> found.distances.round(3).tolist()  # each of four pixels falls by a quarter of 2 - 1
        [0.25]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not (learning_rate > 0 and 0 < gamma_final <= gamma_initial < 1):
        raise ValueError(
            "learning_rate must be positive and 0 < gamma_final <= gamma_initial < 1, "
            f"got {learning_rate}, {gamma_final} and {gamma_initial}"
        )

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del key  # nothing is drawn
        program = _program(targeted, steps)
        constants = _Constants(threat, Closure(logits_fn), images, labels, learning_rate, gamma_initial, gamma_final)
        return program.end(constants, iterate(program.step, constants, _start(constants), steps))

    return MinimumNormAttack(threat, search)
