"""The condition on radii: by how much all margins exceed what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure
from jaxrobust.threat import L1, L2, Linf, NonUniform, ThreatModel

from ._bounds import interval_bounds, linear_bounds
from ._certified import rounding
from ._margins import margins
from ._methods import methods_named
from ._network_checks import check


class Criterion(NamedTuple):
    """How margins are bounded, hashable.

    Attributes:
        method: one or several of :data:`METHODS`.
        elide: whether margins are bounded as such, or as the difference of bounds of the logits.
        rows_at_once: see :func:`linear_bounds`.
    """

    method: str | tuple[str, ...]
    elide: bool
    rows_at_once: int | None


class Question(NamedTuple):
    """What is to be certified.

    Attributes:
        logits_fn, images, labels: as everywhere.
        threat: gives norm and box; its radius limits searches that start from nothing.
        needed: the smallest margin that counts, ``[batch]``.
        largest: no radius is larger, a scalar.
    """

    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    threat: Any
    needed: jax.Array
    largest: jax.Array


def criterion_of(method: str | Sequence[str], elide: bool, rows_at_once: int | None) -> Criterion:
    """The criterion, checked.

    Raises:
        ValueError: for unknown methods, for those that optimise slopes, and for several without elision.
    """
    chosen = methods_named(method)
    if any(one.optimization_steps for one in chosen):
        raise ValueError(
            f"radii are found by derivatives of margins, which methods that optimise slopes do not have, got {method!r}; "
            "find them by another, such as 'crown', and ask certified() whether this one allows larger eps"
        )
    if not elide and len(chosen) > 1:
        raise ValueError(f"elide=False bounds the logits by one method, got {method!r}")
    return Criterion(method if isinstance(method, str) else tuple(method), elide, rows_at_once)


def question_of(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    delta: float,
    max_radius: float | None = None,
) -> Question:
    """The question, checked.

    Raises:
        ValueError: for another threat model, a ``delta`` below 0, a ``max_radius`` that is not positive, and see
            :func:`certified`.
    """
    if not isinstance(threat, (Linf, L2, L1)):
        raise ValueError(
            f"threat must be Linf, L2 or L1, whose balls get a radius per pixel, got {type(threat).__name__}"
        )
    if not delta >= 0:
        raise ValueError(f"delta must be at least 0, got {delta}")
    if max_radius is not None and not max_radius > 0:
        raise ValueError(f"max_radius must be positive, got {max_radius}")
    check(logits_fn, images, labels, threat)
    if max_radius is None:
        max_radius = jnp.inf if threat.bounds is None else threat.bounds[1] - threat.bounds[0]
    return _question(Closure(logits_fn), images, labels, threat, delta, max_radius)


@jax.jit
def _question(
    logits_fn: Closure, images: jax.Array, labels: jax.Array, threat: ThreatModel, delta: Any, largest: Any
) -> Question:
    needed = (delta + rounding(logits_fn(images))).astype(images.dtype)
    return Question(logits_fn, images, labels, threat, needed, jnp.asarray(largest, images.dtype))


def slack(criterion: Criterion, question: Question, radii: jax.Array) -> jax.Array:
    """By how much margins exceed what is needed, ``d`` in Algorithm 3.3, ``[batch, classes]``; 0 in the label's column."""
    logits_fn, images, labels, threat, needed, _ = question
    perturbations = NonUniform(type(threat), radii, bounds=threat.bounds)
    method, elide, rows_at_once = criterion
    if elide:
        found = margins(logits_fn, images, labels, perturbations, method=method, rows_at_once=rows_at_once)
    else:
        assert isinstance(method, str)
        if method == "interval":
            logits: Any = interval_bounds(logits_fn, images, perturbations)
        else:
            logits = linear_bounds(logits_fn, images, perturbations, method=method, rows_at_once=rows_at_once)
        found = jnp.take_along_axis(logits.lower, labels[:, None], 1) - logits.upper
    return jnp.where(_others(labels, found), found.astype(images.dtype) - needed[:, None], 0)


def clean_slack(question: Question, logits: jax.Array) -> jax.Array:
    """The smallest slack without perturbations, ``[batch]``, from the logits."""
    label = jnp.take_along_axis(logits, question.labels[:, None], 1)
    return jnp.where(_others(question.labels, logits), label - logits, jnp.inf).min(-1) - question.needed


def _others(labels: jax.Array, logits: jax.Array) -> jax.Array:
    return labels[:, None] != jnp.arange(logits.shape[-1], dtype=labels.dtype)


def is_certified(slack: jax.Array) -> jax.Array:
    """Whether all margins are large enough, ``[batch]``; not if one is not a number."""
    return (slack >= 0).all(-1)
