"""Upper bounds of the worst case's cross-entropy: what KW, IBP and CROWN-IBP minimise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.certify import margins
from jaxrobust.threat import ThreatModel

from ._logits import cross_entropy

MarginMethod = str | Sequence[str] | Mapping[str, Any]
"""A method of :func:`jaxrobust.certify.margins`, several of which the best is taken, or weights of several."""


def certified_cross_entropy(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: MarginMethod = "fast-lin",
    rows_at_once: int | None = None,
) -> jax.Array:
    """An upper bound of the cross-entropy of every image that the threat model allows, ``[batch]``.

    ``log sum_i exp(-m_i)`` with the lower bounds ``m_i`` of the margins ``z_y - z_i``. What training minimises is this with

    * ``method="fast-lin"``: KW (Wong and Kolter, 2018), which for ReLU networks is Fast-Lin;
    * ``method="interval"``: IBP (Gowal et al., 2018), mixed with the cross-entropy of the images themselves;
    * ``method={"crown-interval": beta, "interval": 1 - beta}``: CROWN-IBP (Zhang et al., 2020), mixed in the same way.

    It falls as long as margins grow, also where all are far above zero; :func:`per` stops there. Differentiable in the
    images, the radius and the parameters that ``logits_fn`` closes over. Source: the thesis of Liu, (3.1) and section 3.1.2.

    Args:
        logits_fn: the network in evaluation mode, see :func:`jaxrobust.certify.margins`.
        images: ``[batch, ...]`` in the threat model's box.
        labels: int ``[batch]``.
        threat: the set of perturbations.
        method: a name of :data:`jaxrobust.certify.METHODS`; several, of which the best is taken for each margin; or a mapping
            from names to weights, which may be traced: at least 0 with sum 1, then the mean of the bounds is a bound.
        rows_at_once: limits how many entries of a layer are bounded at a time, which bounds memory.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded.
        ValueError: for an unknown method, or none.

    Example:
        >>> from jaxrobust import Linf
        >>> network = lambda images: images @ jnp.array([[1.0, -1.0], [1.0, 1.0]])
        >>> images, labels = jnp.array([[0.5, 0.5]]), jnp.array([0])
        >>> certified_cross_entropy(network, images, labels, Linf(0.125)).round(4).tolist()
        [0.3869]
        >>> cross_entropy(network(jnp.array([[0.375, 0.375]])), labels).round(4).tolist()  # no image is worse
        [0.3869]
    """
    lower = certified_margins(logits_fn, images, labels, threat, method, rows_at_once)
    return cross_entropy(-lower, labels)


def certified_margins(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    method: MarginMethod,
    rows_at_once: int | None = None,
) -> jax.Array:
    """:func:`jaxrobust.certify.margins`, or a weighted mean of those by several methods, ``[batch, classes]``."""
    if not isinstance(method, Mapping):
        return margins(logits_fn, images, labels, threat, method=method, rows_at_once=rows_at_once)
    if not method:
        raise ValueError("the mapping of methods to weights is empty; name at least one method")
    parts = [
        jnp.asarray(weight, images.dtype)
        * margins(logits_fn, images, labels, threat, method=name, rows_at_once=rows_at_once)
        for name, weight in method.items()
    ]
    return sum(parts[1:], parts[0])
