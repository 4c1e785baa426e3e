"""Networks small enough for tests, with variables that are not those of initialisation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import training

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(12, 2, 3, 1)), jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(1).integers(4, size=12), jnp.int32)
BATCH = {"images": IMAGES, "labels": LABELS}


class Network(nn.Module):
    """A hidden layer, with batch norm or dropout."""

    batch_norm: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(9)(images.reshape(len(images), -1))
        if self.batch_norm:
            with jax.numpy_dtype_promotion("standard"):
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(4)(x)


@functools.cache  # one function per network, so that compiled attacks are shared
def network(**options):
    """The module's ``apply`` function and variables; running statistics are those of no batch."""
    model = Network(**options)
    variables = dict(model.init(jax.random.key(0), IMAGES))
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    return training.linen_apply(model), variables


def value_and_gradient(objective, apply, variables, key, batch=BATCH):
    """``(value, aux), gradient`` by the parameters."""

    def value(params):
        return objective(apply, {**variables, "params": params}, key, batch)

    return jax.jit(jax.value_and_grad(value, has_aux=True))(variables["params"])


def assert_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"atol": 1e-6, **tolerance}), tree, other)
