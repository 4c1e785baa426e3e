"""The attacks of Carlini and Wagner, and what they share with others that look for the nearest adversarial image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import L2, Linf, ThreatModel
from jaxrobust.threat._base import flatten, per_example

from ._loop import classified_as, misclassified
from ._minimum_norm import MinimumNormAttack

LARGEST_CONSTANT = 1e10


class Nearest(NamedTuple):
    """The nearest adversarial image so far, flat, and by how much it is far (infinite while there is none)."""

    images: jax.Array
    distance: jax.Array

    def updated(self, images: jax.Array, distance: jax.Array, success: jax.Array) -> Nearest:
        """With the images that are adversarial and nearer; those at an undefined distance never are."""
        nearer = success & (distance < self.distance)
        return Nearest(jnp.where(nearer[:, None], images, self.images), jnp.where(nearer, distance, self.distance))


def nearest_at_start(logits_fn: Closure, images: jax.Array, labels: jax.Array, *, targeted: bool) -> Nearest:
    """The clean images: at distance 0 where they are adversarial themselves, so that nothing is nearer."""
    done = succeeded(logits_fn(images), labels, 0.0, targeted=targeted)
    return Nearest(flatten(images), jnp.where(done, 0, jnp.inf).astype(images.dtype))


def succeeded(logits: jax.Array, labels: jax.Array, confidence: Any, *, targeted: bool) -> jax.Array:
    """Whether another class than the label is ahead by ``confidence``, or the target by as much, ``[batch]``."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if targeted:
        return classified_as(logits - confidence * own, labels)
    return misclassified(logits + confidence * own, labels)


def shortfall(logits: jax.Array, labels: jax.Array, confidence: Any, *, targeted: bool) -> jax.Array:
    """``max(z_y - max_{j != y} z_j + confidence, 0)``, with the sign of the difference turned where targeted."""
    margin = losses.margin(logits, labels)
    return jnp.maximum((margin if targeted else -margin) + confidence, 0)


