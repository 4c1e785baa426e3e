"""How robust a row's networks are, each measure a cell on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrobust import Linf, attacks, data, evaluation

from . import computing
from .networks import Networks
from .rows import Row, Setting

PICTURES = 8
"""Test images whose gradients and perturbations are kept for figures."""
Cell = dict[str, Any]
Measure = Callable[[Networks, Setting, Row], Cell]


def accuracies(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Clean accuracy, accuracy under PGD (worst iterate) and mean l1 norm of the gradient on test images, by seed.

    Array ``robust`` ``[seeds, n]``: which images withstand PGD.
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.evaluated)
        attack = computing.pgd(setting.eps, setting.pgd_steps, setting.eps * setting.pgd_step, True)
        found: dict[str, list[float]] = {"clean": [], "pgd": [], "l1": []}
        robust = []
        for network in networks.members(setting, row):
            options: dict[str, Any] = {
                "batch_size": setting.evaluation_batch,
                "key": jax.random.key(computing.ATTACK_KEY),
            }
            robust.append(evaluation.correct(network, images, labels, attack=attack, **options))
            found["clean"].append(evaluation.accuracy(network, images, labels, **options))
            found["pgd"].append(100 * float(robust[-1].mean()))
            found["l1"].append(float(computing.norms(network, images, labels, setting).mean()))
        return {**found, "images": len(labels)}, {"robust": np.stack(robust)}

    return networks.run.cell(f"accuracy/{setting.name}/{row.name}", compute)


def auto_attack(networks: Networks, setting: Setting, row: Row) -> Cell:
    """AutoAttack (standard version), by radius in units of the setting's and judged seed: accuracies in per cent."""
    name = f"auto_attack/{setting.name}/{row.name}"

    def compute() -> Cell:
        images, labels = computing.test_images(networks, setting, setting.attacked)
        radii: dict[str, Cell] = {}
        for factor in row.radii:
            values: Cell = {"clean": [], "robust": [], "after": [], "warnings": []}
            for network, seed in zip(networks.members(setting, row), row.judged_seeds, strict=False):
                progress = networks.run.checkpoints(f"{name}/{factor:g}/{seed}")
                evaluate = attacks.auto_attack(
                    Linf(setting.eps * factor),
                    batch_size=setting.attack_batch,
                    # A minute of AutoAttack is cheaper done again than kept.
                    state=progress if len(labels) >= 1000 else None,
                    progress=False,
                )
                found = evaluate(jax.random.key(computing.ATTACK_KEY), network, images, labels)
                shutil.rmtree(progress, ignore_errors=True)
                values["clean"].append(found.clean_accuracy)
                values["robust"].append(found.robust_accuracy)
                values["after"].append(found.after)
                values["warnings"].append(list(found.warnings))
            radii[f"{factor:g}"] = values
        return {"radii": radii, "seeds": list(row.judged_seeds), "images": len(labels)}

    return networks.run.cell(name, compute)


def norms(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Per image and seed: l1 norm of the gradient, and whether it is correct under PGD-10 (table 4.1); pictures of the first.

    Arrays ``l1`` and ``robust`` ``[seeds, n]``; of the first network ``images``, ``gradients`` and ``perturbations``, and the
    ``labels``, of the first test images.
    """

    def compute() -> tuple[Cell, dict[str, np.ndarray]]:
        images, labels = computing.test_images(networks, setting, setting.evaluated)
        attack = computing.pgd(setting.eps, 10, setting.eps / 4, False)
        arrays: dict[str, list[np.ndarray]] = {"l1": [], "robust": []}
        pictures: dict[str, np.ndarray] = {}
        for network in networks.members(setting, row):
            key = jax.random.key(computing.ATTACK_KEY)
            options: dict[str, Any] = {"batch_size": setting.evaluation_batch, "key": key}
            arrays["l1"].append(computing.norms(network, images, labels, setting))
            arrays["robust"].append(evaluation.correct(network, images, labels, attack=attack, **options))
            if not pictures:
                first, targets = images[: setting.evaluation_batch], labels[: setting.evaluation_batch]
                adversarial = evaluation.map_batches(
                    lambda network, keys, images, labels: attack(keys, network, images, labels),
                    network,
                    first,
                    targets,
                    **options,
                )
                clean = data.to_float(np.asarray(first))
                pictures = {
                    "images": clean[:PICTURES],
                    "gradients": computing.mapped(computing.gradient, network, first, targets, setting)[:PICTURES],
                    "perturbations": (adversarial - clean)[:PICTURES],
                    "labels": targets[:PICTURES],
                }
        return {}, {**{name: np.stack(values) for name, values in arrays.items()}, **pictures}

    return networks.run.cell(f"norms/{setting.name}/{row.name}", compute)


def curve(networks: Networks, setting: Setting, row: Row) -> Cell:
    """Accuracy under PGD-100 by seed and radius (figure 4.1)."""

    def compute() -> Cell:
        images, labels = computing.test_images(networks, setting, setting.attacked)
        options: dict[str, Any] = {"batch_size": setting.attack_batch, "key": jax.random.key(computing.ATTACK_KEY)}
        values = []
        for network in networks.members(setting, row):
            found = [evaluation.accuracy(network, images, labels, **options)]
            for factor in setting.radii:
                attack = computing.pgd(setting.eps * factor, 100, setting.eps * factor / 4, False)
                found.append(evaluation.accuracy(network, images, labels, attack=attack, **options))
            values.append(found)
        return {"radii": [0.0, *(setting.eps * factor for factor in setting.radii)], "accuracy": values}

    return networks.run.cell(f"curve/{setting.name}/{row.name}", compute)


def masking(networks: Networks, setting: Setting, row: Row) -> Cell:
    """The gradient-masking battery on the first networks."""

    def compute() -> Cell:
        images, labels = computing.test_images(networks, setting, setting.attacked)
        found = []
        for network, _ in zip(networks.members(setting, row), range(setting.masking_seeds), strict=False):
            result = evaluation.gradient_masking(
                network,
                images,
                labels,
                Linf(setting.eps),
                key=jax.random.key(computing.ATTACK_KEY),
                batch_size=setting.attack_batch,
            )
            found.append(
                {
                    "accuracy": result.accuracy,
                    "passed": result.passed,
                    "tiny_gradients": result.tiny_gradients,
                    "confidence": result.confidence,
                    "warnings": list(result.warnings),
                }
            )
        return {"networks": found}

    return networks.run.cell(f"masking/{setting.name}/{row.name}", compute)


def confidence(networks: Networks, setting: Setting, row: Row) -> Cell:
    """On training images with their classes: median of ``1 - p_y`` and mean l1 norm, by seed."""

    def compute() -> Cell:
        dataset = networks.dataset(setting)
        images, labels = dataset.train_images, dataset.train_labels
        found: dict[str, list[float]] = {"doubt": [], "l1": []}
        for network in networks.members(setting, row):
            doubt = computing.mapped(computing.doubt, network, images, labels, setting)
            found["doubt"].append(float(np.median(doubt)))
            found["l1"].append(float(computing.norms(network, images, labels, setting).mean()))
        return dict(found)

    return networks.run.cell(f"confidence/{setting.name}/{row.name}", compute)
