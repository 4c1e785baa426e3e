"""Run a function over a data set in batches of one shape, on all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.attacks import LogitsFn
from jaxrobust.batching import Batches
from jaxrobust.iteration import Closure
from jaxrobust.random import typed_key


def map_batches(
    function: Callable[[LogitsFn, jax.Array, jax.Array, jax.Array], Any],
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Any:
    """Apply ``function(logits_fn, keys, images, labels)`` batch by batch and join the results on the host.

    Every batch has the same shape: the last one is filled up with copies of its last example, whose results are
    dropped, so nothing is compiled twice and no example counts twice. Example ``i`` gets the key
    ``fold_in(key, i)``: results depend neither on the batch size nor on the number of devices, as far as the
    function treats examples independently.

    Args:
        function: returns a pytree of arrays with leading axis ``[batch]``. It is called from Python; what is to be
            compiled is compiled inside (an attack compiles its own steps).
        logits_fn: the network; arrays bound by ``functools.partial`` are copied to every device once.
        images: ``[n, ...]``, uint8 (divided by 255 here) or floating point.
        labels: ``[n]``.
        key: random key of the evaluation.
        batch_size: images per batch, rounded up to a multiple of the number of devices.
        mesh: devices to use, with axis ``data``; all local devices by default.

    Returns:
        A pytree of NumPy arrays with leading axis ``[n]``.

    Raises:
        ValueError: for labels that are no class numbers, other numbers of labels than images, or no images at all.
    """
    batches = Batches(images, labels, typed_key(key), batch_size, mesh)
    closure = batches.replicate(Closure(logits_fn))
    results = []
    for batch in batches():
        result = function(closure, batch.keys, batch.images, batch.labels)
        results.append(jax.tree.map(lambda array, keep=batch.kept: array[:keep], result))
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(array) for array in arrays]), *results)
