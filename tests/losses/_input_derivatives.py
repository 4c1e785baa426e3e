"""Small problems whose gradients and Hessians by the image are known or can be written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.losses import _soar

SHAPE, CLASSES = (3, 2, 1), 4
FEATURES = 6


def parameters(seed=0, widths=(7,), features=FEATURES, classes=CLASSES, dtype=np.float64, scale=1.0):
    """Weights and biases of a perceptron."""
    rng = np.random.default_rng(seed)
    sizes = (features, *widths, classes)
    return [
        (
            jnp.asarray((scale * rng.normal(size=(n, m)) * np.sqrt(2 / n)).astype(dtype)),
            jnp.asarray((0.1 * rng.normal(size=m)).astype(dtype)),
        )
        for n, m in itertools.pairwise(sizes)
    ]


def network(params, images, activation=jnp.tanh):
    """Logits of the perceptron."""
    hidden = images.reshape(len(images), -1)
    for weights, biases in params[:-1]:
        hidden = activation(hidden @ weights + biases)
    weights, biases = params[-1]
    return hidden @ weights + biases


def examples(seed=0, size=3, shape=SHAPE, classes=CLASSES, dtype=np.float64):
    """Images and labels."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(size, *shape)).astype(dtype)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, classes, size), jnp.int32)


def explicit_derivatives(loss_of_image, images, *others):
    """Gradients ``[batch, d]`` and Hessians ``[batch, d, d]`` of ``loss_of_image(flat image, *rows of the others)``."""
    flat = images.reshape(len(images), -1)
    functions = jax.grad(loss_of_image), jax.hessian(loss_of_image)
    return [np.asarray(array) for array in jax.jit(jax.vmap(lambda *row: [f(*row) for f in functions]))(flat, *others)]


def augmented(gradient, hessian):
    """``[[A, g], [g^T, 1]]``, ``[d + 1, d + 1]``."""
    return np.block([[hessian, gradient[:, None]], [gradient[None], np.ones((1, 1))]])


def identity(images):
    """A network whose logits are the pixels."""
    return images.reshape(len(images), -1)


def quadratic(gradient, hessian):
    """A loss of the pixels with the given derivatives ``[d]`` or ``[batch, d]`` at the origin."""

    def loss(pixels, labels):
        del labels
        return (gradient * pixels).sum(-1) + ((hessian @ pixels[..., None])[..., 0] * pixels).sum(-1) / 2

    return loss


def squared(logits, labels):
    """Of a network with one output."""
    return (logits[:, 0] - labels) ** 2 / 2


def penalty(vectors, logits_fn, points, labels, threat, **options):
    """:func:`losses.soar_penalty` with random vectors of our own, ``[batch, d + 1]``."""
    original = _soar._vectors
    _soar._vectors = lambda keys, images: (vectors[:, :-1].reshape(images.shape), vectors[:, -1])
    try:
        return losses.soar_penalty(jax.random.key(0), logits_fn, points, labels, threat, **options)
    finally:
        _soar._vectors = original


def tree_dot(tree, other):
    """Inner product of two trees of arrays."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), tree, other)))
