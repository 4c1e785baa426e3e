"""Square: random search that changes one window of the image at a time (Andriushchenko et al., 2020; l1: Croce and Hein, 2021).

Departures from the reference implementation (``fra31/auto-attack``, commit a392200):

1. Every example has its own windows, signs and orientations, from its own key; in the reference the batch shares positions
   and orientations.
2. Windows reach the last row and the last column.
3. An example is finished when it is misclassified. In the reference it is when its margin is zero, which a label that
   comes first survives.
4. Images may be smaller than five pixels and need not be square. The l2 and l1 start has at most five tiles along each
   side, whose side is a fifth of the image's shorter one and at least one pixel.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, fold_in_each, typed_key
from jaxrobust.threat import L1, L2, Linf, ThreatModel
from jaxrobust.threat._base import per_example

from ._ensembles import loss_and_logits
from ._loop import misclassified
from ._types import Attack, check_inputs

LOSSES: dict[str, Loss] = {"margin": losses.margin, "ce": losses.cross_entropy}
PHASES = (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
"""First query of each phase; the share of the image that a window covers halves from one phase to the next."""
SCHEDULED = 10_000
"""Queries that the phases were made for."""
MARGIN = 1e-6
"""The l1 projection keeps this relative distance from the radius."""


class _Options(NamedTuple):
    """What a compiled step depends on besides shapes."""

    power: int | None
    p_init: float
    queries: int
    rescaled: bool
    loss: str


class _Constants(NamedTuple):
    threat: Any
    logits_fn: Closure
    keys: jax.Array
    images: jax.Array
    labels: jax.Array


class _State(NamedTuple):
    # [batch, channels, height, width]: XLA's CPU backend vectorises over the last axis.
    step: jax.Array
    adversarial: jax.Array
    loss: jax.Array
    broken: jax.Array
    # Of the next query. XLA's CPU backend would draw again for every pixel that needs a draw if a step used its own.
    draws: Any


def _channels_first(images: jax.Array) -> jax.Array:
    """``[batch, channels, height, width]``; a waveform is an image of one row."""
    return jnp.moveaxis(images[:, None] if images.ndim == 3 else images, -1, 1)


def window_side(phase: int, p_init: float, height: int, width: int, *, odd: bool) -> int:
    """Side of the windows: the root of the share ``p_init / 2^phase`` of the pixels, odd and at least 3 for l2 and l1.

    Example:
        >>> [window_side(phase, 0.8, 32, 32, odd=False) for phase in range(len(PHASES))]
        [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
        >>> [window_side(phase, 0.8, 32, 32, odd=True) for phase in range(len(PHASES))]
        [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    """
    side = max(round(math.sqrt(p_init / 2**phase * height * width)), 3 if odd else 1)
    if odd and side % 2 == 0:
        side += 1
    return min(side, height, width)


def _decay(side: int, power: int) -> np.ndarray:
    """Height of a pyramid over its distance from the centre: rings of weight ``1 / (k + 1)^(2 power')`` add up.

    The weights are ``1 / (k + 1)^2`` for l2 and ``1 / (k + 1)^4`` for l1, up to the ring ``side // 2``.
    """
    weights = 1 / np.arange(1, side // 2 + 2) ** (2.0 if power == 2 else 4.0)
    return weights[::-1].cumsum()[::-1]


class _Table(NamedTuple):
    """Per phase: the side, the pyramids' heights by distance (then zeros), and the scales of their two halves."""

    side: jax.Array
    decay: jax.Array
    scale: jax.Array


def pattern(side: int, power: int) -> np.ndarray:
    """Two pyramids of opposite sign, one above the other, each of norm ``2^(-1 / power)``: ``[side, side]``."""
    half, centre = side // 2, side // 2
    result = np.zeros((side, side))
    decay = _decay(side, power)
    for first, last, sign in ((0, half, 1.0), (half, side, -1.0)):
        if last > first:
            rows = np.abs(np.arange(first, last) - (first + (last - first) // 2))
            columns = np.abs(np.arange(side) - centre)
            pyramid = decay[np.maximum(rows[:, None], columns)]
            result[first:last] = sign * pyramid / (pyramid**power).sum() ** (1 / power)
    return result / (np.abs(result) ** power).sum() ** (1 / power)


def _table(sides: list[int], power: int, dtype: Any) -> _Table:
    longest = max(sides) + 1
    decay, scale = np.zeros((len(sides), longest)), np.zeros((len(sides), 2))
    for phase, side in enumerate(sides):
        heights = _decay(side, power)
        decay[phase, : len(heights)] = heights
        half, whole = side // 2, pattern(side, power)
        rows = (half // 2, half + (side - half) // 2)
        for number, row in enumerate(rows):
            scale[phase, number] = whole[row, side // 2] / heights[0] if number or half else 0.0
    return _Table(jnp.asarray(sides, jnp.int32), jnp.asarray(decay, dtype), jnp.asarray(scale, dtype))


def _profile(table: _Table, phase: jax.Array, offset: jax.Array, halved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Height and scale of the pattern along one axis, ``[batch, length]``, which halves it or not."""
    side = table.side[phase]
    half, upper = side // 2, offset < side // 2
    centre = jnp.where(halved, jnp.where(upper, half // 2, half + (side - half) // 2), half)
    distance = jnp.where((offset >= 0) & (offset < side), jnp.abs(offset - centre), table.decay.shape[1] - 1)
    scale = jnp.where(upper, table.scale[phase, 0], table.scale[phase, 1])
    return table.decay[phase][distance], jnp.where(halved, scale, 1)


def _signs(words: jax.Array, count: int, dtype: Any) -> jax.Array:
    """Random signs ``[batch, count]`` from the bits of ``[batch, words]``."""
    number = np.arange(count)
    return jnp.where((words[:, number // 32] >> jnp.asarray(number % 32, jnp.uint32)) & 1 == 1, 1, -1).astype(dtype)


def _corner(word: jax.Array, side: jax.Array, length: int) -> jax.Array:
    """First row or column of a window, uniform over all places, ``[batch, 1]``."""
    return (word % (length + 1 - side).astype(jnp.uint32)).astype(jnp.int32)[:, None]


def _inside(offset: jax.Array, side: jax.Array) -> jax.Array:
    return (offset >= 0) & (offset < side)


def _norm(x: jax.Array, power: int, axes: tuple[int, ...]) -> jax.Array:
    return jnp.abs(x).sum(axes) if power == 1 else jnp.sqrt(jnp.square(x).sum(axes))


class _Signs(NamedTuple):
    """The draws of an l-infinity query: which rows and columns its window has, and a sign per channel."""

    rows: jax.Array
    columns: jax.Array
    signs: jax.Array


class _Pyramids(NamedTuple):
    """The draws of an l2 or l1 query: two windows by rows and columns, the pattern along both axes, a sign per channel."""

    rows: tuple[jax.Array, jax.Array]
    columns: tuple[jax.Array, jax.Array]
    heights: tuple[jax.Array, jax.Array]
    scales: tuple[jax.Array, jax.Array]
    signs: jax.Array


def _draw(options: _Options, keys: jax.Array, step: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """What the query of this number needs of chance, for images ``[batch, channels, height, width]``."""
    _, channels, height, width = shape
    sides = [
        window_side(phase, options.p_init, height, width, odd=options.power is not None) for phase in range(len(PHASES))
    ]
    at = step
    if options.rescaled:
        at = jnp.floor(step.astype(jnp.float32) / options.queries * SCHEDULED).astype(jnp.int32)
    phase = (at >= jnp.asarray(PHASES[1:], jnp.int32)).sum(dtype=jnp.int32)
    side = jnp.asarray(sides, jnp.int32)[phase]
    count = 5 + -(-channels // 32)
    words = jax.vmap(lambda key: jax.random.bits(key, (count,), jnp.uint32))(fold_in_each(fold_in_each(keys, 2), step))

    def place(word: int, length: int) -> jax.Array:
        return jnp.arange(length, dtype=jnp.int32) - _corner(words[:, word], side, length)

    signs = _signs(words[:, 5:], channels, dtype)
    row, column = place(0, height), place(1, width)
    if options.power is None:
        return _Signs(_inside(row, side), _inside(column, side), signs)
    row_2, column_2 = place(2, height), place(3, width)
    transposed = (words[:, 4] & 1 == 1)[:, None]
    table = _table(sides, options.power, dtype)
    row_height, row_scale = _profile(table, phase, row, ~transposed)
    column_height, column_scale = _profile(table, phase, column, transposed)
    return _Pyramids(
        rows=(_inside(row, side), _inside(row_2, side)),
        columns=(_inside(column, side), _inside(column_2, side)),
        heights=(row_height, column_height),
        scales=(row_scale, column_scale),
        signs=signs,
    )


def _linf_candidate(threat: Any, clean: jax.Array, adversarial: jax.Array, draws: _Signs) -> jax.Array:
    """A window becomes the clean image plus or minus the radius, by channel."""
    shifted = threat.clip(clean + threat.radius(clean) * draws.signs[:, :, None, None])
    inside = draws.rows[:, :, None] & draws.columns[:, None]
    return jnp.where(inside[:, None], shifted, adversarial)


def _pyramid_candidate(
    threat: Any, clean: jax.Array, adversarial: jax.Array, draws: _Pyramids, power: int
) -> jax.Array:
    """Mass of one window and what the radius leaves goes into a pattern in another window."""
    channels = clean.shape[1]
    first, second = (
        (rows[:, :, None] & columns[:, None])[:, None] for rows, columns in zip(draws.rows, draws.columns, strict=True)
    )
    change = adversarial - clean
    kept = jnp.where(first, change, 0)
    union = _norm(jnp.where(first | second, change, 0), power, (2, 3))
    whole = _norm(change, power, (1, 2, 3))
    (row_height, column_height), (row_scale, column_scale) = draws.heights, draws.scales
    shape = jnp.minimum(row_height[:, :, None], column_height[:, None]) * row_scale[:, :, None] * column_scale[:, None]
    fresh = shape[:, None] * draws.signs[:, :, None, None]
    fresh = fresh + kept / (_norm(kept, power, (2, 3)) + 1e-12)[:, :, None, None]
    eps = threat.radius(clean).reshape(-1, 1)
    left = jnp.maximum(eps**power - whole[:, None] ** power, 0) / channels
    size = channels * (left + union) if power == 1 else jnp.sqrt(left + jnp.square(union))
    fresh = fresh * (size / (_norm(fresh, power, (2, 3)) + 1e-12))[:, :, None, None]
    return _into_ball(threat, jnp.where(first | second, 0, change) + fresh, clean, power)


def _into_ball(threat: Any, change: jax.Array, clean: jax.Array, power: int) -> jax.Array:
    """A perturbation scaled to the radius and clipped (l2), or projected onto ball and box (l1)."""
    if power == 1:
        tighter = threat.__class__(threat.eps * (1 - MARGIN), threat.bounds)
        return threat.clip(clean + tighter.project(change, clean))
    length = _norm(change, 2, (1, 2, 3))[:, None, None, None]
    return threat.clip(clean + threat.radius(clean) * change / (length + 1e-12))


def _start(constants: _Constants, options: _Options) -> jax.Array:
    """Vertical stripes (l-infinity), or tiles of the pattern."""
    threat, dtype = constants.threat, constants.images.dtype
    clean = _channels_first(constants.images)
    _, channels, height, width = clean.shape
    keys = fold_in_each(constants.keys, 0)

    def draw(words: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.bits(key, (words,), jnp.uint32))(keys)

    if options.power is None:
        signs = _signs(draw(-(-channels * width // 32)), channels * width, dtype).reshape(-1, channels, 1, width)
        return threat.clip(clean + threat.radius(clean) * signs)
    side = max(min(height, width) // 5, 1)
    down, across = min(height // side, 5), min(width // side, 5)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    tile = jnp.asarray(pattern(side, options.power), dtype)
    words = draw(1 + -(-down * across * channels // 32))
    turned = (words[:, :1] >> jnp.arange(down * across, dtype=jnp.uint32)) & 1 == 1
    signs = _signs(words[:, 1:], down * across * channels, dtype).reshape(-1, down, across, channels)
    turned = turned.reshape(-1, down, across, 1, 1, 1)
    tiles = signs[..., None, None] * jnp.where(turned, tile.T, tile)  # [batch, down, across, channels, side, side]
    tiles = tiles.transpose(0, 3, 1, 4, 2, 5).reshape(-1, channels, down * side, across * side)
    around = ((0, 0), (0, 0), (top, height - top - down * side), (left, width - left - across * side))
    return _into_ball(threat, jnp.pad(tiles, around), clean, options.power)


class _Program(NamedTuple):
    start: Any
    step: Any


@functools.lru_cache(maxsize=256)
def _program(options: _Options) -> _Program:
    loss_of = LOSSES[options.loss]

    def evaluate(constants: _Constants, step: jax.Array, candidate: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = fold_in_each(fold_in_each(constants.keys, 1), step)
        images = jnp.moveaxis(candidate, 1, -1).reshape(constants.images.shape)
        loss, logits = loss_and_logits(
            constants.logits_fn, keys, images, lambda logits: loss_of(logits, constants.labels)
        )
        return loss.astype(candidate.dtype), misclassified(logits, constants.labels)

    @jax.jit
    def start(constants: _Constants, found: jax.Array, broken: jax.Array) -> _State:
        first = jnp.where(broken[:, None, None, None], found, _start(constants, options))
        zero = jnp.zeros((), jnp.int32)
        loss, wrong = evaluate(constants, zero, first)
        draws = _draw(options, constants.keys, zero, first.shape, first.dtype)
        return _State(zero, first, loss, broken | wrong, draws)

    def step(constants: _Constants, state: _State) -> _State:
        clean, draws = _channels_first(constants.images), state.draws
        if options.power is None:
            candidate = _linf_candidate(constants.threat, clean, state.adversarial, draws)
        else:
            candidate = _pyramid_candidate(constants.threat, clean, state.adversarial, draws, options.power)
        loss, wrong = evaluate(constants, state.step + 1, candidate)
        accept = ~state.broken & (wrong | (loss > state.loss))
        return _State(
            state.step + 1,
            jnp.where(accept[:, None, None, None], candidate, state.adversarial),
            jnp.where(accept, loss, state.loss),
            state.broken | (accept & wrong),
            _draw(options, constants.keys, state.step + 1, clean.shape, clean.dtype),
        )

    return _Program(start, step)


@jax.jit
def _prepare(logits_fn: Closure, keys: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The clean images, channels first, and whether they are misclassified."""
    _, logits = loss_and_logits(logits_fn, keys, images, lambda logits: logits[:, 0])
    return _channels_first(images), misclassified(logits, labels)


@jax.jit
def _finish(images: jax.Array, found: jax.Array, broken: jax.Array) -> jax.Array:
    return jnp.where(per_example(broken, images), jnp.moveaxis(found, 1, -1).reshape(images.shape), images)


def square_passes(queries: int = 5000, restarts: int = 1) -> tuple[int, int]:
    """Forward and backward passes per example: the clean image, and for each restart the start and the queries."""
    return 1 + restarts * (1 + queries), 0


def square(
    threat: ThreatModel,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    restarts: int = 1,
    loss: Literal["margin", "ce"] = "margin",
    rescale_schedule: bool = False,
) -> Attack:
    """Square: a black-box attack by random search, which needs logits but no gradients.

    From stripes (l-infinity) or tiles (l2, l1) on the boundary of the ball, every query changes a random square window
    and keeps the change where the loss rises or the image is misclassified. Windows cover ``p_init`` of the pixels at
    first and half as many in each later phase (:data:`PHASES`). In l-infinity a window is set to plus or minus the
    radius, by channel; in l2 and l1 it gets a pattern of two pyramids, with the mass of a second window, which is
    emptied. Sources: Andriushchenko et al., 2020; l1: Croce and Hein, 2021; departures are listed in the module.

    Cost per example: ``restarts * (queries + 1) + 1`` forward passes.

    Args:
        threat: ``Linf``, ``L2`` or ``L1``.
        queries: changes tried in each restart.
        p_init: share of the pixels in the first windows.
        restarts: independent runs; a run attacks only what is not broken yet.
        loss: what rises, ``"margin"`` or ``"ce"`` cross-entropy.
        rescale_schedule: stretch the phases, made for 10,000 queries, to ``queries``; AutoAttack does not.

    Returns:
        An :class:`Attack` for images ``[batch, height, width, channels]``, or waveforms ``[batch, samples, channels]``, which
        count as images of one row. An example comes back unchanged where it was
        not broken.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.square(Linf(8 / 255), queries=20)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    if queries < 1 or restarts < 1:
        raise ValueError(f"queries and restarts must be at least 1, got {queries} and {restarts}")
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init is a share of the pixels, above 0 and at most 1; got {p_init}")
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; choose one of {', '.join(LOSSES)}")
    powers: dict[type, int | None] = {Linf: None, L2: 2, L1: 1}
    if type(threat) not in powers:
        raise ValueError(f"Square is defined for Linf, L2 and L1, got {type(threat).__name__}")
    program = _program(_Options(powers[type(threat)], p_init, queries, rescale_schedule, loss))

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        if images.ndim not in (3, 4):
            raise ValueError(
                f"Square takes images [batch, height, width, channels] or waveforms [batch, samples, channels], got {images.shape}"
            )
        closure, keys = Closure(logits_fn), example_keys(typed_key(key), images.shape[0])
        found, broken = _prepare(closure, keys, images, labels)
        for restart in range(restarts):
            constants = _Constants(threat, closure, fold_in_each(keys, restart + 1), images, labels)
            state = iterate(program.step, constants, program.start(constants, found, broken), queries)
            found, broken = state.adversarial, state.broken
        return _finish(images, found, broken)

    return attack
