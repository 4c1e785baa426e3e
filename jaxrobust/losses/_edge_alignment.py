"""Alignment of input gradients with a map such as the image's edges."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.curvature import value_and_input_gradient
from jaxrobust.edges import oriented_energy
from jaxrobust.random import example_keys

from ._logits import cross_entropy, hard_labels

TargetClass = Literal["sampled", "label"]
GradientOf = Literal["logit", "loss"]
Reduction = Literal["batch", "example"]


def edge_alignment(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    target: jax.Array | None = None,
    *,
    temperature: float = 0.5,
    target_class: TargetClass = "sampled",
    gradient_of: GradientOf = "logit",
    signed: bool = True,
    reduction: Reduction = "batch",
) -> jax.Array:
    """How far input gradients are from a map: ``2 - 2 cos(gradient, map)``, one value per example, ``[batch]``.

    ``v_n = mean over pixels and channels of (g_n / rms(g) - E_n / rms(E))^2`` with ``g`` the gradient of one class's logit and
    ``E`` the map, by default the image's oriented energy, repeated for each channel. The root mean squares are those of the
    whole batch, so the mean of ``v`` is ``2 - 2 cos`` of the flattened batch, which is the published loss;
    ``reduction="example"`` takes them image by image, and every ``v_n`` is ``2 - 2 cos`` of its own image. Values of one image
    lie in [0, 4], and near 2 for a gradient that has nothing to do with the map. The norm of the gradient is free.

    Only the gradient is trained, by double backpropagation: the map and the choice of the class are constants. Where a gradient is
    zero, or a map (that of a constant image), it is left at zero instead of being normalised; all derivatives stay finite.

    **What a small value does not mean.** A function of the image that is added to all logits alike changes neither the
    classifier nor any attack on its loss, and yet can align every class's gradient with the map:
    see :func:`jaxrobust.curvature.common_mode_ratio`. In small experiments any map that is the same for all classes, a constant
    one too, makes networks as robust as edges do.

    Source: Rodriguez Munoz, "Adversarial robustness without perturbations", MIT thesis, 2024, eqs. (5.1) and (5.2), and its
    released code, where the total is ``cross-entropy + weight * this``, the weight ``min(1 + 0.09 epoch, 19)``.

    Where this departs from it:
        1. Gradient and edge map are those of the image in [0, 1], not of the normalised image. With one standard deviation for
           all channels that changes nothing; with one per channel, pass ``target``.

    Cost of the gradient for the parameters: 1 forward and 2 backward passes, 6 times the arithmetic of a forward pass.

    Args:
        key: for the sampled class: one key, or one per example.
        logits_fn: the network in evaluation mode: the input gradient of an example must not depend on the others.
        images: ``[batch, height, width, channels]`` in [0, 1], floating point.
        labels: integer classes ``[batch]``, or class probabilities ``[batch, classes]``; read for ``target_class="label"``,
            which takes the most probable class, and for ``gradient_of="loss"``.
        target: maps ``[batch, height, width]``, the same for every channel, or ``[batch, height, width, channels]``;
            :func:`jaxrobust.edges.oriented_energy` of the images by default.
        temperature: the class is drawn from ``softmax(logits / temperature)``; at 0.5 that is ``p_k^2 / sum_j p_j^2``.
        target_class: ``"sampled"`` as published, or ``"label"``.
        gradient_of: ``"logit"`` as published, or ``"loss"``, the cross-entropy with the labels, which is reported not to
            converge: its gradients for the classes, weighted by their probabilities, sum to zero, so they cannot all
            agree with one map. ``target_class`` does not matter then.
        signed: False compares the largest ``|gradient|`` over the channels with a map ``[batch, height, width]``: another
            method, which does not help.
        reduction: over what the root mean squares are taken: ``"batch"`` as published, or ``"example"``.

    Raises:
        TypeError: if the images or the map are not floating point.
        ValueError: for an unknown choice, a temperature that is not positive, or a map of another shape.

    Example:
        >>> network = lambda images: images.reshape(2, 4) @ jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> images, labels = jnp.zeros((2, 2, 2, 1)), jnp.array([0, 1])
        >>> maps = jnp.array([[[2.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])  # parallel, orthogonal
        >>> options = dict(target_class="label", reduction="example")
        >>> edge_alignment(jax.random.key(0), network, images, labels, maps, **options).round(4).tolist()
        [0.0, 2.0]
    """
    return alignment_and_logits(
        key,
        logits_fn,
        images,
        labels,
        target,
        temperature=temperature,
        target_class=target_class,
        gradient_of=gradient_of,
        signed=signed,
        reduction=reduction,
    )[0]


def alignment_and_logits(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    target: jax.Array | None = None,
    *,
    temperature: float = 0.5,
    target_class: TargetClass = "sampled",
    gradient_of: GradientOf = "logit",
    signed: bool = True,
    reduction: Reduction = "batch",
) -> tuple[jax.Array, jax.Array]:
    """:func:`edge_alignment` and the logits ``[batch, classes]`` of the same pass, for a loss that is added to it."""
    for name, value, choices in (
        ("target_class", target_class, get_args(TargetClass)),
        ("gradient_of", gradient_of, get_args(GradientOf)),
        ("reduction", reduction, get_args(Reduction)),
    ):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; for the label's class, target_class='label'")
    if target is None:
        target = oriented_energy(images)
    _check(images, target, signed)

    def class_logit(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if target_class == "label":
            classes = hard_labels(labels)
        else:
            keys = example_keys(key, images.shape[0])
            classes = jax.vmap(jax.random.categorical)(keys, jax.lax.stop_gradient(logits) / temperature)
        return (jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype) * logits).sum(-1)

    differentiated = cross_entropy if gradient_of == "loss" else class_logit
    _, gradient, logits = value_and_input_gradient(differentiated, logits_fn, images, labels)
    if not signed:
        gradient = (jax.lax.stop_gradient(jnp.sign(gradient)) * gradient).max(-1)  # derivative 0 at 0, unlike jnp.abs
    elif target.ndim == 3:
        target = jnp.broadcast_to(target[..., None], images.shape)

    own = tuple(range(1, gradient.ndim))
    axes = own if reduction == "example" else (0, *own)
    target = jax.lax.stop_gradient(target).astype(gradient.dtype)
    difference = _normalised(gradient, axes) - _normalised(target, axes)
    return jnp.square(difference).mean(own), logits


def _normalised(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Values over their root mean square along the axes; zeros stay zeros."""
    # The first division changes neither value nor derivative, but gradients of 1e-20 have no square in float32.
    peak = jax.lax.stop_gradient(jnp.abs(values).max(axes, keepdims=True))
    alive = peak >= jnp.finfo(values.dtype).tiny
    values = values / jnp.where(alive, peak, 1)
    return values / jnp.sqrt(jnp.where(alive, jnp.square(values).mean(axes, keepdims=True), 1))


def _check(images: jax.Array, target: jax.Array, signed: bool) -> None:
    for name, array in (("images", images), ("target", target)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got dtype {array.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape [batch, height, width, channels], got {images.shape}")
    shapes = [images.shape[:3], images.shape] if signed else [images.shape[:3]]
    if target.shape not in shapes:
        raise ValueError(
            f"target must hold one map per image, shape {' or '.join(map(str, shapes))}, got {target.shape}"
            + ("" if signed else "; with signed=False the channels of the gradient are reduced to one")
        )
