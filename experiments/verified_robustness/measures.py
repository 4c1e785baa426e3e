"""What is measured on a row's networks, each measure a cell on disk."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import L2, Linf, attacks, certify, evaluation
from jaxrobust.attacks import LogitsFn

from .networks import Networks
from .published import PRECISION
from .recipes import threat
from .rows import Row, Setting

PGD_STEPS = 40
"""Of the attack in evaluation; each is a tenth of the radius."""
CURVE_IMAGES, CURVE_POINTS = 10, 60
"""Of figure 3.6: correctly classified test images, the first ones, and radii."""
Cell = dict[str, Any]
Measure = Callable[[Networks, Setting, Row], Cell]


def errors(networks: Networks, setting: Setting, row: Row) -> Cell:
    """What attacks break and bounds prove, of every test image: arrays ``[seeds, n]``.

    ``clean`` and ``pgd``: classified correctly, as it is and under PGD; ``linear`` and ``interval``: certified by the setting's linear
    bounds and by IBP; ``radius``: certified by the envelope of Fast-Lin's half-spaces (PEC).
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = networks.test(setting)
        within, attack = threat(setting), _pgd(threat(setting), setting.restarts)
        options: dict[str, Any] = {"key": jax.random.key(1), "batch_size": setting.batch}

        def bounds(network: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            arguments = network, images, labels, within
            return {
                "linear": certify.certified(*arguments, method=setting.linear),
                "interval": certify.certified(*arguments, method="interval"),
                "radius": certify.radius(*arguments, method="envelope"),
            }

        found = [
            {
                "clean": evaluation.correct(network, images, labels, batch_size=setting.batch),
                "pgd": evaluation.correct(network, images, labels, attack=attack, **options),
                **evaluation.map_batches(bounds, network, images, labels, **options),
            }
            for network in networks.members(setting, row)
        ]
        return {}, {name: np.stack([one[name] for one in found]) for name in found[0]}

    return networks.run.cell(f"errors/{setting.name}/{row.name}", compute)


def exact(networks: Networks, setting: Setting, row: Row, workers: int | None = 1) -> Cell:
    """What mixed-integer programs say of the test images that neither PGD nor bounds decide: arrays ``[seeds, n]``.

    ``status``: see :class:`jaxrobust.certify.ExactStatus`; ``undecided``: whether there was anything to find out; ``binaries``: units that
    may switch.
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = networks.test(setting, setting.exact_images)
        count, known = len(labels), errors(networks, setting, row)["arrays"]
        found: dict[str, list[np.ndarray]] = {"status": [], "undecided": [], "binaries": []}
        for seed, network in enumerate(networks.members(setting, row)):
            survives = known["pgd"][seed, :count]
            certified = (known["linear"] | known["interval"])[seed, :count]
            undecided = survives & ~certified
            status = np.where(survives, certify.ExactStatus.VERIFIED, certify.ExactStatus.FALSIFIED).astype(np.int64)
            binaries = np.zeros(count, np.int64)
            if undecided.any():
                result = certify.exact(
                    network,
                    jnp.asarray(images[undecided]),
                    jnp.asarray(labels[undecided]),
                    threat(setting),
                    method=("fast-lin", "crown"),
                    time_limit=setting.exact_seconds,
                    workers=workers,
                    progress=False,
                )
                status[undecided], binaries[undecided] = result.status, result.binaries
            for name, values in zip(found, (status, undecided, binaries), strict=True):
                found[name].append(values)
        return {"seconds": setting.exact_seconds}, {name: np.stack(values) for name, values in found.items()}

    return networks.run.cell(f"exact/{setting.name}/{row.name}", compute)


def search(networks: Networks, setting: Setting, row: Row) -> Cell:
    """The largest certified radius by Algorithm 3.5 and by binary search: arrays ``[seeds, n]``.

    ``envelope`` and ``binary`` are radii, ``envelope_evaluations`` and ``binary_evaluations`` how many bounds it took.
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = networks.test(setting, setting.search_images)
        within = dataclasses.replace(threat(setting), eps=setting.search_to)

        def search(network: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            arrays: dict[str, jax.Array] = {}
            for name, method in (("envelope", "envelope"), ("binary", "fast-lin")):
                found = certify.search_radius(network, images, labels, within, method=method, precision=PRECISION)
                arrays |= {name: found.radius, f"{name}_evaluations": found.evaluations}
            return arrays

        found = [
            evaluation.map_batches(
                search, network, images, labels, key=jax.random.key(0), batch_size=min(setting.batch, len(labels))
            )
            for network in networks.members(setting, row)
        ]
        return {}, {name: np.stack([one[name] for one in found]) for name in found[0]}

    return networks.run.cell(f"search/{setting.name}/{row.name}", compute)


def curve(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Certified radius by the radius that bounds are made for (figure 3.6), first network.

    Arrays ``eps`` ``[points]``, and of the first correctly classified test images ``envelope`` and ``linear`` ``[images, points]``.
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = networks.test(setting)
        right = errors(networks, setting, row)["arrays"]["clean"][0]
        network = next(iter(networks.members(setting, row)))
        eps = np.linspace(0, setting.search_to or 4 * setting.eps, CURVE_POINTS + 1, dtype=np.float32)[1:]
        within = dataclasses.replace(threat(setting), eps=jnp.asarray(eps))
        found: dict[str, list[np.ndarray]] = {"envelope": [], "linear": []}
        for index in np.flatnonzero(right)[:CURVE_IMAGES]:
            image = jnp.broadcast_to(jnp.asarray(images[index]), (len(eps), *images.shape[1:]))
            label = jnp.full(len(eps), labels[index], jnp.int32)
            for name, method in (("envelope", "envelope"), ("linear", "fast-lin")):
                found[name].append(np.asarray(certify.radius(network, image, label, within, method=method)))
        arrays = {name: np.reshape(values, (-1, len(eps))) for name, values in found.items()}  # also of no image
        return {}, {"eps": eps, **arrays}

    return networks.run.cell(f"curve/{setting.name}/{row.name}", compute)


def agreement(networks: Networks, setting: Setting, row: Row) -> Cell:
    """The largest difference between the half-spaces of L-PER and of I-PER, relative to the largest entry, by seed."""

    def compute() -> Cell:
        images, labels = (jnp.asarray(array) for array in networks.test(setting, setting.batch))
        differences = []
        for network in networks.members(setting, row):
            ours, theirs = (
                certify.half_spaces(network, images, labels, threat(setting), method=method)
                for method in ("fast-lin", "fast-lin-interval")
            )
            scales = [float(jnp.abs(array).max()) for array in ours]
            gaps = [float(jnp.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]
            differences.append(max(gap / scale for gap, scale in zip(gaps, scales, strict=True)))
        return {"difference": differences}

    return networks.run.cell(f"agreement/{setting.name}/{row.name}", compute)


@functools.cache  # one attack object for all networks, so that compiled steps are shared
def _pgd(threat: Linf | L2, restarts: int) -> attacks.Attack:
    return attacks.pgd(threat, steps=PGD_STEPS, step_size=threat.eps / 10, restarts=restarts)
