"""The inner maximisation of TRADES (Zhang et al., 2019): PGD on the divergence from the clean prediction.

Departures from the published code:

1. A Gaussian start is brought into ball and box at once; there its pixels may lie outside the box by some thousandths
   until the first step is projected.
2. In l2 each step is scaled into the ball and then clipped to the box, as by every attack here; there first clipped and
   then scaled. Both results lie in both sets.
3. In l2 an example whose gradient is zero stands still; there it takes a step in a random direction.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax

from jaxrobust import losses
from jaxrobust.iteration import Mode
from jaxrobust.random import normal
from jaxrobust.threat import ThreatModel

from ._gradients import plain
from ._loop import misclassified, search
from ._pgd import _step_size
from ._types import Attack
from ._updates import steepest_ascent

StartName = Literal["uniform", "gaussian"]
GAUSSIAN_DEVIATION = 0.001
"""Standard deviation of the Gaussian start, per pixel."""


def trades_pgd(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    start: StartName = "uniform",
    mode: Mode = "auto",
) -> Attack:
    """PGD that moves the prediction away from the clean one: it maximises ``KL(p(x) || p(x'))``, ``p(x)`` constant.

    The attack of TRADES training, Zhang et al., 2019; labels are checked but not used. At the image itself the
    divergence has its minimum and its gradient is zero, so there is no start from there. Cost: ``steps`` forward and
    backward passes and one forward pass.

    Args:
        threat: the norm ball, e.g. ``Linf(8 / 255)``.
        steps: gradient steps.
        step_size: in the threat model's norm and the images' units; ``2.5 * eps / steps`` by default. For ten steps that
            is the published 2/255 for ``Linf(8 / 255)`` and the 32/255 that Wang et al. (2023) print for
            ``L2(128 / 255)``; their code uses ``2 * eps / steps``, 25.6/255, for l2.
        start: ``"uniform"`` in the ball, or ``"gaussian"`` with standard deviation 0.001 per pixel, within ball and box.
            The TRADES paper's code starts ``"gaussian"`` in l-infinity; that of Wang et al. (2023) ``"uniform"`` in
            l-infinity and ``"gaussian"`` in l2.
        mode: how the loop runs, see :mod:`jaxrobust.iteration`.

    Raises:
        ValueError: for fewer than one step or an unknown start.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.trades_pgd(Linf(8 / 255))
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> images = jnp.full((2, 2, 2, 1), 0.5)
        >>> adversarial = attack(jax.random.key(0), logits_fn, images, jnp.array([0, 1]))
        >>> bool(jnp.abs(adversarial - images).max() <= 8 / 255 + 1e-6)
        True
    """
    if start not in get_args(StartName):
        raise ValueError(
            f"unknown start {start!r}; choose one of {', '.join(get_args(StartName))}. The image itself is no start: "
            "the gradient of the divergence is zero there"
        )
    return search(
        threat,
        loss=_divergence,
        success=misclassified,
        update=steepest_ascent(threat, _step_size(threat, steps, step_size)),
        gradient=plain(),
        steps=steps,
        random_start=_gaussian if start == "gaussian" else True,
        choose_targets=lambda logits, labels: logits[:, None],
        mode=mode,
    )


def _divergence(logits: jax.Array, labels: jax.Array, clean_logits: jax.Array) -> jax.Array:
    del labels
    return losses.kl_divergence(clean_logits, logits)


def _gaussian(threat: ThreatModel, keys: jax.Array, images: jax.Array) -> jax.Array:
    noise = jax.vmap(lambda key: normal(key, images.shape[1:], images.dtype))(keys)
    return threat.project(GAUSSIAN_DEVIATION * noise, images)
