"""Accuracy of a classifier on clean, noisy and adversarial images."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust.attacks import Attack, LogitsFn
from jaxrobust.batching import check_classes, check_images

from ._batched import map_batches


@partial(jax.jit, static_argnames="top_k")
def _is_correct(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, top_k: int) -> jax.Array:
    """Whether the label is among the ``top_k`` largest logits; ties count for the lower class number."""
    logits = logits_fn(images)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes, labels = jnp.arange(logits.shape[-1]), labels[:, None]
    # Never the label against itself: a fused program may compute a logit twice, rounded differently.
    ahead = ((logits >= own) & (classes < labels)) | ((logits > own) & (classes > labels))
    return (ahead.sum(-1) < top_k) & jnp.isfinite(logits).all(-1)


def correct(
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    attack: Attack | None = None,
    key: jax.Array | None = None,
    include_clean: bool = True,
    top_k: int = 1,
    batch_size: int = 500,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Whether each example is classified correctly, on its clean image and, if given, under attack.

    Under an attack an example counts as robust only if its clean image is classified correctly as well, since the
    clean image is inside every threat model; ``include_clean=False`` judges the returned image alone, which is
    what accuracy under random noise means. Under ``top_k > 1`` the adversarial image is the one made against the
    first class: it is used where it changed the top-1 decision, the clean image otherwise (the protocol of the
    optimizer-robustness study; no dedicated top-k attack).

    Args:
        logits_fn: the network, see :mod:`jaxrobust.attacks`.
        images: ``[n, height, width, channels]``, uint8 or floating point within ``bounds``; also a source that reads
            rows when they are indexed (:class:`jaxrobust.data.ImageSource`).
        labels: ``[n]``.
        attack: an attack or a noise; ``None`` for clean accuracy.
        key: random key, needed with an attack. Example ``i`` uses ``fold_in(key, i)``.
        include_clean: whether the clean image must be classified correctly as well; ``False`` for random noise.
        top_k: how many of the largest logits count.
        batch_size: images per compiled batch.
        bounds: range that the pixels are checked against.
        mesh: devices to use, all by default.

    Returns:
        ``[n]`` bool.

    Raises:
        ValueError: for pixels out of range, a missing key, a function that does not return logits, or labels or
            ``top_k`` above the number of classes.
    """
    if isinstance(images, (jax.Array, list, tuple)):
        images = np.asarray(images)
    check_images(images, bounds)
    if attack is not None and key is None:
        raise ValueError("an attack needs a random key: pass key=jax.random.key(0)")

    def evaluate(logits_fn: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        clean = _is_correct(logits_fn, images, labels, top_k)
        if attack is None:
            return clean
        adversarial = attack(keys, logits_fn, images, labels)
        if not include_clean:
            return _is_correct(logits_fn, adversarial, labels, top_k)
        if top_k == 1:
            return clean & _is_correct(logits_fn, adversarial, labels, 1)
        broken = _is_correct(logits_fn, images, labels, 1) & ~_is_correct(logits_fn, adversarial, labels, 1)
        return jnp.where(broken, _is_correct(logits_fn, adversarial, labels, top_k), clean)

    key = jax.random.key(0) if key is None else key
    labels = np.asarray(labels)
    if len(images) and top_k > (classes := check_classes(logits_fn, images[:2], labels)):
        raise ValueError(f"top_k is {top_k}, but the classifier has {classes} classes")
    return map_batches(evaluate, logits_fn, images, labels, key=key, batch_size=batch_size, mesh=mesh)


def accuracy(
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    attack: Attack | None = None,
    key: jax.Array | None = None,
    include_clean: bool = True,
    top_k: int = 1,
    batch_size: int = 500,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mesh: Mesh | None = None,
) -> float:
    """Mean of :func:`correct`, in per cent.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxrobust import L2, attacks, evaluation
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> images = np.eye(4, dtype=np.float32)[:3].reshape(3, 2, 2, 1)
        >>> evaluation.accuracy(logits_fn, images, np.arange(3))
        100.0
        >>> evaluation.accuracy(logits_fn, images, np.arange(3), attack=attacks.pgd(L2(1.0)), key=jax.random.key(0))
        0.0
    """
    return 100.0 * float(
        correct(
            logits_fn,
            images,
            labels,
            attack=attack,
            key=key,
            include_clean=include_clean,
            top_k=top_k,
            batch_size=batch_size,
            bounds=bounds,
            mesh=mesh,
        ).mean()
    )
