"""Random perturbations with the interface of an attack."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.random import example_keys, normal
from jaxrobust.threat import ThreatModel

from ._types import Attack, check_inputs


def gaussian_noise(variance: float, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Attack:
    """Independent Gaussian noise on every pixel and channel, clipped to ``bounds``.

    The parameter is the **variance**, not the standard deviation, in squared pixel units of [0, 1]
    (optimizer-robustness study, section 4.1). ``bounds=None`` leaves the noisy images unclipped.

    Raises:
        ValueError: for a negative variance.
    """
    if isinstance(variance, (int, float, np.number)) and not variance >= 0:
        raise ValueError(f"variance must be at least 0, got {variance}")

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        del logits_fn
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        return _add_gaussian(example_keys(key, images.shape[0]), images, jnp.asarray(variance, images.dtype), bounds)

    return attack


@partial(jax.jit, static_argnums=3)
def _add_gaussian(
    keys: jax.Array, images: jax.Array, variance: jax.Array, bounds: tuple[float, float] | None
) -> jax.Array:
    # Compiled once for all variances, and so apart from the attack object.
    noise = jax.vmap(lambda key: normal(key, images.shape[1:], images.dtype))(keys)
    noisy = images + jnp.sqrt(variance) * noise
    return noisy if bounds is None else jnp.clip(noisy, *bounds)


def uniform_noise(threat: ThreatModel) -> Attack:
    """A uniform draw from the threat model's ball, kept within its bounds: the random start of :func:`pgd`."""

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        del logits_fn
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        return _add_uniform(threat, example_keys(key, images.shape[0]), images)

    return attack


@jax.jit
def _add_uniform(threat: ThreatModel, keys: jax.Array, images: jax.Array) -> jax.Array:
    return threat.clip(images + threat.sample(keys, images))
