"""Accuracy against the radius of the threat model, from one run of a minimum-norm attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.attacks import LogitsFn
from jaxrobust.attacks._minimum_norm import MinimumNormAttack
from jaxrobust.batching import check_classes, check_images

from ._batched import map_batches


@dataclass(frozen=True)
class RobustnessCurve:
    """Robust accuracy as a function of the radius.

    Attributes:
        radii: ``[k]``, in the units of the images and the norm of the attack's threat model.
        accuracy: ``[k]``, robust accuracy at each radius in per cent.
        distances: ``[n]``, distance of the nearest adversarial image found for each example: 0 where the clean image is
            misclassified, infinite where none was found.
    """

    radii: np.ndarray
    accuracy: np.ndarray
    distances: np.ndarray

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on clean images, in per cent."""
        return 100.0 * float((self.distances > 0).mean())

    @property
    def median_distance(self) -> float:
        """Median of the distances, misclassified examples included as 0; infinite where half withstood the attack."""
        return float(np.median(self.distances))

    def accuracy_at(self, radii: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Robust accuracy in per cent at any radii, in their shape."""
        # In the precision of the distances, in which an attack with such a radius compares them.
        radii = np.asarray(radii, self.distances.dtype)
        within = np.searchsorted(np.sort(self.distances), radii, side="right")
        return 100.0 * (1 - within / len(self.distances))


def robustness_curve(
    attack: MinimumNormAttack,
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    radii: Sequence[float] | np.ndarray | None = None,
    batch_size: int = 500,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mesh: Mesh | None = None,
) -> RobustnessCurve:
    """Accuracy against radius from one run of a minimum-norm attack.

    Robust accuracy at radius ``eps`` is the share of examples whose distance to the nearest adversarial image found is
    larger than ``eps``. A misclassified example has distance 0 and is robust at no radius. At the attack's own radius it
    is the accuracy that :func:`accuracy` returns for the attack.

    Args:
        attack: an attack with the method ``minimum_norm``; its radius plays no part.
        logits_fn: the network, see :mod:`jaxrobust.attacks`.
        images: ``[n, ...]``, uint8 or floating point within ``bounds``.
        labels: ``[n]``.
        key: random key. Example ``i`` uses ``fold_in(key, i)``.
        radii: where the curve is evaluated; by default 0 and every distance at which the accuracy falls.
        batch_size: images per compiled batch.
        bounds: range that the pixels are checked against.
        mesh: devices to use, all by default.

    Raises:
        TypeError: for an attack that works at one radius only.
        ValueError: for negative or non-finite radii, pixels out of range, or labels above the number of classes.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxrobust import L2
        >>> from jaxrobust.attacks._minimum_norm import MinimumNormAttack
        >>> def search(threat, key, logits_fn, images, labels):  # one coordinate is compared with one half
        ...     return jnp.where(images > 0.5, 0.5, 0.6), jnp.full(len(images), True)
        >>> logits_fn = lambda images: jnp.concatenate([images, 1 - images], axis=1)
        >>> images = np.array([[0.6], [0.8], [0.9]], np.float32)
        >>> attack = MinimumNormAttack(L2(0.2), search)
        >>> curve = robustness_curve(attack, logits_fn, images, np.zeros(3, int), key=jax.random.key(0), radii=[0, 0.2, 1])
        >>> curve.accuracy.round(1).tolist(), round(curve.median_distance, 2)
        ([100.0, 66.7, 0.0], 0.3)
    """
    if not callable(getattr(attack, "minimum_norm", None)):
        raise TypeError(
            f"a robustness curve needs a minimum-norm attack, one with a method minimum_norm such as fab, deepfool or "
            f"hop_skip_jump make, got {type(attack).__name__}; for an attack inside a ball use "
            "accuracy(attack=...) with one attack for each radius"
        )
    radii = None if radii is None else np.asarray(radii, np.float64)
    if radii is not None and not (radii.ndim == 1 and np.all(np.isfinite(radii) & (radii >= 0))):
        raise ValueError(f"radii must be a sequence of finite numbers of at least 0, got {radii}")
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images, bounds)
    check_classes(logits_fn, images[:batch_size], labels)

    def run(logits_fn: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        return attack.minimum_norm(keys, logits_fn, images, labels).distances

    distances = map_batches(run, logits_fn, images, labels, key=key, batch_size=batch_size, mesh=mesh)
    if radii is None:
        radii = np.unique(np.append(distances[np.isfinite(distances)], 0).astype(distances.dtype))
    curve = RobustnessCurve(radii, np.empty(0), distances)
    return RobustnessCurve(radii, curve.accuracy_at(radii), distances)
