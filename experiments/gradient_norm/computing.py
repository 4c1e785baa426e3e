"""Images, attacks and compiled functions that the measures share."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import Linf, attacks, curvature, evaluation, losses
from jaxrobust.attacks import LogitsFn

from .networks import Networks
from .rows import Setting

ATTACK_KEY, STATISTICS_KEY = 1, 2
"""Seeds of the random numbers of attacks and of everything else that is measured."""


@jax.jit
def gradient(network: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Gradient of the cross-entropy, shaped as the images."""
    return curvature.input_gradient(losses.cross_entropy, network, images, labels)


@jax.jit
def l1_norm(network: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Its l1 norm, ``[batch]``."""
    return Linf(1.0).dual_norm(curvature.input_gradient(losses.cross_entropy, network, images, labels))


@jax.jit
def l2_norm(network: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Its Euclidean norm, ``[batch]``."""
    gradient = curvature.input_gradient(losses.cross_entropy, network, images, labels)
    return jnp.linalg.norm(gradient.reshape(len(gradient), -1), axis=1)


@jax.jit
def doubt(network: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """``1 - p_y``, ``[batch]``."""
    probabilities = jax.nn.softmax(network(images))
    return 1 - jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]


@functools.cache  # one attack object for all networks, so that compiled steps are shared
def pgd(eps: float, steps: int, step_size: float, keep_best: bool) -> attacks.Attack:
    """PGD on cross-entropy from a random start, in pixels."""
    return attacks.pgd(Linf(eps), steps=steps, step_size=step_size, keep_best=keep_best)


def test_images(networks: Networks, setting: Setting, count: int | None) -> tuple[Any, np.ndarray]:
    """The first test images, all by default."""
    dataset = networks.dataset(setting)
    return dataset.test_images[:count], dataset.test_labels[:count]


def norms(network: LogitsFn, images: Any, labels: np.ndarray, setting: Setting) -> np.ndarray:
    """l1 norm of each image's gradient, ``[n]``."""
    return mapped(l1_norm, network, images, labels, setting)


def mapped(function: Any, network: LogitsFn, images: Any, labels: np.ndarray, setting: Setting) -> Any:
    """A function without random numbers over many images."""
    return evaluation.map_batches(
        lambda network, keys, images, labels: function(network, images, labels),
        network,
        images,
        labels,
        key=jax.random.key(STATISTICS_KEY),
        batch_size=setting.evaluation_batch,
    )
