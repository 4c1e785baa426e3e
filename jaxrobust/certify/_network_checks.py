"""What can be wrong with a network or with images, looked for on the host before anything is certified."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.batching import check_classes, check_images, check_labels
from jaxrobust.iteration import Closure, is_traced
from jaxrobust.threat import ThreatModel

AGREEMENT = 1e-3
"""How much logits may differ between one image alone and the same image in a batch, relative to the largest one."""


def check(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, threat: ThreatModel) -> None:
    """Check values, unless the caller is being traced.

    Raises:
        ValueError: for pixels outside the threat model's box, labels that are no classes, a radius below 0, logits that are
            not finite, or logits of an image that depend on the other images of its batch.
    """
    if is_traced(logits_fn, images, labels, threat):
        return
    check_labels(np.asarray(images), np.asarray(labels))
    check_images(np.asarray(images), threat.bounds)
    if not (np.asarray(threat.eps) >= 0).all():
        raise ValueError(f"eps must be at least 0, got {threat.eps}; it is a radius in the images' units")
    check_classes(logits_fn, np.asarray(images), np.asarray(labels))
    together, alone = _logits(Closure(logits_fn), images)
    bad = ~np.isfinite(np.asarray(together)).all(-1)
    if bad.any():
        raise ValueError(
            f"the logits of {bad.sum()} of {len(images)} images are not finite, of image {np.flatnonzero(bad)[0]} first: "
            "were the parameters trained to the end, and loaded completely?"
        )
    error = np.abs(together - alone).max() / max(1.0, float(np.abs(together).max()))
    if not error <= AGREEMENT:
        raise ValueError(
            f"logits of an image change with the batch that it is in, by {error:.2g} of the largest one, so they cannot be "
            "certified: put batch norm into evaluation mode (train=False, use_running_average=True), and switch dropout and "
            "other random layers off (deterministic=True)"
        )


@jax.jit
def _logits(logits_fn: Closure, images: jax.Array) -> tuple[Any, Any]:
    alone = jax.vmap(lambda image: logits_fn(image[None])[0])(images)
    return logits_fn(images), alone