@functools.partial(jax.jit, static_argnames=("targeted", "push"))
def finish(
    threat: ThreatModel,
    logits_fn: Closure,
    images: jax.Array,
    labels: jax.Array,
    nearest: Nearest,
    confidence: Any = 0.0,
    *,
    targeted: bool,
    push: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """What a search returns: candidates shaped as ``images``, and success. One forward pass.

    A good search ends so close to the decision boundary that rounding, which differs between compiled programs, may
    change an image's class. It is pushed away from the clean image by a ten-thousandth of its distance, where that
    leaves it adversarial. Without ``push`` it is not, and there is no forward pass.
    """
    if not push:
        return nearest.images.reshape(images.shape), nearest.distance < jnp.inf
    flat = flatten(images)
    pushed = threat.clip(flat + (1 + 1e-4) * (nearest.images - flat))
    success = succeeded(logits_fn(pushed.reshape(images.shape)), labels, confidence, targeted=targeted)
    better = success & (nearest.distance > 0) & (nearest.distance < jnp.inf)
    result = jnp.where(better[:, None], pushed, nearest.images)
    return result.reshape(images.shape), nearest.distance < jnp.inf


class ConstantSearch(NamedTuple):
    """Search for the smallest constant ``c``, per example, with which an optimisation finds adversarial images."""

    round: jax.Array
    constant: jax.Array
    lower: jax.Array
    upper: jax.Array

    @classmethod
    def start(cls, initial_constant: Any, like: jax.Array) -> ConstantSearch:
        """No constant is known to be too small or large enough."""
        zero = jnp.zeros(like.shape[:1], like.dtype)
        return cls(jnp.zeros((), jnp.int32), zero + initial_constant, zero, zero + jnp.inf)

    def tried(self, success: jax.Array, rounds: int) -> ConstantSearch:
        """The next constant: ten times as large until the first success, then halfway.

        The last of ten or more rounds repeats the smallest constant that succeeded.
        """
        upper = jnp.where(success, self.constant, self.upper)
        lower = jnp.where(success, self.lower, self.constant)
        constant = jnp.where(jnp.isfinite(upper), (lower + upper) / 2, self.constant * 10)
        repeat = (self.round + 2 == rounds) & (rounds >= 10)
        constant = jnp.minimum(jnp.where(repeat, upper, constant), LARGEST_CONSTANT)
        return ConstantSearch(self.round + 1, constant, lower, upper)


def check_search(
    steps: int, learning_rate: float, binary_search_steps: int, initial_constant: float, confidence: float
) -> None:
    """Check the numbers of a search for the constant."""
    if steps < 1 or binary_search_steps < 1:
        raise ValueError(f"steps and binary_search_steps must be at least 1, got {steps} and {binary_search_steps}")
    if not (learning_rate > 0 and initial_constant > 0 and confidence >= 0):
        raise ValueError(
            "learning_rate and initial_constant must be positive and confidence at least 0, "
            f"got {learning_rate}, {initial_constant} and {confidence}"
        )


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    confidence: Any
    learning_rate: Any


class _Adam(NamedTuple):
    """The method's memory; ``taken [batch]``, because examples start afresh at different times."""

    variable: jax.Array
    mean: jax.Array
    square: jax.Array
    taken: jax.Array

    @classmethod
    def start(cls, variable: jax.Array) -> _Adam:
        zeros = jnp.zeros_like(variable)
        return cls(variable, zeros, zeros, zeros[:, 0])

    def descended(self, gradient: jax.Array, learning_rate: Any) -> _Adam:
        taken = self.taken + 1
        mean = 0.9 * self.mean + 0.1 * gradient
        square = 0.999 * self.square + 0.001 * jnp.square(gradient)
        unbiased, scale = (1 / (1 - beta**taken)[:, None] for beta in (0.9, 0.999))
        step = mean * unbiased / (jnp.sqrt(square * scale) + 1e-8)
        return _Adam(self.variable - learning_rate * step, mean, square, taken)


def _to_variable(threat: ThreatModel, flat: jax.Array) -> jax.Array:
    """Images to the variable that is free of the box, which here ends just beyond them."""
    if threat.bounds is None:
        return flat
    low, high = threat.bounds
    return jnp.arctanh(0.999999 * (2 * (threat.clip(flat) - low) / (high - low) - 1))


def _to_images(threat: ThreatModel, variable: jax.Array) -> jax.Array:
    if threat.bounds is None:
        return variable
    low, high = threat.bounds
    return threat.clip(low + (high - low) / 2 * (jnp.tanh(variable) + 1))


class _Point(NamedTuple):
    """Where the variable is: flat images, whether they are adversarial, and the objective's gradient."""

    images: jax.Array
    success: jax.Array
    gradient: jax.Array


def _evaluate(
    constants: _Constants, variable: jax.Array, constant: jax.Array, penalty: Callable, targeted: bool
) -> _Point:
    """The gradient of ``penalty(x' - x) + c * shortfall(x')``."""
    images, labels, confidence = constants.images, constants.labels, constants.confidence

    def objective(variable: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        moved = _to_images(constants.threat, variable)
        logits = constants.logits_fn(moved.reshape(images.shape))
        missing = shortfall(logits, labels, confidence, targeted=targeted).astype(moved.dtype)
        return (penalty(moved - flatten(images)) + constant * missing).sum(), (moved, logits)

    gradient, (moved, logits) = jax.grad(objective, has_aux=True)(variable)
    return _Point(moved, succeeded(logits, labels, confidence, targeted=targeted), gradient)


class _Euclidean(NamedTuple):
    nearest: Nearest
    search: ConstantSearch
    success: jax.Array
    adam: _Adam


@functools.lru_cache(maxsize=64)
def _euclidean(targeted: bool, steps: int, rounds: int) -> Callable[[_Constants, _Euclidean], _Euclidean]:
    """One round of the l2 attack: Adam with one constant per example."""

    def squared(perturbation: jax.Array) -> jax.Array:
        return jnp.square(perturbation).sum(-1)

    def step(constants: _Constants, state: _Euclidean) -> _Euclidean:
        point = _evaluate(constants, state.adam.variable, state.search.constant, squared, targeted)
        distance = squared(point.images - flatten(constants.images))
        return _Euclidean(
            state.nearest.updated(point.images, distance, point.success),
            state.search,
            state.success | (point.success & (state.adam.taken >= steps // 2)),
            state.adam.descended(point.gradient, constants.learning_rate),
        )

    @jax.jit
    def adjust(constants: _Constants, state: _Euclidean) -> _Euclidean:
        adam = _Adam.start(_to_variable(constants.threat, flatten(constants.images)))
        search = state.search.tried(state.success, rounds)
        return _Euclidean(state.nearest, search, jnp.zeros_like(state.success), adam)

    def one_round(constants: _Constants, state: _Euclidean) -> _Euclidean:
        return adjust(constants, iterate(step, constants, state, steps))

    return one_round


@functools.partial(jax.jit, static_argnames="targeted")
def _start_euclidean(constants: _Constants, initial_constant: Any, *, targeted: bool) -> _Euclidean:
    nearest = nearest_at_start(constants.logits_fn, constants.images, constants.labels, targeted=targeted)
    adam = _Adam.start(_to_variable(constants.threat, flatten(constants.images)))
    search = ConstantSearch.start(initial_constant, adam.variable)
    return _Euclidean(nearest, search, jnp.zeros(search.constant.shape, bool), adam)


class _Maximum(NamedTuple):
    nearest: Nearest
    threshold: jax.Array
    constant: jax.Array
    waited: jax.Array
    adam: _Adam


@functools.lru_cache(maxsize=16)
def _maximum(targeted: bool, patience: int) -> Callable[[_Constants, _Maximum], _Maximum]:
    """One step of the l-infinity attack; each example has a threshold and a constant of its own."""

    def step(constants: _Constants, state: _Maximum) -> _Maximum:
        threshold, constant, adam = state.threshold, state.constant, state.adam
        bounds = constants.threat.bounds
        width = 1.0 if bounds is None else bounds[1] - bounds[0]

        def excess(perturbation: jax.Array) -> jax.Array:
            return jnp.maximum(jnp.abs(perturbation) - threshold[:, None], 0).sum(-1)

        point = _evaluate(constants, adam.variable, constant, excess, targeted)
        distance = constants.threat.norm(point.images - flatten(constants.images))
        solved = point.success & (distance <= threshold)
        waited = jnp.where(solved, 0, state.waited + 1)
        failed = waited >= patience
        rate = constants.learning_rate * jnp.minimum(10 / width * threshold, 1)[:, None]
        afresh, further = _Adam.start(adam.variable), adam.descended(point.gradient, rate)
        return _Maximum(
            state.nearest.updated(point.images, distance, point.success),
            jnp.where(solved, 0.9 * distance, threshold),
            jnp.where(failed, jnp.minimum(2 * constant, LARGEST_CONSTANT), constant),
            jnp.where(failed, 0, waited),
            jax.tree.map(lambda new, old: jnp.where(per_example(solved, new), new, old), afresh, further),
        )

    return step


@functools.partial(jax.jit, static_argnames="targeted")
def _start_maximum(constants: _Constants, initial_constant: Any, *, targeted: bool) -> _Maximum:
    nearest = nearest_at_start(constants.logits_fn, constants.images, constants.labels, targeted=targeted)
    adam = _Adam.start(_to_variable(constants.threat, flatten(constants.images)))
    constant = jnp.full_like(adam.taken, initial_constant)
    return _Maximum(nearest, jnp.full_like(constant, jnp.inf), constant, jnp.zeros(constant.shape, jnp.int32), adam)


def carlini_wagner(
    threat: ThreatModel,
    *,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    binary_search_steps: int = 9,
    initial_constant: float = 1e-3,
    targeted: bool = False,
) -> MinimumNormAttack:
    """The attacks of Carlini and Wagner (2017): distance and misclassification in one objective, minimised by Adam.

    With the shortfall ``f(x') = max(z_y(x') - max_{j != y} z_j(x') + confidence, 0)`` of an image ``x'`` and a constant
    ``c`` the objective is, per example,

    - in l2, ``||x' - x||^2 + c f(x')``. The search for ``c`` starts with ``initial_constant``, takes ten times as much
      until adversarial images are found, and halves the interval from then on; every ``c`` gets ``steps`` steps from
      the clean image;
    - in l-infinity, ``sum_i max(|x'_i - x_i| - tau, 0) + c f(x')``, at first with an infinite ``tau``. When an
      adversarial image within ``tau`` is found, ``tau`` becomes 0.9 times its distance and Adam starts afresh from that
      image; when ``steps / 10`` steps have found none, ``c`` is doubled. On linear models the result lies some 5, at
      most 11 per cent above the smallest distance.

    Within a box, ``x'`` is ``tanh`` of what is optimised, scaled to the box. The nearest of all adversarial images on
    the way is the result.

    Cost per example: ``binary_search_steps * steps`` forward and backward passes and two forward passes. Every example
    takes all of them.

    Departures from the reference (the authors' program, and Foolbox):
        1. No early stop of rounds that have ceased to make progress: while other examples go on it would save nothing.
        2. In l2 a constant has succeeded if an adversarial image is found in the second half of its steps. In the first
           half Adam, whose first step has the length ``learning_rate`` in every coordinate, overshoots near boundaries
           whatever the constant is: in the reference the search then ends with far too small ones, and distances may be
           twice as large as need be.
        3. An untargeted attack with a confidence demands it of the wrong class. The authors' program lowers the label's
           logit before it looks which one is the highest, instead of raising it.
        4. In l-infinity: an example is solved when it is misclassified within ``tau``, not when the objective is below
           ``1e-4 c``; ``c`` grows after a tenth of the steps, and without a limit of 20; there is no limit of 1/256 for
           ``tau``; the learning rate is multiplied by ``10 tau / (width of the box)`` where that is less than 1; and
           there is a confidence.
        5. The result is pushed off the boundary by a ten-thousandth of its distance, so that rounding does not decide
           its class.

    Args:
        threat: :class:`~jaxrobust.threat.L2` or :class:`~jaxrobust.threat.Linf`; its radius matters to the call form
            only. Without a box Adam works on the images themselves.
        confidence: how far another class must be ahead of the label, or the target of all others, in logits. Clean
            images that are adversarial by any amount are returned as they are.
        steps: Adam's steps for each constant.
        learning_rate: of Adam: in the argument of ``tanh``, where a unit is at most half the width of the box, or in
            images' units without a box. The authors' program for l-infinity takes 0.005.
        binary_search_steps: number of constants in l2. In l-infinity there is no such search: the number of all steps
            is ``binary_search_steps * steps`` as well.
        initial_constant: the first ``c``. The authors' program for l-infinity takes 1e-5.
        targeted: ``labels`` are the classes to reach; then ``f = max(max_{j != t} z_j - z_t + confidence, 0)``.

    Raises:
        ValueError: for another norm, fewer than one step, or a constant or rate that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2
        >>> logits_fn = lambda images: jnp.stack([images.sum((1, 2, 3)), jnp.full(len(images), 1.0)], axis=1)
        >>> attack = carlini_wagner(L2(0.6), steps=100)
        >>> found = attack.minimum_norm(jax.random.key(0), logits_fn, jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
        >>> found.distances.round(2).tolist()  # the plane sum(x) = 1 is at distance (2 - 1) / 2
        [0.5]
    """
    if not isinstance(threat, (L2, Linf)):
        raise ValueError(f"the Carlini-Wagner attack is defined for L2 and Linf, got {type(threat).__name__}; "
                         "use ead for L1")  # fmt: skip
    check_search(steps, learning_rate, binary_search_steps, initial_constant, confidence)

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del key  # nothing is drawn
        constants = _Constants(threat, Closure(logits_fn), images, labels, confidence, learning_rate)
        if isinstance(threat, L2):
            one_round = _euclidean(targeted, steps, binary_search_steps)
            euclidean = _start_euclidean(constants, initial_constant, targeted=targeted)
            nearest = iterate(one_round, constants, euclidean, binary_search_steps, compile_step=False).nearest
        else:
            step = _maximum(targeted, max(steps // 10, 1))
            maximum = _start_maximum(constants, initial_constant, targeted=targeted)
            nearest = iterate(step, constants, maximum, binary_search_steps * steps).nearest
        return finish(threat, constants.logits_fn, images, labels, nearest, confidence, targeted=targeted)

    return MinimumNormAttack(threat, search)
