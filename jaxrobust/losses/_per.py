"""PER: a hinge on the distances to the polyhedral envelope."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.certify import HalfSpaces, half_spaces
from jaxrobust.threat import ThreatModel

from ._hinge import class_distances, hinge, of_worst_classes


def per(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    alpha: Any,
    beta: Any = 1.0,
    worst: int = 4,
    method: str = "fast-lin",
    points: jax.Array | None = None,
    rows_at_once: int | None = None,
) -> jax.Array:
    """Polyhedral envelope regularisation, without the loss that it is added to, ``[batch]``.

    ``beta * sum max(0, 1 - d_i / alpha)`` over the ``worst`` wrong classes of smallest ``d_i``: the signed distance, in the
    threat model's norm and box, to the half-space where ``z_y <= z_i`` cannot be excluded. The half-spaces are valid within the
    threat model's ball around the images. Where all distances reach ``alpha`` value and gradient are exactly zero, so that
    images with a large enough margin are left alone.

    Source: Liu, Salzmann and Susstrunk, 2021; the thesis of Liu, (3.12), (3.14) and (3.20), which sets ``worst`` to 4 and
    ``alpha`` to 1.5 times the radius to defend against.

    Args:
        logits_fn: the network in evaluation mode, see :func:`jaxrobust.certify.margins`; with any activation that has bounds.
        images: ``[batch, ...]`` in the threat model's box.
        labels: int ``[batch]``.
        threat: the set of perturbations for which the half-spaces are valid.
        alpha: the distance, in the threat model's norm, from which on nothing is to be gained; may be traced.
        beta: weight; may be traced.
        worst: how many classes count.
        method: how the half-spaces are made: ``"fast-lin"`` (L-PER), ``"fast-lin-interval"`` (I-PER), or another method of
            :func:`jaxrobust.certify.half_spaces`.
        points: adversarial images, shaped as the images, whose distances count instead (PER+at). The half-spaces stay those
            around ``images``, and the box is that around the points. They are taken as constants.
        rows_at_once: limits how many entries of a layer are bounded at a time, which bounds memory.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded.
        ValueError: for an alpha that is not positive, no class, or an unknown method.

    Example:
        >>> from jaxrobust import L2
        >>> network = lambda images: images @ jnp.array([[3.0, 0.0], [4.0, 0.0]])
        >>> images, labels = jnp.array([[0.02, 0.01]]), jnp.array([0])
        >>> per(network, images, labels, L2(0.1, bounds=None), alpha=0.05).round(4).tolist()
        [0.6]
    """
    check_envelope(alpha, worst)
    spaces = half_spaces(logits_fn, images, labels, threat, method=method, rows_at_once=rows_at_once)
    return envelope_penalty(spaces, images, labels, threat, points, alpha=alpha, beta=beta, worst=worst)


def check_envelope(alpha: Any, worst: int) -> None:
    """Raise ``ValueError`` for an alpha that is a number and not positive, or no class."""
    if isinstance(alpha, (int, float, np.number)) and not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}; it is a distance in the threat model's norm")
    if worst < 1:
        raise ValueError(f"worst must be at least 1, got {worst}; it is a number of classes")


@partial(jax.jit, static_argnames="worst")
def envelope_penalty(
    spaces: HalfSpaces,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    points: jax.Array | None,
    *,
    alpha: Any,
    beta: Any,
    worst: int,
) -> jax.Array:
    """:func:`per`, given the half-spaces around the images."""
    if points is None:
        distances = class_distances(threat, images, *spaces)
    else:
        distances = class_distances(threat, jax.lax.stop_gradient(points), *spaces, images)
    return jnp.asarray(beta, distances.dtype) * of_worst_classes(hinge(distances, alpha), labels, worst)
