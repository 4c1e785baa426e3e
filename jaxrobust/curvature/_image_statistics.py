"""How input gradients look beside the image: saliency, agreement with edges, the part that all classes share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss

from ._derivatives import _check_images, input_gradient


def saliency(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Largest ``|d z_y / d x|`` over the channels at each pixel, ``z_y`` the logit of the label.

    Source: Simonyan et al., 2014. Cost: one forward and one backward pass.

    Args:
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, height, width, channels]``, floating point in [0, 1].
        labels: the class of each image whose logit is differentiated, integers ``[batch]``.

    Returns:
        ``[batch, height, width]``, per unit of pixel range.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for images of another shape.

    Example:
        >>> network = lambda images: images.reshape(len(images), -1) @ jnp.array([[1.0, 0.0], [-3.0, 1.0]])
        >>> saliency(network, jnp.zeros((1, 1, 1, 2)), jnp.array([0])).tolist()
        [[[3.0]]]
    """
    _check_shape(images)
    return jnp.abs(input_gradient(_logit, logits_fn, images, labels)).max(-1)


def gradient_map(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum over the channels of ``|d loss / d x|`` at each pixel, ``[batch, height, width]``.

    Arguments and errors as in :func:`input_gradient`, for images ``[batch, height, width, channels]``.
    """
    _check_shape(images)
    return jnp.abs(input_gradient(loss, logits_fn, images, labels)).sum(-1)


def log_correlation(first: jax.Array, second: jax.Array, *, clamp: float = 1e-3) -> jax.Array:
    """Pearson correlation over the pixels of each image between the logarithms of two maps.

    ``corr(log max(first, clamp), log max(second, tiny))``: with the edge energy first and :func:`saliency` or
    :func:`gradient_map` second, whether gradients look like edges. Without an active clamp it does not change when a map is
    scaled, or raised to a positive power. Source: Rodriguez Munoz, "Adversarial robustness without perturbations", MIT thesis,
    2024, section 5.1, where the edge energy is clamped from below at 1e-3.

    Args:
        first: maps ``[batch, ...]``, not negative, usually :func:`jaxrobust.edges.oriented_energy`.
        second: maps of the same shape. Exact zeros, which gradients have where a ReLU is dead, count as the smallest
            normal number of the dtype (1e-38 in float32): each is an outlier that says so.
        clamp: lower bound of ``first``.

    Returns:
        ``[batch]`` in [-1, 1]; NaN for an image where one of the logarithms is constant, for which no correlation exists:
        average with ``jnp.nanmean``.

    Raises:
        ValueError: for maps of different shapes, or a clamp that is not positive.

    Example:
        >>> maps = jnp.array([[1.0, 10.0, 100.0]])
        >>> log_correlation(maps, maps**-2).round(4).tolist()
        [-1.0]
    """
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(f"both maps must have the same shape [batch, ...], got {first.shape} and {second.shape}")
    if isinstance(clamp, (int, float)) and not clamp > 0:
        raise ValueError(f"clamp must be above 0, since its logarithm is taken; got {clamp}")
    u, v = (
        jnp.log(jnp.maximum(values, lowest)).reshape(values.shape[0], -1)
        for values, lowest in ((first, clamp), (second, jnp.finfo(second.dtype).tiny))
    )
    constant = (jnp.ptp(u, axis=1) == 0) | (jnp.ptp(v, axis=1) == 0)  # exactly, whatever the mean rounds to
    u, v = u - u.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
    return jnp.where(constant, jnp.nan, (u * v).sum(1) / jnp.sqrt((u**2).sum(1) * (v**2).sum(1)))


def common_mode_ratio(logits_fn: LogitsFn, images: jax.Array, classes: jax.Array) -> jax.Array:
    """``||grad mean_k z_k||_2 / ||grad z_t||_2``, how much of a class's logit gradient all classes share, ``[batch]``.

    Adding the same function of the image to all logits changes neither their softmax nor the loss nor its gradient, but can
    turn the gradients of all logits wherever it likes. A ratio near 1 says that this common mode is what a measure of
    logit gradients sees, :func:`saliency` or :func:`jaxrobust.losses.edge_alignment` for instance, and that it says little about
    the classifier. Logits with unrelated gradients of equal length have ``1 / sqrt(classes)``.

    Cost: one forward and two backward passes.

    Args:
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, ...]``, floating point in [0, 1].
        classes: class ``t`` of each image, integers ``[batch]``: its label, or the class that the alignment has drawn.

    Returns:
        ``[batch]``; infinite or NaN where the gradient of the class's logit is zero.

    Raises:
        TypeError: if the images are not floating point.

    Example:
        >>> network = lambda images: images @ jnp.array([[1.0, 1.0], [2.0, -2.0]])
        >>> common_mode_ratio(network, jnp.zeros((1, 2)), jnp.array([0])).round(4).tolist()  # [1, 0] and [1, 2]
        [0.4472]
    """
    _check_images(images)
    logits, pull_back = jax.vjp(logits_fn, images)
    one_hot = jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype)
    own, shared = (
        jnp.linalg.norm(pull_back(cotangents)[0].reshape(images.shape[0], -1), axis=1)
        for cotangents in (one_hot, jnp.full_like(logits, 1 / logits.shape[1]))
    )
    return shared / own


def _logit(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _check_shape(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must have shape [batch, height, width, channels], got {images.shape}")
