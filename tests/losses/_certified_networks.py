"""What the tests of certified losses share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from _input_derivatives import examples, network, parameters

IMAGES, LABELS = examples(2, 4, shape=(2, 3, 1), dtype=np.float32)


def relu_network(params):
    """The perceptron with ReLU, its parameters bound as arrays."""
    return functools.partial(network, params, activation=jax.nn.relu)


def problem(widths=(5,), seed=0):
    """Parameters, images and labels in double precision."""
    params = parameters(seed, widths)
    return params, jnp.asarray(IMAGES, jnp.float64), LABELS


def random_direction(params):
    """A direction in which derivatives are compared."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(9)
    return jax.tree.unflatten(treedef, [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves])


def slopes(run, params, h=1e-6):
    """Derivative along a random direction of what ``run`` returns value and gradient of: by gradient and by differences."""
    direction = random_direction(params)
    moved = [run(jax.tree.map(lambda a, b, s=s: a + s * b, params, direction))[0] for s in (h, -h)]
    gradient = run(params)[1]
    along = sum((a * b).sum() for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    return float(along), float((moved[0] - moved[1]) / (2 * h))
