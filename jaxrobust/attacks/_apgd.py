"""Auto-PGD: projected gradient ascent that chooses its own step size (Croce and Hein, 2020; for l1 Croce and Hein, 2021).

Departures from the reference implementation (``fra31/auto-attack``, commit a392200):

1. Random numbers come from one key per example, so that a result depends neither on the batch nor on the devices.
2. The first checkpoint compares the loss after the first step with the loss at the start. The reference compares it
   with zero, the last row of a table that is not filled yet.
3. An example that is broken keeps the adversarial image that broke it; the reference goes on and returns the last
   misclassified iterate. Verdicts are the same.
4. Targets are chosen among the classes other than the label, so that a tie cannot make the label its own target.
5. l2 and l-infinity iterates are clipped to the box after every projection, so the image that was judged is the one
   that is returned.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, fold_in_each, normal, typed_key
from jaxrobust.threat import L1, ThreatModel
from jaxrobust.threat._base import flatten, per_example

from ._ensembles import loss_and_logits
from ._gradients import GradientEstimator, plain
from ._loop import misclassified
from ._order_statistics import threshold_at_rank
from ._randomized import bind_keys
from ._targets import highest_wrong_classes
from ._types import Attack, check_inputs

NamedLoss = Literal["ce", "dlr", "margin"]
UNTARGETED: dict[str, Callable[..., jax.Array]] = {
    "ce": losses.cross_entropy,
    "dlr": losses.dlr,
    "margin": losses.margin,
}
TARGETED: dict[str, Callable[..., jax.Array]] = {"dlr": losses.targeted_dlr, "margin": losses.logit_difference}
MOMENTUM = 0.75
"""Weight of the new step against the previous movement, from the second step on."""


class Options(NamedTuple):
    """What a compiled step depends on besides shapes; radius, parameters and keys are arguments of it."""

    loss: Callable[..., jax.Array]
    steps: int
    rho: float
    targeted: bool
    sparse: bool
    estimator: GradientEstimator
    freeze: bool = True
    """Whether an example stops where it is broken; not in the phases of larger radius, which only prepare the start."""


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    keys: jax.Array
    images: jax.Array
    labels: jax.Array
    targets: jax.Array | None


class _Point(NamedTuple):
    """An iterate, flat, with its loss and gradient."""

    images: jax.Array
    loss: jax.Array
    gradient: jax.Array


class _Schedule(NamedTuple):
    """What decides the step size in l2 and l-infinity, per example."""

    increases: jax.Array
    checkpoint_loss: jax.Array
    halved: jax.Array


class _Sparsity(NamedTuple):
    """What decides the step size in l1, per example."""

    kept: jax.Array
    nonzero: jax.Array


class _State(NamedTuple):
    step: jax.Array
    current: _Point
    previous: Any
    best: _Point
    step_size: jax.Array
    adapted: Any
    broken: jax.Array
    estimator: Any


def checkpoints(steps: int) -> tuple[int, ...]:
    """Numbers of completed steps after which the step size is reconsidered, for l2 and l-infinity.

    Example:
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    interval, shortest = max(math.floor(0.22 * steps), 1), max(math.floor(0.06 * steps), 1)
    decrease = max(math.floor(0.03 * steps), 1)
    ends = [interval]
    while ends[-1] + max(interval - decrease, shortest) <= steps:
        interval = max(interval - decrease, shortest)
        ends.append(ends[-1] + interval)
    return tuple(ends)


class _Program(NamedTuple):
    start: Callable[..., _State]
    step: Callable[[_Constants, _State], _State]


