"""First and second derivatives of the loss with respect to the image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import convolves_slowly


def input_gradient(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Gradient of each example's loss with respect to its own image.

    ``g_n = d loss(logits_fn(x)_n, y_n) / d x_n``, obtained as the gradient of the sum over the batch. That is
    the per-example gradient only if examples do not influence each other: use batch normalisation with its
    running statistics.

    Cost: one forward and one backward pass.

    Args:
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network.
        images: ``[batch, height, width, channels]``, floating point in [0, 1]; derivatives are per unit of
            pixel range.
        labels: whatever the loss takes, usually class numbers ``[batch]``.

    Returns:
        Array with the shape and dtype of ``images``.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: if the loss does not return one value per example.

    Example:
        >>> import jax.numpy as jnp
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> images = jnp.array([[1.0, 2.0], [3.0, 0.0]])
        >>> network = lambda images: images @ jnp.array([[2.0], [1.0]])
        >>> input_gradient(squared, network, images, jnp.array([0.0, 5.0])).tolist()
        [[8.0, 4.0], [2.0, 1.0]]
    """
    return value_and_input_gradient(loss, logits_fn, images, labels).gradient


class InputGradient(NamedTuple):
    """What one forward and one backward pass give.

    Attributes:
        values: loss of each example, ``[batch]``.
        gradient: of each example's loss with respect to its image, shaped as the images.
        logits: ``[batch, classes]``.
    """

    values: jax.Array
    gradient: jax.Array
    logits: jax.Array


def value_and_input_gradient(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> InputGradient:
    """Loss, :func:`input_gradient` and logits at the cost of the gradient alone.

    Arguments and errors are those of :func:`input_gradient`.

    All three may be differentiated by parameters that ``logits_fn`` binds, which is double backpropagation for the
    gradient. On CPU, for networks with convolutions, the derivative is taken in another order, along a direction first
    (forward) and then by the parameters (reverse): the same numbers up to rounding, with an eighth more arithmetic,
    while XLA would be up to seven times slower where strides or even kernels are involved. There these functions have
    no forward derivative of their own (``jax.jvp``), while that of their gradient exists.
    """
    _check_images(images)

    def forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(images)
        return _checked(loss(logits, labels), images), logits

    if jax.default_backend() == "cpu" and convolves_slowly(jax.make_jaxpr(forward)(images)):
        return _differentiated_forward_first(forward, images)
    return _reverse(forward, images)


Forward = Callable[..., tuple[jax.Array, jax.Array]]
"""Images, and what else is differentiated, to values ``[batch]`` and logits."""


def _reverse(forward: Forward, images: jax.Array, *bound: jax.Array) -> InputGradient:
    def total(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        values, logits = forward(images, *bound)
        return values.sum(), (values, logits)

    gradient, (values, logits) = jax.grad(total, has_aux=True)(images)
    return InputGradient(values, gradient, logits)


def _differentiated_forward_first(forward: Forward, images: jax.Array) -> InputGradient:
    """As :func:`_reverse`. With ``c`` the cotangent of the gradient, its derivative is that of the slope along ``c``."""
    function, bound = jax.closure_convert(forward, images)
    plain = functools.partial(_reverse, function)
    derivatives = jax.custom_vjp(plain)

    def keep(*arguments: jax.Array) -> tuple[InputGradient, tuple[jax.Array, ...]]:
        return plain(*arguments), arguments

    def pull_back(arguments: tuple[jax.Array, ...], cotangents: InputGradient) -> tuple[jax.Array, ...]:
        def paired(images: jax.Array, *bound: jax.Array) -> jax.Array:
            (values, logits), (slopes, _) = jax.jvp(
                lambda images: function(images, *bound), (images,), (cotangents.gradient,)
            )
            return slopes.sum() + (cotangents.values * values).sum() + (cotangents.logits * logits).sum()

        return jax.grad(paired, tuple(range(len(arguments))))(*arguments)

    derivatives.defvjp(keep, pull_back)
    return derivatives(images, *bound)


def input_hvp(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, vectors: jax.Array) -> jax.Array:
    """Product of each example's input Hessian with a vector, ``H_n v_n`` with ``H_n = d^2 loss_n / d x_n^2``.

    Exact (forward over reverse: the derivative of the gradient along ``v``), no finite difference. For
    networks that are piecewise linear in their input (ReLU, max pooling) the Hessian exists almost everywhere
    and holds only the curvature of the loss: ``J^T (diag(p) - p p^T) J`` for cross-entropy, with ``J`` the
    Jacobian of the logits and ``p`` their softmax. The kinks have measure zero and do not appear; a finite
    difference of gradients steps across them and so measures something else.

    Cost: two forward and two backward passes (values and tangents), about two gradients. The gradient itself
    is computed on the way: see :func:`input_gradient_and_hvp`. For several vectors per image map over them:
    ``jax.vmap(lambda v: input_hvp(loss, logits_fn, images, labels, v))(vectors)``.

    Args:
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, height, width, channels]``, floating point in [0, 1].
        labels: whatever the loss takes, usually class numbers ``[batch]``.
        vectors: one vector per image, same shape and dtype as ``images``.

    Returns:
        Array with the shape and dtype of ``images``.

    Raises:
        TypeError: if the images are not floating point or the vectors have another dtype.
        ValueError: if the vectors have another shape or the loss does not return one value per example.

    Example:
        >>> import jax.numpy as jnp
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> network = lambda images: images @ jnp.array([[2.0], [1.0]])
        >>> images, vectors = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])
        >>> input_hvp(squared, network, images, jnp.array([0.0]), vectors).tolist()  # rank one: w (w . v)
        [[4.0, 2.0]]
    """
    return input_gradient_and_hvp(loss, logits_fn, images, labels, vectors)[1]


def input_gradient_and_hvp(
    loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array, vectors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The pair (:func:`input_gradient`, :func:`input_hvp`) at the cost of the second alone.

    Arguments and errors are those of :func:`input_hvp`.
    """
    _check_images(images)
    if vectors.shape != images.shape:
        raise ValueError(
            f"vectors must have the shape of the images, {images.shape}, got {vectors.shape}; "
            "map over several vectors per image with jax.vmap"
        )
    if vectors.dtype != images.dtype:
        raise TypeError(f"vectors must have the dtype of the images, {images.dtype}, got {vectors.dtype}")
    return jax.jvp(jax.grad(_total_loss(loss, logits_fn, labels)), (images,), (vectors,))


def _total_loss(loss: Loss, logits_fn: LogitsFn, labels: jax.Array) -> Callable[[jax.Array], jax.Array]:
    def total(images: jax.Array) -> jax.Array:
        return _checked(loss(logits_fn(images), labels), images).sum()

    return total


def _checked(values: jax.Array, images: jax.Array) -> jax.Array:
    if values.shape != images.shape[:1]:
        raise ValueError(
            f"the loss must return one value per example, shape {images.shape[:1]}, got shape "
            f"{values.shape}; pass the loss before any mean over the batch"
        )
    return values


def _check_images(images: jax.Array) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point in [0, 1], got dtype {images.dtype}; "
            "convert 8-bit images with images.astype('float32') / 255"
        )
