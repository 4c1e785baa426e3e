"""One image at a time, as one program for the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.threat import Extent, ThreatModel

from ._problem import Problem
from ._rows import Dense
from ._trace import trace

PerImage = Callable[..., Any]


def margin_specification(labels: jax.Array, classes: int, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Rows ``e_y - e_i`` for the label ``y`` and every class ``i``, ``[batch, classes, classes]``; row ``y`` is zero.

    As the specification of bounds they give margins ``z_y - z_i``.

    Example:
        >>> margin_specification(jnp.array([1]), 3).tolist()
        [[[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, -1.0]]]
    """
    classes_one_hot = jnp.eye(classes, dtype=dtype)
    return classes_one_hot[labels][:, None, :] - classes_one_hot


def per_image(
    logits_fn: LogitsFn,
    images: jax.Array,
    threat: ThreatModel,
    specification: jax.Array | Callable[..., jax.Array] | None,
    compute: PerImage,
    *mapped: Any,
) -> Any:
    """``compute(graph, problem, rows, *mapped)`` for each image, as one program for the batch.

    What is the same for all images, weights above all, is not copied for each.

    Args:
        logits_fn, images, threat: see :func:`linear_bounds`.
        specification: ``[rows, classes]``, or ``[batch, rows, classes]``, or ``None`` for the logits themselves, or a
            function ``(classes, dtype)`` that makes one.
        compute: of one image.
        *mapped: pytrees with a leading axis ``[batch]``.
    """
    with jax.default_matmul_precision("highest"):
        graph = trace(logits_fn, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))
        (classes,) = graph.output.shape
        extent = Extent(*(jnp.broadcast_to(field, images.shape) for field in threat.extent(images)))
        dtype = graph.output.aval.dtype
        rows = jnp.eye(classes, dtype=dtype) if specification is None else specification
        rows = jnp.asarray(rows(classes, dtype) if callable(rows) else rows, dtype)
        if rows.ndim not in (2, 3) or rows.shape[-1] != classes or (rows.ndim == 3 and len(rows) != len(images)):
            raise ValueError(
                f"specification must have shape [rows, {classes}] or [{len(images)}, rows, {classes}], a column for each "
                f"class, got {rows.shape}"
            )

        def of_one(image: jax.Array, extent: Extent, rows: jax.Array, *mapped: Any) -> Any:
            batch_of_one = Extent(*(field[None] for field in extent))
            return compute(graph, Problem(image[None], batch_of_one, threat.support), Dense(rows), *mapped)

        axes = (0, 0, 0 if rows.ndim == 3 else None, *[0] * len(mapped))
        return jax.vmap(of_one, axes)(images, extent, rows, *mapped)
