"""How much fixed noise images change the accuracy of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxrobust.iteration import Closure, iterate

from ._dct import check_images


def noise_correct(
    logits_fn: Callable[[jax.Array], jax.Array], images: ArrayLike, labels: ArrayLike, noises: ArrayLike
) -> jax.Array:
    """Whether each image is classified correctly with each noise image added to it, without clipping.

    The same noises are added to every image, one noise per forward pass of the batch. The results of several
    batches can be concatenated along the last axis and given to :func:`accuracy_change`.

    Args:
        logits_fn: images ``[batch, height, width, channels]`` to logits ``[batch, classes]``. As a
            ``functools.partial`` of a function and its parameters it is compiled once for all parameters.
        images: ``[batch, height, width, channels]`` in [0, 1].
        labels: class numbers, ``[batch]``.
        noises: ``[..., height, width, channels]``, from :func:`band_noises` for instance.

    Returns:
        Boolean ``[..., batch]``.

    Raises:
        TypeError: if images or noises are not floating point.
        ValueError: if the shapes of images, labels and noises disagree.
    """
    images, labels, noises = check_images(images), jnp.asarray(labels), check_images(noises, "noises")
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            "images must have the axes [batch, height, width, channels] and labels [batch], "
            f"got images {images.shape} and labels {labels.shape}"
        )
    if noises.shape[-3:] != images.shape[1:]:
        raise ValueError(f"noises must end in the shape of one image, {images.shape[1:]}, got {noises.shape}")
    leading = noises.shape[:-3]
    noises = noises.reshape(-1, *images.shape[1:]).astype(images.dtype)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((math.prod(leading), images.shape[0]), jnp.bool_))
    _, correct = iterate(_classify_one, (Closure(logits_fn), images, labels, noises), state, len(noises))
    return correct.reshape(*leading, images.shape[0])


def accuracy_change(clean_correct: ArrayLike, noisy_correct: ArrayLike) -> jax.Array:
    """Clean accuracy minus the mean accuracy over noises, in percentage points; positive is a drop.

    ``100 (mean_n 1{F(x_n) = y_n} - mean_{n,k} 1{F(x_n + noise_k) = y_n})``, exactly 0 where no prediction
    changes between right and wrong. Source: optimizer-robustness study, eq. (4.5).

    Args:
        clean_correct: whether each image is classified correctly without noise, ``[batch]``.
        noisy_correct: the same with noise, ``[..., draws, batch]``, from :func:`noise_correct`.

    Returns:
        ``[...]``, within [-100, 100]: one number per band for ``noisy_correct`` of ``[bands, draws, batch]``.

    Raises:
        ValueError: if the shapes disagree.

    Example:
        >>> accuracy_change([True, True], [[True, False], [True, False]]).item()
        50.0
    """
    clean, noisy = jnp.asarray(clean_correct), jnp.asarray(noisy_correct)
    if noisy.ndim < 2 or clean.shape != noisy.shape[-1:]:
        raise ValueError(
            "clean_correct must have the shape [batch] and noisy_correct [..., draws, batch], "
            f"got {clean.shape} and {noisy.shape}"
        )
    lost = clean.astype(jnp.float32) - noisy.astype(jnp.float32)
    return 100 * jnp.mean(lost, axis=(-2, -1))


def _classify_one(constants: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    logits_fn, images, labels, noises = constants
    index, correct = state
    predictions = jnp.argmax(logits_fn(images + noises[index]), axis=-1)
    return index + 1, correct.at[index].set(predictions == labels.astype(predictions.dtype))
