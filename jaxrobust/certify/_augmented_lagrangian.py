"""The search for certified sets of the largest volume: an augmented Lagrangian in the roots of the radii."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.iteration import iterate
from jaxrobust.threat._base import flatten, per_example, safe_norm

from ._radii import mean_log
from ._slack import Criterion, Question, clean_slack, is_certified, slack


class Penalty(NamedTuple):
    """Settings of the search, see :func:`nonuniform`."""

    dual_every: int
    rho: float
    rho_factor: float
    rho_every: int
    max_gradient_norm: float


class _Constants(NamedTuple):
    """``radius`` and ``margin``, ``[batch]`` each, are the units of radii and slack, so that nothing depends on any.

    They are the mean radius at the start and the smallest slack without perturbations.
    """

    question: Question
    penalty: Penalty
    radius: jax.Array
    margin: jax.Array


class _State(NamedTuple):
    """``radii = radius * zeta^2``; ``best`` are the certified radii of the largest volume, its ``log`` per pixel."""

    step: jax.Array
    zeta: jax.Array
    optimizer: Any
    multipliers: jax.Array
    best: jax.Array
    volume: jax.Array


def multipliers_after(multipliers: jax.Array, rho: jax.Array, slack: jax.Array) -> jax.Array:
    """``lambda + rho (d - c)`` with the best ``c = max(0, d + lambda / rho)``, which is ``min(0, lambda + rho d)``.

    It is also the derivative of ``<lambda, d - c> + rho / 2 |d - c|^2`` by the slack ``d``.
    """
    return jnp.minimum(0, multipliers + rho * slack)


def _rho(penalty: Penalty, step: jax.Array, dtype: Any) -> jax.Array:
    growths = jnp.maximum(step // penalty.rho_every, 0).astype(dtype)
    return penalty.rho * jnp.asarray(penalty.rho_factor, dtype) ** growths


@functools.lru_cache
def minimise(criterion: Criterion, optimizer: optax.GradientTransformation) -> Callable[[_Constants, _State], _State]:
    """One step down ``-sum log zeta^2 + pixels * (<lambda, d - c> + rho / 2 |d - c|^2)``."""

    def step(constants: _Constants, state: _State) -> _State:
        question, penalty, radius, margin = constants
        zeta, unit = state.zeta, per_example(radius, state.zeta)
        features = flatten(zeta).shape[1]
        radii = unit * jnp.square(zeta)

        def slack_in_units(radii: jax.Array) -> jax.Array:
            return slack(criterion, question, radii) / margin[:, None]

        found, back = jax.vjp(slack_in_units, radii)
        before, now = (_rho(penalty, state.step - i, zeta.dtype) for i in (1, 0))
        due = (state.step > 0) & (state.step % penalty.dual_every == 0)
        multipliers = jnp.where(due, multipliers_after(state.multipliers, before, found), state.multipliers)
        (pull,) = back(multipliers_after(multipliers, now, found))
        gradient = 2 * (zeta * unit * features * pull - 1 / zeta)
        size = safe_norm(flatten(gradient)) / features**0.5
        gradient *= per_example(jnp.minimum(1, penalty.max_gradient_norm / jnp.where(size > 0, size, 1)), zeta)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, optimizer_state = jax.vmap(optimizer.update)(gradient, state.optimizer, zeta)
        # No step may leave the domain of the logarithm.
        moved = jnp.maximum(optax.apply_updates(zeta, updates), zeta / 2)

        volume = mean_log(radii)
        better = is_certified(found) & (volume > state.volume)
        return _State(
            state.step + 1,
            jnp.minimum(moved, jnp.sqrt(question.largest / unit)),
            optimizer_state,
            multipliers,
            jnp.where(per_example(better, radii), radii, state.best),
            jnp.where(better, volume, state.volume),
        )

    return step


@functools.partial(jax.jit, static_argnames=("optimizer",))
def start_at(
    question: Question, penalty: Penalty, radii: jax.Array, *, optimizer: optax.GradientTransformation
) -> tuple[_Constants, _State]:
    """Where nothing is certified, units and ``zeta`` are harmless numbers."""
    volume = mean_log(radii)
    logits = question.logits_fn(question.images).astype(volume.dtype)
    margin = clean_slack(question, logits)
    radius = jnp.where(jnp.isfinite(volume), jnp.exp(volume), 1)
    constants = _Constants(question, penalty, radius, jnp.where(margin > 0, margin, 1))
    zeta = jnp.sqrt(jnp.where(radii > 0, radii, 1) / per_example(radius, radii))
    multipliers = jnp.zeros_like(logits)
    return constants, _State(jnp.zeros((), jnp.int32), zeta, jax.vmap(optimizer.init)(zeta), multipliers, radii, volume)


@jax.jit
def _current(constants: _Constants, state: _State) -> jax.Array:
    return per_example(constants.radius, state.zeta) * jnp.square(state.zeta)


class Found(NamedTuple):
    """Radii shaped as the images: the last ones, and those of the largest volume that were certified."""

    last: jax.Array
    best: jax.Array


def search(
    criterion: Criterion,
    question: Question,
    penalty: Penalty,
    optimizer: optax.GradientTransformation,
    start: jax.Array,
    steps: int,
) -> Found:
    """From certified radii, 0 where there are none."""
    constants, state = start_at(question, penalty, start, optimizer=optimizer)
    state = iterate(minimise(criterion, optimizer), constants, state, steps)
    return Found(_current(constants, state), state.best)