@functools.lru_cache(maxsize=256)
def _program(options: Options) -> _Program:
    ends = np.asarray(checkpoints(options.steps))
    interval = np.zeros(options.steps, np.int32)  # length of the interval that ends with this step, 0 within one
    interval[ends - 1] = np.diff(ends, prepend=0)
    sparsity_interval = max(math.floor(0.04 * options.steps), 1)

    def evaluate(constants: _Constants, keys: jax.Array, flat: jax.Array, state: Any) -> tuple[_Point, jax.Array, Any]:
        arguments = (constants.labels,) if constants.targets is None else (constants.labels, constants.targets)

        def loss(keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_and_logits(constants.logits_fn, keys, images, lambda logits: options.loss(logits, *arguments))

        images = flat.reshape(constants.images.shape)
        gradient, values, logits, state = options.estimator.estimate(keys, loss, images, state)
        point = _Point(flat, values.astype(flat.dtype), flatten(gradient).astype(flat.dtype))
        return point, misclassified(logits, constants.labels), state

    @jax.jit
    def start(constants: _Constants, flat: jax.Array, broken: jax.Array, sparsity: _Sparsity | None) -> _State:
        threat, batch = constants.threat, flat.shape[0]
        keys = fold_in_each(constants.keys, 1)
        point, fell, estimator = evaluate(constants, keys, flat, options.estimator.init(constants.images))
        eps = jnp.broadcast_to(jnp.asarray(threat.eps, flat.dtype), (batch,))
        never = jnp.zeros((batch,), jnp.int32)
        return _State(
            step=jnp.zeros((), jnp.int32),
            current=point,
            previous=None if options.sparse else flat,
            best=point,
            step_size=eps if options.sparse else 2 * eps,
            adapted=sparsity if options.sparse else _Schedule(never, point.loss, jnp.ones((batch,), bool)),
            broken=broken | fell if options.freeze else broken,
            estimator=estimator,
        )

    def move_dense(constants: _Constants, images: jax.Array, state: _State) -> jax.Array:
        threat, current = constants.threat, state.current
        weight = jnp.where(state.step == 0, 1, jnp.asarray(MOMENTUM, images.dtype))

        def project(points: jax.Array) -> jax.Array:
            return threat.clip(images + threat.project(points - images, images))

        x = current.images
        ascended = project(x + state.step_size[:, None] * threat.steepest(current.gradient))
        return project(x + weight * (ascended - x) + (1 - weight) * (x - state.previous))

    def move_sparse(constants: _Constants, images: jax.Array, state: _State) -> jax.Array:
        threat, current = constants.threat, state.current
        features = images.shape[1]
        size = jnp.abs(current.gradient).astype(np.promote_types(images.dtype, np.float32))
        rank = jnp.clip(jnp.floor((1 - state.adapted.kept) * features).astype(jnp.int32), 0, features - 1)
        large = size >= threshold_at_rank(size, rank)[:, None]
        length = state.step_size / (large.sum(-1, dtype=images.dtype) + 1e-10)
        moved = current.images + length[:, None] * jnp.where(large, jnp.sign(current.gradient), 0)
        return threat.clip(images + threat.project(moved - images, images))

    def adapt_dense(state: _State, loss: jax.Array, best: _Point) -> tuple[jax.Array, jax.Array, _Schedule]:
        """Whether each example goes back to its best point, its step size, and the schedule's memory."""
        schedule, length = state.adapted, jnp.asarray(interval)[state.step]
        increases = schedule.increases + (loss > state.current.loss).astype(jnp.int32)
        rarely = increases.astype(loss.dtype) <= options.rho * length.astype(loss.dtype)
        stuck = ~schedule.halved & (schedule.checkpoint_loss >= best.loss)
        end = length > 0
        halve = end & (rarely | stuck)
        memory = _Schedule(
            jnp.where(end, 0, increases),
            jnp.where(end, best.loss, schedule.checkpoint_loss),
            jnp.where(end, halve, schedule.halved),
        )
        return halve, jnp.where(halve, state.step_size / 2, state.step_size), memory

    def adapt_sparse(
        constants: _Constants, images: jax.Array, state: _State, best: _Point
    ) -> tuple[jax.Array, jax.Array, _Sparsity]:
        sparsity: _Sparsity = state.adapted
        eps = jnp.asarray(constants.threat.eps, images.dtype)
        end = (state.step + 1) % sparsity_interval == 0
        nonzero = (best.images != images).sum(-1, dtype=images.dtype)
        sparser = nonzero < 0.95 * sparsity.nonzero
        step_size = jnp.clip(jnp.where(sparser, eps, state.step_size / 1.5), eps / 10, eps)
        memory = _Sparsity(nonzero / (1.5 * images.shape[1]), nonzero)
        return (
            end & sparser,
            jnp.where(end, step_size, state.step_size),
            jax.tree.map(lambda new, old: jnp.where(end, new, old), memory, sparsity),
        )

    def step(constants: _Constants, state: _State) -> _State:
        images = flatten(constants.images)
        moved = (move_sparse if options.sparse else move_dense)(constants, images, state)
        frozen = state.broken[:, None]
        moved = jnp.where(frozen, state.current.images, moved)
        keys = fold_in_each(constants.keys, state.step + 2)  # 0 is the random start, 1 the loss there
        point, fell, estimator = evaluate(constants, keys, moved, state.estimator)
        best = _choose(point.loss > state.best.loss, point, state.best)
        adapted: Any
        if options.sparse:
            back, step_size, adapted = adapt_sparse(constants, images, state, best)
        else:
            back, step_size, adapted = adapt_dense(state, point.loss, best)
        broken = state.broken | fell if options.freeze else state.broken
        # The loss stays that of the last iterate: losses are compared from one iterate to the next.
        current = _choose(back & ~broken, best, point)._replace(loss=point.loss)
        previous = None if options.sparse else state.current.images
        return _State(state.step + 1, current, previous, best, step_size, adapted, broken, estimator)

    return _Program(start, step)


def _choose(condition: jax.Array, first: _Point, second: _Point) -> _Point:
    return jax.tree.map(lambda a, b: jnp.where(per_example(condition, a), a, b), first, second)


@functools.partial(jax.jit, static_argnames="sparse")
def _random_start(threat: Any, keys: jax.Array, images: jax.Array, sparse: bool) -> jax.Array:
    """On the boundary of the ball, or for l1 a Gaussian draw projected onto it; then within the box. Flat."""
    keys, flat = fold_in_each(keys, 0), flatten(images)
    if sparse:
        noise = jax.vmap(lambda key: normal(key, flat.shape[1:], flat.dtype))(keys)
        return threat.clip(flat + threat.project(noise, flat))
    noise = dataclasses.replace(threat, eps=1.0, bounds=None).sample(keys, flat)
    direction = noise / jnp.maximum(threat.norm(noise), 1e-12)[:, None]
    return threat.clip(flat + threat.radius(flat) * direction)


@functools.partial(jax.jit, static_argnames="given")
def _initial_sparsity(start: jax.Array, images: jax.Array, given: bool) -> _Sparsity:
    """A fifth of the gradient's entries to begin with, or what a given start suggests."""
    batch, features = start.shape
    if not given:
        return _Sparsity(jnp.full((batch,), 0.2, start.dtype), jnp.full((batch,), features, start.dtype))
    nonzero = (start != flatten(images)).sum(-1, dtype=start.dtype)
    return _Sparsity(nonzero / (1.5 * features), nonzero)


@jax.jit
def _onto(threat: Any, start: jax.Array, images: jax.Array) -> jax.Array:
    flat = flatten(images)
    return threat.clip(flat + threat.project(start - flat, flat))


@jax.jit
def _keep(broken: jax.Array, found: jax.Array, start: jax.Array) -> jax.Array:
    return jnp.where(broken[:, None], found, start)


def phases(threat: Any, options: Options, larger_eps: bool) -> tuple[tuple[Any, Options], ...]:
    """Threat model and options of each phase: one, or for the larger-eps schedule three of radius 3, 2 and 1 eps."""
    if not larger_eps:
        return ((threat, options),)
    third = math.ceil(0.3 * options.steps)
    lengths = (third, third, options.steps - 2 * third)
    return tuple(
        (
            dataclasses.replace(threat, eps=factor * threat.eps) if factor > 1 else threat,
            options._replace(steps=length, freeze=factor == 1),
        )
        for factor, length in zip((3, 2, 1), lengths, strict=True)
    )


def run(
    threat: Any,
    options: Options,
    larger_eps: bool,
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None,
    found: jax.Array,
    broken: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One run from a random start; examples that are ``broken`` stay where they were ``found`` (flat)."""
    steps = phases(threat, options, larger_eps)
    start = _random_start(steps[0][0], keys, images, options.sparse)
    for number, (ball, phase) in enumerate(steps):
        program = _program(phase)
        if number:
            start = _onto(ball, start, images)
        if phase.freeze:
            start = _keep(broken, found, start)
        constants = _Constants(ball, logits_fn, fold_in_each(keys, number + 1), images, labels, targets)
        sparsity = _initial_sparsity(start, images, larger_eps) if options.sparse else None
        nobody = broken if phase.freeze else jnp.zeros_like(broken)
        state = iterate(program.step, constants, program.start(constants, start, nobody, sparsity), phase.steps)
        start = state.best.images
    return state.current.images, state.broken


def passes(steps: int, larger_eps: bool = False) -> tuple[int, int]:
    """Forward and backward passes of one run, per example."""
    count = steps + (3 if larger_eps else 1)
    return count, count


_PLAIN = plain()


def options(
    threat: ThreatModel,
    loss: NamedLoss | Loss,
    *,
    steps: int = 100,
    rho: float = 0.75,
    targeted: bool = False,
    gradient: GradientEstimator | None = None,
    larger_eps: bool = False,
) -> Options:
    """Checked options of a run.

    Raises:
        ValueError: for an unknown loss, less than one step, ``rho`` outside [0, 1], or the larger-eps schedule with a
            norm other than l1 or with too few steps.
    """
    table = TARGETED if targeted else UNTARGETED
    if isinstance(loss, str) and loss not in table:
        raise ValueError(f"unknown loss {loss!r}; choose one of {', '.join(table)}, or pass a function")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is a share of the steps between two checkpoints, in [0, 1]; got {rho}")
    sparse = isinstance(threat, L1)
    if larger_eps and not sparse:
        raise ValueError(f"the larger-eps schedule is part of APGD for l1, but the threat model is {threat}")
    if larger_eps and steps <= 2 * math.ceil(0.3 * steps):
        raise ValueError(f"the larger-eps schedule takes 3, 5, 6 or more steps, got {steps}")
    function = table[loss] if isinstance(loss, str) else loss
    return Options(function, steps, rho, targeted, sparse, _PLAIN if gradient is None else gradient)


@functools.partial(jax.jit, static_argnames="targets")
def _prepare(
    logits_fn: Closure, keys: jax.Array, images: jax.Array, labels: jax.Array, targets: int
) -> tuple[jax.Array, jax.Array]:
    """What is misclassified from the start, and the classes to aim at ``[batch, targets]``."""
    logits = bind_keys(logits_fn, fold_in_each(keys, 0))(images)
    return misclassified(logits, labels), highest_wrong_classes(logits, labels, targets)


@jax.jit
def result(images: jax.Array, found: jax.Array, broken: jax.Array) -> jax.Array:
    """What was ``found`` (flat) where an example is broken, the clean image elsewhere."""
    return jnp.where(per_example(broken, images), found.reshape(images.shape), images)


def _attack(threat: ThreatModel, chosen: Options, larger_eps: bool, restarts: int, targets: int) -> Attack:
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        closure, keys = Closure(logits_fn), example_keys(typed_key(key), images.shape[0])
        broken, classes = _prepare(closure, keys, images, labels, targets)
        found = flatten(images)
        for number in range(restarts * max(classes.shape[1], 1)):
            aim = classes[:, number // restarts] if chosen.targeted else None
            run_keys = fold_in_each(keys, number + 1)
            found, broken = run(threat, chosen, larger_eps, closure, run_keys, images, labels, aim, found, broken)
        return result(images, found, broken)

    return attack


def apgd(
    threat: ThreatModel,
    *,
    loss: NamedLoss | Loss = "ce",
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    larger_eps: bool = False,
    gradient: GradientEstimator | None = None,
) -> Attack:
    """Auto-PGD, the untargeted white-box attack of AutoAttack: it has no step size to tune.

    For l2 and l-infinity: steps with momentum 0.75 that begin at ``2 * eps`` and are halved at checkpoints
    (:func:`checkpoints`) where the loss rose in at most ``rho`` of the steps since the last one, or where its maximum
    has not grown and the step was not halved there; a halved step starts again from the best point. For l1: sparse
    steps along the largest gradient entries, from ``eps``, with the exact projection onto ball and box; the sparsity
    follows the best perturbation's. Sources: Croce and Hein, 2020 and 2021; departures are listed in the module.

    Cost: ``steps + 1`` forward and backward passes per restart (``steps + 3`` with ``larger_eps``) and one forward.

    Args:
        threat: ``Linf``, ``L2`` or ``L1``.
        loss: what is maximised: ``"ce"`` cross-entropy, ``"dlr"`` difference of logits ratio (three classes or more),
            ``"margin"``, or a function of logits and labels.
        steps: gradient steps per restart.
        restarts: independent runs from random starts; a run attacks only what is not broken yet.
        rho: see above.
        larger_eps: l1 only: 30 % of the steps in the ball of radius ``3 * eps``, 30 % in that of ``2 * eps`` and the
            rest in the ball itself, each from the best point of the one before.
        gradient: gradient estimator, e.g. :func:`expectation_over_transformation` against randomised models.

    Returns:
        An :class:`Attack`. An example comes back unchanged where it was not broken or is misclassified as it is.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.apgd(Linf(8 / 255), loss="dlr", steps=10)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    chosen = options(threat, loss, steps=steps, rho=rho, gradient=gradient, larger_eps=larger_eps)
    return _attack(threat, chosen, larger_eps, restarts, targets=0)


def apgd_targeted(
    threat: ThreatModel,
    *,
    loss: Literal["dlr", "margin"] = "dlr",
    targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    larger_eps: bool = False,
    gradient: GradientEstimator | None = None,
) -> Attack:
    """APGD towards one wrong class after the other, those of highest clean logit first: APGD-T of AutoAttack.

    Any misclassification counts as success. Cost: for each target what :func:`apgd` costs, and one forward pass.

    Args:
        threat: ``Linf``, ``L2`` or ``L1``.
        loss: ``"dlr"`` the targeted difference of logits ratio (four classes or more), or ``"margin"`` the plain
            difference of the two logits (two or more).
        targets: how many classes to aim at, at most all but the label.
        steps: gradient steps per target and restart.
        restarts: runs for each target.
        rho: see :func:`apgd`.
        larger_eps: see :func:`apgd`.
        gradient: see :func:`apgd`.

    Raises:
        ValueError: for arguments out of range.
    """
    if targets < 1:
        raise ValueError(f"targets must be at least 1, got {targets}")
    chosen = options(threat, loss, steps=steps, rho=rho, targeted=True, gradient=gradient, larger_eps=larger_eps)
    return _attack(threat, chosen, larger_eps, restarts, targets)
