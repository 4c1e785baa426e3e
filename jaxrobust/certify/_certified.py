"""The questions that most people have: is the label certain, and how far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import ThreatModel

from ._margins import half_spaces, margins
from ._network_checks import check

ROUNDING = 256
"""How many roundings of the largest logit, at least of 1, a margin must be above zero to count.

Bounds are sums of thousands of products, so they are known to a few dozen roundings. The tests compare bounds in single and
double precision; the largest difference that they allow is a quarter of this.
"""

ENVELOPE = "envelope"


def certified(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "crown",
    rows_at_once: int | None = None,
) -> jax.Array:
    """Whether no perturbation can change the classification as the label, bool ``[batch]``: certified accuracy is the mean.

    ``False`` says nothing about the image, except that a misclassified one is never certified.

    Args:
        logits_fn: images ``[batch, ...]`` to logits ``[batch, classes]``, any JAX function of supported operations, see
            :func:`linear_bounds`.
        images: ``[batch, ...]``, floating point, in the threat model's box: [0, 1] unless it says otherwise.
        labels: int ``[batch]``.
        threat: the set of perturbations: ``Linf``, ``L2``, ``L1`` or ``NonUniform``.
        method: from fast and loose to slow and tight ``"interval"``, ``"crown-interval"``, ``"fast-lin"``, ``"crown"``,
            ``"alpha-crown"``, see :data:`METHODS`; or several, one of which must succeed for each margin. ``"envelope"``
            certifies at least what ``"fast-lin"`` does: in l2 and l1 it takes ball and box together.
        rows_at_once: limits how many entries of a layer are bounded at a time, which bounds memory.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded, and in which layer.
        ValueError: for input that makes no sense: pixels outside the box, logits that are not finite or depend on the
            batch, unknown labels or methods. Inside ``jit`` only shapes are checked.

    Example:
        >>> from jaxrobust import Linf
        >>> logits_fn = partial(lambda w, x: x @ w, jnp.array([[1.0, -1.0], [1.0, 1.0]]))
        >>> images, labels = jnp.array([[0.5, 0.5], [0.1, 0.5]]), jnp.array([0, 0])
        >>> certified(logits_fn, images, labels, Linf(0.2)).tolist()
        [True, False]
    """
    check(logits_fn, images, labels, threat)
    return _certified(logits_fn, images, labels, threat, method, rows_at_once)


def _certified(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: Any,
    rows_at_once: int | None,
) -> jax.Array:
    if method == ENVELOPE:
        distances = _distances(logits_fn, images, labels, threat, rows_at_once)
        return distances > _radii(threat, images)
    lower = margins(logits_fn, images, labels, threat, method=method, rows_at_once=rows_at_once)
    return _positive(Closure(logits_fn), images, labels, lower)


@jax.jit
def _positive(logits_fn: Closure, images: jax.Array, labels: jax.Array, lower: jax.Array) -> jax.Array:
    others = labels[:, None] != jnp.arange(lower.shape[-1], dtype=labels.dtype)
    return jnp.where(others, lower, jnp.inf).min(-1) > rounding(logits_fn(images))


def rounding(logits: jax.Array) -> jax.Array:
    """What a margin must be above to count as positive, ``[batch]``, see :data:`ROUNDING`."""
    return ROUNDING * float(jnp.finfo(logits.dtype).eps) * jnp.maximum(jnp.abs(logits).max(-1), 1)


def _radii(threat: ThreatModel, images: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(threat.eps, images.dtype), images.shape[:1])


def radius(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "envelope",
    rows_at_once: int | None = None,
) -> jax.Array:
    """A certified radius from bounds at ``threat.eps`` alone, without a search, ``[batch]``.

    It is ``threat.eps`` where the whole set is certified. Else it is 0, but with ``"envelope"`` the distance to the polyhedral
    envelope: within it and the box no image changes its label. It is 0 for misclassified images.

    Args:
        logits_fn, images, labels, threat, rows_at_once: see :func:`certified`.
        method: ``"envelope"``, or one or several of :data:`METHODS`.

    Raises:
        UnsupportedOperation, ValueError: see :func:`certified`.

    Source:
        The thesis of Liu, Lemma 3.1, section 3.3 (polyhedral envelope certification, PEC).

    Example:
        >>> from jaxrobust import Linf
        >>> weight = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> logits_fn = partial(lambda w, x: jax.nn.relu(x @ w.T) @ w.T, weight)
        >>> images, labels, threat = jnp.array([[1.0, 0.0]]), jnp.array([0]), Linf(1.0, bounds=None)
        >>> radius(logits_fn, images, labels, threat).tolist()
        [0.5]
        >>> radius(logits_fn, images, labels, threat, method="fast-lin").tolist()
        [0.0]
    """
    check(logits_fn, images, labels, threat)
    return _radius(logits_fn, images, labels, threat, method, rows_at_once)


def _radius(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: Any,
    rows_at_once: int | None,
) -> jax.Array:
    eps = _radii(threat, images)
    if method == ENVELOPE:
        return jnp.minimum(_distances(logits_fn, images, labels, threat, rows_at_once), eps)
    return jnp.where(_certified(logits_fn, images, labels, threat, method, rows_at_once), eps, 0)


def _distances(
    logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, threat: ThreatModel, rows_at_once: int | None
) -> jax.Array:
    spaces = half_spaces(logits_fn, images, labels, threat, method="fast-lin", rows_at_once=rows_at_once)
    return _nearest(Closure(logits_fn), images, labels, threat, *spaces)


@jax.jit
def _nearest(
    logits_fn: Closure, images: jax.Array, labels: jax.Array, threat: ThreatModel, normals: jax.Array, lower: jax.Array
) -> jax.Array:
    """Distance to the nearest half-space of another class, 0 behind one, ``[batch]``."""
    safe = lower - rounding(logits_fn(images))[:, None]
    distance = partial(threat.distance, signed=False)
    distances = jax.vmap(distance, (None, 1, 1), 1)(images, normals, safe)
    others = labels[:, None] != jnp.arange(lower.shape[-1], dtype=labels.dtype)
    return jnp.where(others, distances, jnp.inf).min(-1)


class SearchResult(NamedTuple):
    """What :func:`search_radius` found, ``[batch]`` each.

    Attributes:
        radius: the largest radius that was certified; 0 if none was.
        upper: where the search stopped looking. It is no bound of anything.
        evaluations: how many times bounds were computed.
    """

    radius: jax.Array
    upper: jax.Array
    evaluations: jax.Array


class _Search(NamedTuple):
    lower: jax.Array
    upper: jax.Array
    evaluations: jax.Array


def search_radius(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "envelope",
    precision: float = 1e-4,
    rows_at_once: int | None = None,
) -> SearchResult:
    """The largest certified radius between 0 and ``threat.eps``, to a precision.

    Halves the interval of each image by bounds at its middle. The partial certificates of ``"envelope"`` shorten it from below
    as well, which saves evaluations. Radii that can be certified need not be an interval, so there may be larger ones, but
    what is returned was certified.

    Args:
        logits_fn, images, labels, rows_at_once: see :func:`certified`.
        threat: ``eps`` is the largest radius of interest.
        method: see :func:`radius`.
        precision: the search ends where the interval is shorter.

    Raises:
        UnsupportedOperation, ValueError: see :func:`certified`; a precision that is not positive.

    Source:
        The thesis of Liu, Algorithm 3.5; it returns the middle of the last interval, which is not certified.
    """
    if not precision > 0:
        raise ValueError(f"precision must be positive, got {precision}")
    check(logits_fn, images, labels, threat)
    start = _radii(threat, images)
    steps = _halvings(start, precision)
    constants = (Closure(logits_fn), images, labels, threat, jnp.asarray(precision, images.dtype))
    zero = jnp.zeros_like(start)
    state = _Search(zero, start, jnp.zeros(start.shape, jnp.int32))
    found = iterate(
        _search_step(method if isinstance(method, str) else tuple(method), rows_at_once), constants, state, steps
    )
    return SearchResult(found.lower, found.upper, found.evaluations)


def _halvings(start: jax.Array, precision: float) -> int:
    """How many halvings bring the longest interval below the precision.

    Raises:
        ValueError: if the radius is traced.
    """
    if isinstance(start, jax.core.Tracer):
        raise ValueError(
            "search_radius needs a radius that is known before it is traced: the number of steps depends on it"
        )
    return max(0, math.ceil(math.log2(max(float(start.max(initial=0)) / precision, 1))))


@lru_cache
def _search_step(method: Any, rows_at_once: int | None) -> Any:
    def step(constants: Any, state: _Search) -> _Search:
        logits_fn, images, labels, threat, precision = constants
        lower, upper, evaluations = state
        active = upper - lower > precision
        middle = (lower + upper) / 2
        at_middle = dataclasses.replace(cast(Any, threat), eps=middle)
        found = _radius(logits_fn, images, labels, at_middle, method, rows_at_once)
        return _Search(
            jnp.where(active, jnp.maximum(lower, found), lower),
            jnp.where(active & (middle > found), middle, upper),
            evaluations + active.astype(evaluations.dtype),
        )

    return step
