"""Signs that a number is not what it seems, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.iteration import Closure
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten

from .._ensembles import loss_and_logits
from .._randomized import bind_keys, is_randomized
from ._stages import Settings

PASSES = 5
"""Forward passes that a deterministic classifier must answer alike."""
SQUARE_HELPS = 0.2
"""Percentage points that Square must gain over the gradient attacks before it is suspicious."""

_logits = jax.jit(lambda logits_fn, keys, images: bind_keys(logits_fn, keys)(images))


def radius(threat: ThreatModel, image_shape: tuple[int, ...]) -> list[str]:
    """Whether the ball around every image holds the whole box."""
    if threat.bounds is None:
        return []
    low, high = threat.bounds
    widest = float(threat.norm(jnp.full((1, *image_shape), high - low, jnp.float32))[0])
    eps = float(threat.eps)
    if eps < widest:
        return []
    return [
        f"The radius {eps:g} allows any image of pixels in [{low:g}, {high:g}]: every classifier falls. Radii are in units of "
        "the pixels: for a budget in 8-bit levels divide by 255, as in 8/255."
    ]


def first_batch(
    logits_fn: Closure, keys: jax.Array, images: jax.Array, labels: jax.Array, chosen: Settings
) -> list[str]:
    """What the first batch says about the classifier, before any attack."""
    found = []
    logits = [np.asarray(_logits(logits_fn, keys, images), np.float64) for _ in range(PASSES)]
    if is_randomized(logits_fn):
        if chosen.samples == 1:
            found.append(
                "The classifier is randomised, and every verdict rests on single draws: use version='rand', whose "
                "gradients average over draws."
            )
    elif _differ(logits):
        found.append(
            "The classifier's outputs differ between forward passes on the same images. If it is a randomised defence, "
            "pass it as attacks.Randomized and use version='rand'; otherwise bind it in evaluation mode (no dropout)."
        )
    elif _draws_while_traced(logits_fn, images):
        found.append(
            "The classifier draws random numbers while JAX traces it, so one draw is compiled in for good. If it is a "
            "randomised defence, pass it as attacks.Randomized, which takes keys, and use version='rand'."
        )
    first = logits[0]
    if first.max() < 1 + 1e-5 and first.min() > -1e-5 and np.abs(first.sum(-1) - 1).max() < 1e-5:
        found.append(
            "The classifier returns probabilities, not logits: leave out its final softmax, which makes gradients vanish "
            "and the losses meaningless."
        )
    if (first.max(-1) == first.min(-1)).all():
        found.append("All logits are equal on the first batch: the classifier does not depend on its images.")
    return found


def _differ(logits: list[np.ndarray]) -> bool:
    normalised = [z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12) for z in logits]
    return any(np.linalg.norm(z - normalised[0], axis=-1).max() > 1e-4 for z in normalised[1:])


def _draws_while_traced(logits_fn: Closure, images: jax.Array) -> bool:
    """Whether two traces of the same function hold different numbers."""
    first, second = (jax.make_jaxpr(lambda images: logits_fn.function(images))(images) for _ in range(2))
    if str(first.jaxpr) != str(second.jaxpr):
        return True
    pairs = zip(first.consts, second.consts, strict=True)
    return any(np.shape(a) != np.shape(b) or not np.array_equal(a, b) for a, b in pairs)


@partial(jax.jit, static_argnums=0)
def _vanishes(
    loss: Callable[..., jax.Array],
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    classes: tuple[jax.Array, ...],
) -> jax.Array:
    """Whether the gradient is zero everywhere, ``[batch]``."""

    def total(images: jax.Array) -> jax.Array:
        return loss_and_logits(logits_fn, keys, images, lambda logits: loss(logits, *classes))[0].sum()

    return (flatten(jax.grad(total)(images)) == 0).all(-1)


def zero_gradients(
    name: str,
    loss: Callable[..., jax.Array],
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    classes: tuple[jax.Array, ...],
    attacked: np.ndarray,
) -> list[str]:
    """Whether the gradient of an attack's loss vanishes on clean images of the first batch that are attacked.

    Args:
        name: of the attack.
        loss: logits and ``classes`` to one value per example.
        classes: labels, and targets if the loss has them.
        attacked: ``[batch]`` bool.
    """
    zero = np.asarray(_vanishes(loss, logits_fn, keys, images, classes)) & attacked
    if not zero.any():
        return []
    return [
        f"The gradient of {name.upper()}'s loss is exactly zero on {zero.sum()} of {attacked.sum()} images of the first "
        "batch, where this attack cannot start. Saturated outputs, quantised inputs and integer operations do this; a "
        "scale-free loss (DLR), Square and a transfer attack may still get through."
    ]


def square_helps(after: dict[str, float]) -> list[str]:
    """Whether random search broke what the gradient attacks before it did not."""
    names = list(after)
    if "square" not in names or names.index("square") == 0:
        return []
    before = after[names[names.index("square") - 1]]
    if not before - after["square"] > SQUARE_HELPS:
        return []
    return [
        f"Square, which sees no gradients, lowered the accuracy from {before:.2f} to {after['square']:.2f} per cent after the "
        "gradient attacks had given up: the gradients are probably masked. Do not trust this number as it is; try more "
        "queries, attacks.apgd with another loss, expectation over transformation, and an attack adapted to the defence."
    ]


def inconsistent(count: int, broken: int) -> list[str]:
    """Whether adversarial images still fool the classifier when they are evaluated once more in another order."""
    if not count:
        return []
    return [
        f"{count} of {broken} adversarial images are classified correctly when they are evaluated again in another batch "
        "order: the classifier's outputs depend on the batch or on chance. These images count as adversarial all the same."
    ]
