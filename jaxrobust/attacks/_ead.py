"""The elastic-net attack: sparse perturbations by shrinking and thresholding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import L1, L2, ThreatModel
from jaxrobust.threat._base import flatten

from ._carlini_wagner import ConstantSearch, Nearest, check_search, finish, nearest_at_start, shortfall, succeeded
from ._minimum_norm import MinimumNormAttack

DecisionRule = Literal["elastic_net", "l1"]


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    confidence: Any
    learning_rate: Any
    beta: Any


class _State(NamedTuple):
    """``current`` is the image, ``ahead`` the point beyond it, where the gradient is taken; both flat."""

    nearest: Nearest
    search: ConstantSearch
    success: jax.Array
    step: jax.Array
    current: jax.Array
    ahead: jax.Array


@functools.lru_cache(maxsize=64)
def _one_round(targeted: bool, rule: DecisionRule, steps: int, rounds: int) -> Callable[[_Constants, _State], _State]:
    """FISTA with one constant per example."""

    def step(constants: _Constants, state: _State) -> _State:
        images, labels, confidence = flatten(constants.images), constants.labels, constants.confidence

        def logits_at(flat: jax.Array) -> jax.Array:
            return constants.logits_fn(flat.reshape(constants.images.shape))

        def smooth(flat: jax.Array) -> jax.Array:
            missing = shortfall(logits_at(flat), labels, confidence, targeted=targeted).astype(flat.dtype)
            return (jnp.square(flat - images).sum(-1) + state.search.constant * missing).sum()

        done = state.step.astype(images.dtype)
        rate = constants.learning_rate * jnp.sqrt(1 - done / steps)
        perturbation = state.ahead - rate * jax.grad(smooth)(state.ahead) - images
        shrunk = jnp.sign(perturbation) * jnp.maximum(jnp.abs(perturbation) - constants.beta, 0)
        moved = constants.threat.clip(images + shrunk)
        success = succeeded(logits_at(moved), labels, confidence, targeted=targeted)
        shrunk = moved - images
        distance = jnp.abs(shrunk).sum(-1)
        if rule == "elastic_net":
            distance = jnp.square(shrunk).sum(-1) + constants.beta * distance
        return _State(
            state.nearest.updated(moved, distance, success),
            state.search,
            state.success | success,
            state.step + 1,
            moved,
            moved + done / (done + 3) * (moved - state.current),
        )

    @jax.jit
    def adjust(constants: _Constants, state: _State) -> _State:
        search = state.search.tried(state.success, rounds)
        return _start(constants, state.nearest, search)

    def one_round(constants: _Constants, state: _State) -> _State:
        return adjust(constants, iterate(step, constants, state, steps))

    return one_round


def _start(constants: _Constants, nearest: Nearest, search: ConstantSearch) -> _State:
    images = flatten(constants.images)
    none = jnp.zeros(images.shape[:1], bool)
    return _State(nearest, search, none, jnp.zeros((), jnp.int32), images, images)


@functools.partial(jax.jit, static_argnames="targeted")
def _first(constants: _Constants, initial_constant: Any, *, targeted: bool) -> _State:
    nearest = nearest_at_start(constants.logits_fn, constants.images, constants.labels, targeted=targeted)
    return _start(constants, nearest, ConstantSearch.start(initial_constant, nearest.images))


def ead(
    threat: ThreatModel,
    *,
    beta: float = 1e-2,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    binary_search_steps: int = 9,
    initial_constant: float = 1e-3,
    decision_rule: DecisionRule | None = None,
    targeted: bool = False,
) -> MinimumNormAttack:
    """Elastic-net attack (EAD): sparse perturbations, by proximal gradient descent with momentum.

    With the shortfall ``f`` of :func:`carlini_wagner` and ``g(x') = ||x' - x||_2^2 + c f(x')``, step ``k`` of ``K`` is

    ``x_{k+1} = shrink(y_k - rate_k grad g(y_k))``, ``y_{k+1} = x_{k+1} + k / (k + 3) (x_{k+1} - x_k)``,

    where ``shrink`` takes ``beta`` off every pixel's change, down to no change at all, and clips to the box; ``rate_k``
    is ``learning_rate sqrt(1 - k / K)``. It minimises ``g(x') + beta / rate_k ||x' - x||_1``: l1 weighs more and more.
    The search for ``c`` is that of :func:`carlini_wagner` in l2. The best of all adversarial images on the way is the
    result. Source: Chen et al., 2018.

    Cost per example: ``binary_search_steps * steps`` backward and twice as many forward passes, and two forward passes.
    Every example takes all of them.

    Departures from the reference (the authors' program, and Foolbox):
        1. No early stop of rounds that have ceased to make progress: while other examples go on it would save nothing.
        2. Whether ``x_{k+1}`` is adversarial is seen from its own logits, as in the authors' program. Foolbox takes
           those of ``y_k``, which may lie elsewhere, and outside of the box.
        3. An untargeted attack with a confidence demands it of the wrong class, as in :func:`carlini_wagner`.
        4. The result is pushed off the boundary by a ten-thousandth of its distance, so that rounding does not decide
           its class.

    Args:
        threat: :class:`~jaxrobust.threat.L1` or :class:`~jaxrobust.threat.L2`, in which distances are measured; its
            radius matters to the call form only.
        beta: how much a step shrinks every pixel's change, in images' units.
        confidence: how far another class must be ahead of the label, or the target of all others, in logits. Clean
            images that are adversarial by any amount are returned as they are.
        steps: steps for each constant.
        learning_rate: length of the first step, in units of the gradient. Pixels only move where
            ``learning_rate * c * |df / dx_i|`` exceeds ``beta``.
        binary_search_steps: number of constants.
        initial_constant: the first ``c``.
        decision_rule: which image is best: that of smallest ``beta ||x' - x||_1 + ||x' - x||_2^2`` (``"elastic_net"``,
            by default in l2) or that of smallest ``||x' - x||_1`` (``"l1"``, by default in l1).
        targeted: ``labels`` are the classes to reach.

    Raises:
        ValueError: for another norm or rule, fewer than one step, or numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L1
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.array([[4.0, 0.0], [1.0, 2.0]])
        >>> found = ead(L1(1.0), steps=100).minimum_norm(
        ...     jax.random.key(0), logits_fn, jnp.full((1, 2, 1, 1), 0.5), jnp.array([0]))
        >>> found.images.ravel().round(2).tolist()  # 4 a + b = 2 b, by the change of a single pixel
        [0.12, 0.5]
    """
    if not isinstance(threat, (L1, L2)):
        raise ValueError(f"the elastic-net attack is defined for L1 and L2, got {type(threat).__name__}; "
                         "use carlini_wagner for Linf")  # fmt: skip
    if decision_rule is None:
        decision_rule = "l1" if isinstance(threat, L1) else "elastic_net"
    if decision_rule not in get_args(DecisionRule):
        raise ValueError(f"decision_rule must be one of {', '.join(get_args(DecisionRule))}, got {decision_rule!r}")
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    check_search(steps, learning_rate, binary_search_steps, initial_constant, confidence)

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del key  # nothing is drawn
        constants = _Constants(threat, Closure(logits_fn), images, labels, confidence, learning_rate, beta)
        one_round = _one_round(targeted, decision_rule, steps, binary_search_steps)
        state = _first(constants, initial_constant, targeted=targeted)
        nearest = iterate(one_round, constants, state, binary_search_steps, compile_step=False).nearest
        return finish(threat, constants.logits_fn, images, labels, nearest, confidence, targeted=targeted)

    return MinimumNormAttack(threat, search)
