"""How far sets of perturbations of one shape can be scaled and still be certified."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import iterate
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import per_example

from ._slack import Criterion, Question, criterion_of, is_certified, question_of, slack

HALVINGS = 30
"""Of the scale. After those that a small scale needs, the others leave an error of a rounding in single precision."""

SHRINKS = 1000
"""Most multiplications in the published way to shrink radii."""


def scaled(question: Question, radii: jax.Array, scale: jax.Array) -> jax.Array:
    """``scale`` ``[batch]`` times ``radii``, up to the largest radius."""
    return jnp.minimum(per_example(scale, radii) * radii, question.largest)


class _Scales(NamedTuple):
    lower: jax.Array
    upper: jax.Array
    next: jax.Array


@functools.lru_cache
def _halve(criterion: Criterion) -> Callable[[tuple[Question, jax.Array], _Scales], _Scales]:
    def step(constants: tuple[Question, jax.Array], state: _Scales) -> _Scales:
        question, radii = constants
        success = is_certified(slack(criterion, question, scaled(question, radii, state.next)))
        lower = jnp.where(success, state.next, state.lower)
        upper = jnp.where(success, state.upper, state.next)
        return _Scales(lower, upper, (lower + upper) / 2)

    return step


@jax.jit
def _start(lower: Any, upper: Any, images: jax.Array) -> _Scales:
    lower, upper = (jnp.broadcast_to(jnp.asarray(end, images.dtype), images.shape[:1]) for end in (lower, upper))
    return _Scales(lower, upper, upper)


def largest_scale(criterion: Criterion, question: Question, radii: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """The largest scale of ``radii``, between ``lower`` and ``upper``, that is found by bisection, ``[batch]``.

    The result was certified, unless it is ``lower``.
    """
    state = _start(lower, upper, question.images)
    return iterate(_halve(criterion), (question, radii), state, HALVINGS + 1).lower


class _Shrinking(NamedTuple):
    radii: jax.Array
    done: jax.Array


@functools.lru_cache
def _shrink(criterion: Criterion, factor: float) -> Callable[[Question, _Shrinking], _Shrinking]:
    def step(question: Question, state: _Shrinking) -> _Shrinking:
        def once() -> _Shrinking:
            done = state.done | is_certified(slack(criterion, question, state.radii))
            return _Shrinking(jnp.where(per_example(done, state.radii), state.radii, factor * state.radii), done)

        return jax.lax.cond(state.done.all(), lambda: state, once)

    return step


def shrunk(criterion: Criterion, question: Question, radii: jax.Array, factor: float = 0.99) -> jax.Array:
    """``radii`` times ``factor`` until they are certified; 0 where :data:`SHRINKS` times are not enough."""
    state = _Shrinking(radii, jnp.zeros(len(radii), bool))
    found = iterate(_shrink(criterion, factor), question, state, SHRINKS)
    return jnp.where(per_example(found.done, radii), found.radii, 0)


def uniform_radius(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "fast-lin",
    elide: bool = True,
    delta: float = 1e-4,
    rows_at_once: int | None = None,
) -> jax.Array:
    """The largest radius, the same for all pixels, at which all margins are certified to be at least ``delta``.

    What :func:`nonuniform` starts from and is compared with: by the same margins, to the precision of the images' dtype.
    :func:`search_radius` needs fewer evaluations, for less precision, and knows more methods.

    Args:
        logits_fn, images, labels, threat, method, elide, delta, rows_at_once: see :func:`nonuniform`.

    Returns:
        ``[batch]``, at most ``threat.eps``; 0 for images that are misclassified or whose margin is below ``delta``.

    Raises:
        UnsupportedOperation, ValueError: see :func:`nonuniform`.
    """
    criterion = criterion_of(method, elide, rows_at_once)
    question = question_of(logits_fn, images, labels, threat, delta)
    return largest_uniform(criterion, question)


def largest_uniform(criterion: Criterion, question: Question) -> jax.Array:
    """The largest certified radius up to that of the threat model, ``[batch]``."""
    ones = jnp.ones_like(question.images)
    found = largest_scale(criterion, question, ones, 0, question.threat.eps)
    return jnp.minimum(found, question.largest)
