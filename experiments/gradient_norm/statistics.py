"""What the input gradients of a row's networks are like, each measure a cell on disk."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxrobust import Linf, curvature, evaluation, losses
from jaxrobust.attacks import LogitsFn

from . import computing
from .measures import Cell
from .networks import Networks
from .recipes import edge_maps
from .rows import Row, Setting


def geometry(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Tables A.1 and A.2: arrays ``l2``, ``hessian``, ``curvature`` ``[seeds, n]`` and ``linearity`` ``[seeds, m]``."""

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.geometry_images)
        more, more_labels = computing.test_images(networks, setting, setting.linearity_images)
        threat = Linf(setting.eps)
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("l2", "hessian", "curvature", "linearity")}

        def sizes(network: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
            hessian = curvature.hessian_spectral_norm(keys, losses.cross_entropy, network, images, labels)
            l2 = computing.l2_norm(network, images, labels)
            # As curvature.normalized_curvature, without iterating twice.
            return l2, hessian, hessian / (l2 + 1e-6)

        def error(network: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
            return curvature.local_linearity_error(keys, losses.cross_entropy, network, images, labels, threat)

        options: dict[str, Any] = {
            "key": jax.random.key(computing.STATISTICS_KEY),
            "batch_size": setting.evaluation_batch,
        }
        for network in networks.members(setting, row):
            values = evaluation.map_batches(sizes, network, images, labels, **options)
            for name, value in zip(("l2", "hessian", "curvature"), values, strict=True):
                found[name].append(value)
            found["linearity"].append(evaluation.map_batches(error, network, more, more_labels, **options))
        return {}, {name: np.stack(values) for name, values in found.items()}

    return networks.run.cell(f"geometry/{setting.name}/{row.name}", compute)


def profile(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Figure A.3: means over images of loss, l1 norm and curvature along PGD-5, arrays ``[seeds, points]``."""

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.profile_images)
        threat, attack = Linf(setting.eps), computing.pgd(setting.eps, 5, setting.eps / 2, False)

        def along(network: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
            adversarial = attack(keys, network, images, labels)
            found = curvature.attack_profile(losses.cross_entropy, network, images, labels, adversarial, threat)
            return found.loss, found.gradient_norm, found.curvature

        values = [
            evaluation.map_batches(
                along,
                network,
                images,
                labels,
                key=jax.random.key(computing.ATTACK_KEY),
                batch_size=setting.evaluation_batch,
            )
            for network in networks.members(setting, row)
        ]
        names = ("loss", "l1", "curvature")
        arrays = {name: np.stack([value[i].mean(0) for value in values]) for i, name in enumerate(names)}
        return {"positions": (2 * setting.eps * np.linspace(0, 1, arrays["loss"].shape[1])).tolist()}, arrays

    return networks.run.cell(f"profile/{setting.name}/{row.name}", compute)


def edge_agreement(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Table 5.1: correlations with edges and share of the common mode, ``[seeds, n]``; maps of the first images."""

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.edge_images)
        energy = edge_maps(setting)

        @jax.jit
        def maps(network: LogitsFn, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
            edges = energy(images)
            saliency = curvature.saliency(network, images, labels)
            gradient = curvature.gradient_map(losses.cross_entropy, network, images, labels)
            ratio = curvature.common_mode_ratio(network, images, labels)
            correlations = (curvature.log_correlation(edges, found) for found in (saliency, gradient))
            return *correlations, ratio, edges, saliency

        kept: dict[str, np.ndarray] = {}
        found: dict[str, list[np.ndarray]] = {"saliency": [], "gradient": [], "common": []}
        for network in networks.members(setting, row):
            *values, edges, saliency = computing.mapped(maps, network, images, labels, setting)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
            if not kept:
                kept = {"edge_maps": edges[:64], "saliency_maps": saliency[:64]}
                kept = kept if edges[0].size < 10_000 else {name: maps[:4] for name, maps in kept.items()}
        return {}, {**{name: np.stack(values) for name, values in found.items()}, **kept}

    return networks.run.cell(f"edge_agreement/{setting.name}/{row.name}", compute)


def channels(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Figure 4.4: sizes of gradients by colour channel, the first network; row 0 is all channels together."""

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.channel_images)
        network = next(iter(networks.members(setting, row)))
        gradients = computing.mapped(computing.gradient, network, images, labels, setting)
        found = curvature.channel_gradient_statistics(gradients, log10_edges=np.linspace(-14, 2, 97))
        assert found.histogram is not None
        return {}, found._asdict()

    return networks.run.cell(f"channels/{setting.name}/{row.name}", compute)
