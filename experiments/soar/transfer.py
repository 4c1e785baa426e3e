"""Images made against undefended networks of other seeds, to be tried on the study's own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jaxrobust import L2, Linf, attacks, evaluation

from .networks import Networks
from .presets import Setting

SURROGATES = {"r": "surrogate_r", "w": "surrogate_w"}
STEPS = (20, 1000)


def transferred(networks: Networks, setting: Setting, index: int) -> dict[str, np.ndarray]:
    """Column to the images made against the surrogates of one seed, ``[images, height, width, channels]``.

    PGD of 20 steps against networks R and W (``pgd20_r``, ``pgd20_w``) on as many images as the cheap columns have; of 1000
    steps, and l2 PGD of 100 against R (``l2_r``), on as many as the others.
    """
    found = {}
    for letter in SURROGATES:
        for steps in STEPS:
            found[f"pgd{steps}_{letter}"] = _made(networks, setting, index, letter, steps)
    found["l2_r"] = _made(networks, setting, index, "r", None)
    return found


def _made(networks: Networks, setting: Setting, index: int, letter: str, steps: int | None) -> np.ndarray:
    """The cell of one surrogate and attack; without ``steps`` the l2 attack."""
    name = f"transfer/{setting.name}/{letter}_{steps or 'l2'}/{index}"

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        attack = _attack(setting, steps)
        surrogate = list(networks.logits_fns(setting, setting.row(SURROGATES[letter])))[index]
        images, labels = networks.test(setting, setting.tested if steps == STEPS[0] else setting.attacked)

        def make(logits_fn: attacks.LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
            return attack(keys, logits_fn, images, labels)

        size = min(setting.evaluation_batch, len(labels))
        made = evaluation.map_batches(make, surrogate, images, labels, key=jax.random.key(1), batch_size=size)
        return {}, {"images": made}

    images: np.ndarray = networks.run.cell(name, compute)["arrays"]["images"]
    return images


@functools.cache  # one object for all seeds, so that nothing is compiled again
def _attack(setting: Setting, steps: int | None) -> attacks.Attack:
    if steps is None:
        return attacks.pgd(L2(setting.l2_radii[-1]), steps=100)
    return attacks.pgd(Linf(setting.eps), steps=steps, step_size=setting.step_size)
