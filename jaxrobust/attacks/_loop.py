"""The composable loop under every iterative gradient attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import Closure, Mode, iterate
from jaxrobust.losses import hard_labels
from jaxrobust.random import example_keys, fold_in_each, typed_key
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten

from ._ensembles import loss_and_logits
from ._gradients import GradientEstimator, plain
from ._randomized import bind_keys
from ._types import Attack, check_inputs

ChooseTargets = Callable[[jax.Array, jax.Array], jax.Array]
"""Clean logits ``[batch, classes]`` and labels ``[batch]`` to one target per restart, ``[batch, restarts, ...]``.

A target is a class, or whatever else the loss compares the logits with.
"""

Start = Callable[[ThreatModel, jax.Array, jax.Array], jax.Array]
"""Threat model, keys ``[batch]`` and images to the perturbations of a random start, shaped as the images."""


TARGETS_FOLD = 2**31 - 1
"""Folded into the keys for the clean logits that targets are made from; restarts have the small numbers."""


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    keys: jax.Array
    images: jax.Array
    labels: jax.Array
    targets: jax.Array | None


class _Best(NamedTuple):
    adversarial: jax.Array
    success: jax.Array
    loss: jax.Array


class _State(NamedTuple):
    # Images, not perturbations: the network takes them as they are, and a step makes one pass over the pixels less.
    # They are flat because XLA's CPU backend vectorises over the last axis, which is 1 or 3 for images.
    step: jax.Array
    restart: jax.Array
    adversarial: jax.Array
    gradient: Any
    update: Any
    best: _Best | None


@jax.jit
def _nothing_yet(images: jax.Array) -> _Best:
    batch = images.shape[0]
    lowest = jnp.full((batch,), -jnp.inf, images.dtype)
    return _Best(flatten(images), jnp.zeros((batch,), bool), lowest)


def _better(best: _Best, candidate: _Best) -> _Best:
    """Per example: success first, then the higher loss. A NaN loss never wins."""
    higher = (candidate.success == best.success) & (candidate.loss > best.loss)
    replace = (candidate.success & ~best.success) | higher
    broadcast = replace[:, None]
    return _Best(
        jnp.where(broadcast, candidate.adversarial, best.adversarial),
        jnp.where(replace, candidate.success, best.success),
        jnp.where(replace, candidate.loss, best.loss),
    )


def _sample(threat: ThreatModel, keys: jax.Array, images: jax.Array) -> jax.Array:
    return threat.sample(keys, images)


def search(
    threat: ThreatModel,
    *,
    loss: Callable[..., jax.Array],
    success: Callable[[jax.Array, jax.Array], jax.Array],
    update: optax.GradientTransformation,
    gradient: GradientEstimator,
    steps: int,
    random_start: bool | Start,
    restarts: int = 1,
    choose_targets: ChooseTargets | None = None,
    keep_best: bool = False,
    mode: Mode = "auto",
) -> Attack:
    """The loop with every part open; :func:`iterative` is its public face.

    With ``choose_targets`` each restart aims at a target of its own: there are as many restarts as targets, and the
    loss is called as ``loss(logits, labels, targets)``. ``random_start=True`` is ``threat.sample``.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")

    def evaluate(
        constants: _Constants, restart: jax.Array, keys: jax.Array, images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        targets = () if constants.targets is None else (constants.targets[:, restart],)
        return loss_and_logits(
            constants.logits_fn, keys, images, lambda logits: loss(logits, constants.labels, *targets)
        )

    def candidate(constants: _Constants, adversarial: jax.Array, values: jax.Array, logits: jax.Array) -> _Best:
        return _Best(adversarial, success(logits, constants.labels), values.astype(adversarial.dtype))

    @jax.jit
    def prepare(
        key: jax.Array, logits_fn: Closure, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        keys = example_keys(key, images.shape[0])
        if choose_targets is None:
            return keys, None
        logits = bind_keys(logits_fn, fold_in_each(keys, TARGETS_FOLD))(images)
        return keys, choose_targets(logits, labels)

    @jax.jit
    def start(constants: _Constants, restart: jax.Array, best: _Best | None) -> _State:
        images = constants.images
        perturbation = jnp.zeros_like(images)
        if random_start:
            sample = random_start if callable(random_start) else _sample
            perturbation = sample(constants.threat, fold_in_each(fold_in_each(constants.keys, restart), 0), images)
        return _State(
            step=jnp.zeros((), jnp.int32),
            restart=restart,
            adversarial=flatten(images + perturbation),
            gradient=gradient.init(images),
            update=update.init(perturbation),
            best=best if keep_best else None,  # what a step does not use, it should not copy
        )

    def step(constants: _Constants, state: _State) -> _State:
        images, adversarial = constants.images, state.adversarial.reshape(constants.images.shape)
        # Fold 0 belongs to the random start.
        keys = fold_in_each(fold_in_each(constants.keys, state.restart), state.step + 1)
        direction, values, logits, estimator_state = gradient.estimate(
            keys, lambda keys, images: evaluate(constants, state.restart, keys, images), adversarial, state.gradient
        )
        best = state.best
        if best is not None:
            best = _better(best, candidate(constants, state.adversarial, values, logits))
        perturbation = adversarial - images
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, update_state = update.update(direction, state.update, perturbation)
        moved = images + constants.threat.project(perturbation + updates, images)
        return _State(state.step + 1, state.restart, flatten(moved), estimator_state, update_state, best)

    @jax.jit
    def last(constants: _Constants, state: _State, best: _Best) -> _Best:
        keys = fold_in_each(fold_in_each(constants.keys, state.restart), state.step + 1)
        values, logits = evaluate(constants, state.restart, keys, state.adversarial.reshape(constants.images.shape))
        return _better(
            best if state.best is None else state.best, candidate(constants, state.adversarial, values, logits)
        )

    @jax.jit
    def finish(constants: _Constants, adversarial: jax.Array) -> jax.Array:
        # Adding a perturbation may leave the box by a rounding.
        return constants.threat.clip(adversarial.reshape(constants.images.shape))

    def one_restart(constants: _Constants, state: tuple[jax.Array, _Best]) -> tuple[jax.Array, _Best]:
        restart, best = state
        found = iterate(step, constants, start(constants, restart, best), steps, mode=mode)
        return restart + 1, last(constants, found, best)

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels, soft_labels=True)
        closure = Closure(logits_fn)
        keys, targets = prepare(typed_key(key), closure, images, labels)
        constants = _Constants(threat, closure, keys, images, labels, targets)
        zero = jnp.zeros((), jnp.int32)
        rounds = restarts if targets is None else targets.shape[1]
        if rounds == 1 and not keep_best:
            state = iterate(step, constants, start(constants, zero, None), steps, mode=mode)
            return finish(constants, state.adversarial)
        best = _nothing_yet(images)
        _, best = iterate(one_restart, constants, (zero, best), rounds, mode=mode, compile_step=False)
        return finish(constants, best.adversarial)

    return attack


def misclassified(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Success of an untargeted attack, ``[batch]``; non-finite logits count as misclassified."""
    labels = hard_labels(labels)
    return (logits.argmax(-1).astype(labels.dtype) != labels) | ~jnp.isfinite(logits).all(-1)


def classified_as(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Success of a targeted attack, ``[batch]``."""
    targets = hard_labels(targets)
    return logits.argmax(-1).astype(targets.dtype) == targets


def iterative(
    threat: ThreatModel,
    *,
    loss: Loss,
    update: optax.GradientTransformation,
    steps: int,
    gradient: GradientEstimator | None = None,
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    keep_best: bool = False,
    mode: Mode = "auto",
) -> Attack:
    """An iterative gradient attack from its four replaceable parts.

    Args:
        threat: where the perturbation must stay, e.g. ``Linf(8 / 255)``.
        loss: what is maximised, per example (minimised where ``targeted``).
        update: how a gradient becomes a step, an Optax transformation applied to the perturbation. It *ascends*:
            the step is added. :func:`steepest_ascent` is the usual last link of the chain.
        steps: gradient steps per restart.
        gradient: how the gradient is estimated, :func:`plain` by default.
        random_start: start from ``threat.sample``; otherwise from the image itself.
        restarts: independent runs; per example the best result is kept.
        targeted: ``labels`` are the classes to reach.
        keep_best: return the best iterate instead of the last one: a successful one before others, then the one of
            highest loss. It costs one forward pass more; so does each restart when there are several.
        mode: how the loop runs, see :mod:`jaxrobust.iteration`.

    Returns:
        An :class:`Attack`. Beside classes it takes soft labels, class probabilities ``[batch, classes]``, if the loss does;
        success is then measured by their most probable class.

    Raises:
        ValueError: for fewer than one step or restart.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxrobust import Linf, attacks, losses
        >>> threat = Linf(0.1)
        >>> attack = attacks.iterative(
        ...     threat, loss=losses.cross_entropy, steps=5,
        ...     update=optax.chain(optax.scale_by_adam(), optax.scale(0.05)))
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    sign = -1.0 if targeted else 1.0
    return search(
        threat,
        loss=lambda logits, labels: sign * loss(logits, labels),
        success=classified_as if targeted else misclassified,
        update=update,
        gradient=gradient if gradient is not None else plain(),
        steps=steps,
        random_start=random_start,
        restarts=restarts,
        keep_best=keep_best,
        mode=mode,
    )
