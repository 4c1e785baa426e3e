"""Random perturbations with the interface of an attack."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.random import example_keys
from jaxrobust.threat import ThreatModel

from ._types import Attack, LogitsFn, check_inputs


def gaussian_noise(variance: float, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Attack:
    """Independent Gaussian noise on every pixel and channel, clipped to ``bounds``.

    The parameter is the **variance**, not the standard deviation, in squared pixel units of [0, 1]
    (optimizer-robustness study, section 4.1). ``bounds=None`` leaves the noisy images unclipped.

    Raises:
        ValueError: for a negative variance.
    """
    if isinstance(variance, (int, float, np.number)) and not variance >= 0:
        raise ValueError(f"variance must be at least 0, got {variance}")

    @jax.jit
    def perturb(keys: jax.Array, images: jax.Array) -> jax.Array:
        draw = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))
        noisy = images + jnp.sqrt(jnp.asarray(variance, images.dtype)) * draw(keys)
        return noisy if bounds is None else jnp.clip(noisy, *bounds)

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        del logits_fn
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        return perturb(example_keys(key, images.shape[0]), images)

    return attack


def uniform_noise(threat: ThreatModel) -> Attack:
    """A uniform draw from the threat model's ball, kept within its bounds: the random start of :func:`pgd`."""

    @jax.jit
    def perturb(keys: jax.Array, images: jax.Array) -> jax.Array:
        return threat.clip(images + threat.sample(keys, images))

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        del logits_fn
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        return perturb(example_keys(key, images.shape[0]), images)

    return attack
