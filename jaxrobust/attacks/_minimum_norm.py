"""Attacks that look for the nearest adversarial image instead of one inside a given ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import per_example

from ._types import check_inputs


class MinimumNorm(NamedTuple):
    """What a minimum-norm attack found.

    Attributes:
        images: ``[batch, ...]``, the nearest adversarial image found; the clean image where there is none.
        distances: ``[batch]``, norm of ``images - clean`` in the threat model's norm: 0 where the clean image is
            misclassified, infinite where nothing was found.
        success: ``[batch]`` bool, whether an adversarial image was found, at whatever distance.
    """

    images: jax.Array
    distances: jax.Array
    success: jax.Array


Search = Callable[[ThreatModel, jax.Array, LogitsFn, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""``(threat, key, logits_fn, images, labels) -> (candidates, success [batch])``; of the threat model it uses norm and box."""


class MinimumNormAttack:
    """An attack in two forms.

    Called like every attack it returns, per example, the adversarial image found within the threat model's radius, and
    the clean image where there is none. :meth:`minimum_norm` returns the nearest adversarial image at any distance, from
    which :func:`jaxrobust.evaluation.robustness_curve` makes accuracy against radius in one run.
    """

    def __init__(self, threat: ThreatModel, search: Search) -> None:
        self.threat, self._search = threat, search

    def __call__(self, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Adversarial images within the radius, clean ones elsewhere: ``[batch, ...]``."""
        images = jnp.asarray(images)
        found = self.minimum_norm(key, logits_fn, images, labels)
        return _within(self.threat.eps, images, found)

    def minimum_norm(self, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> MinimumNorm:
        """The nearest adversarial images found, with their distances."""
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        return _measure(self.threat, images, *self._search(self.threat, key, logits_fn, images, labels))


@jax.jit
def _measure(threat: Any, images: jax.Array, candidates: jax.Array, success: jax.Array) -> MinimumNorm:
    distances = jnp.where(success, threat.norm(candidates - images), jnp.inf)
    return MinimumNorm(jnp.where(per_example(success, images), candidates, images), distances, success)


@jax.jit
def _within(eps: Any, images: jax.Array, found: MinimumNorm) -> jax.Array:
    return jnp.where(per_example(found.distances <= eps, images), found.images, images)
