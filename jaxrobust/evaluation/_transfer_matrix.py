"""How often images made against one network fool another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.attacks import Attack, LogitsFn
from jaxrobust.batching import check_classes, check_images

from ._accuracy import correct
from ._batched import map_batches

Qualification = Literal["and", "legacy"]


class TransferMatrix(NamedTuple):
    """Error rates of targets on images made against sources.

    Attributes:
        error: ``[sources, targets]``, per cent of the qualified images that the target misclassifies; NaN for none.
        qualified: ``[sources, targets]``, how many images qualified.
        sources: names of the rows.
        targets: names of the columns.
    """

    error: np.ndarray
    qualified: np.ndarray
    sources: tuple[str, ...]
    targets: tuple[str, ...]


def transfer_matrix(
    sources: Mapping[str, LogitsFn],
    targets: Mapping[str, LogitsFn],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    attack: Attack,
    key: jax.Array,
    qualified: Qualification | None = "and",
    limit: int | None = None,
    batch_size: int = 500,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mesh: Mesh | None = None,
) -> TransferMatrix:
    """Error rate of every target on adversarial images of every source, over qualified images.

    An image qualifies for a pair if source and target classify it correctly and the attack on each fools that one
    (model-alignment study, sections 2.9 and 3.2). The attack runs once on every network.

    Args:
        sources: name to network that the images are made against.
        targets: name to network that they are tried on. A network under the same name in both is attacked once.
        images: ``[n, ...]``, uint8 or floating point within ``bounds``.
        labels: ``[n]``.
        attack: the attack.
        key: random key, the same for all networks; example ``i`` uses ``fold_in(key, i)``.
        qualified: ``"and"``: the four conditions, as described. ``"legacy"``: images for which an even number of them is
            true, as the study's own program has it, for comparison with its tables; it counts images that both networks
            misclassify as transferred. ``None``: all images.
        limit: only the first so many qualified images of a pair.
        batch_size: images per compiled batch.
        bounds: range that the pixels are checked against.
        mesh: devices to use, all by default.

    Raises:
        ValueError: for no sources or targets, a name of two networks, or an unknown qualification.
    """
    if not sources or not targets:
        raise ValueError("transfer_matrix needs at least one source and one target")
    if qualified not in ("and", "legacy", None):
        raise ValueError(f"qualified must be 'and', 'legacy' or None, got {qualified!r}")
    for name in sources.keys() & targets.keys():
        if sources[name] is not targets[name]:
            raise ValueError(f"{name!r} names one network among the sources and another among the targets")
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images, bounds)
    networks = {**targets, **sources}
    clean: dict[str, np.ndarray] = {}
    adversarial: dict[str, np.ndarray] = {}
    for name, logits_fn in networks.items():
        check_classes(logits_fn, images[:2], labels)
        clean[name] = correct(logits_fn, images, labels, batch_size=batch_size, bounds=bounds, mesh=mesh)
        if name in sources or qualified is not None:
            adversarial[name] = map_batches(
                lambda logits_fn, keys, images, labels: attack(keys, logits_fn, images, labels),
                logits_fn,
                images,
                labels,
                key=key,
                batch_size=batch_size,
                mesh=mesh,
            )

    def right(target: str, source: str) -> np.ndarray:
        """Whether the target classifies the images made against the source correctly, ``[n]``."""
        made = adversarial[source]
        return correct(networks[target], made, labels, batch_size=batch_size, bounds=bounds, mesh=mesh)

    own = {name: ~right(name, name) for name in adversarial}
    error = np.full((len(sources), len(targets)), np.nan)
    counts = np.zeros((len(sources), len(targets)), np.int64)
    for row, source in enumerate(sources):
        for column, target in enumerate(targets):
            chosen: np.ndarray = np.ones(len(labels), bool)
            if qualified is not None:
                flags = np.stack([clean[source], clean[target], own[source], own[target]])
                chosen = np.asarray(flags.all(0) if qualified == "and" else flags.sum(0) % 2 == 0)
            index = np.flatnonzero(chosen)[:limit]
            counts[row, column] = len(index)
            if len(index):
                error[row, column] = 100 * float((~right(target, source)[index]).mean())
    return TransferMatrix(error, counts, tuple(sources), tuple(targets))
