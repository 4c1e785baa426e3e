"""CROWN with optimised slopes: alpha-CROWN for linear functions of the logits.

Any slopes give sound lines, as long as the intercepts follow, so they can be moved uphill on the bounds themselves, for each
row of each image. They start at CROWN's, and the best bounds met are kept, so nothing is ever looser than CROWN. The
intervals of the values inside the network stay those of CROWN.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.iteration import Closure, iterate
from jaxrobust.threat import ThreatModel

from ._activations import Activation, Lines
from ._backward import Relaxation, substitute
from ._graph import Graph, Node
from ._max_pool import PoolLines
from ._methods import Method
from ._per_image import per_image
from ._problem import Interval, Problem
from ._rows import Dense
from ._solve import operand_bounds

Positions = tuple[tuple[jax.Array, jax.Array], ...]
"""Of the lower and the upper slope of each activation in the range of slopes, from 0 to 1, ``[batch, rows, *node]``."""


RATE = 0.1
"""Of Adam, in units of the range of slopes."""


class Functions(NamedTuple):
    """``<normals, x> + offsets``, at least ``lower`` for all images ``x`` of the set, below each row of the specification.

    Attributes:
        lower: ``[batch, rows]``.
        normals: ``[batch, rows, *image]``.
        offsets: ``[batch, rows]``.
    """

    lower: jax.Array
    normals: jax.Array
    offsets: jax.Array


class _Constants(NamedTuple):
    logits_fn: Closure
    images: jax.Array
    threat: ThreatModel
    specification: jax.Array
    bounded: tuple[Interval, ...]


class _State(NamedTuple):
    positions: Positions
    optimizer: Any
    best: Functions


def optimized_functions(
    logits_fn: Closure,
    images: jax.Array,
    threat: ThreatModel,
    specification: jax.Array,
    method: Method,
    rows_at_once: int | None,
) -> Functions:
    """The best lower functions of each row of the specification, ``[rows, classes]`` or ``[batch, rows, classes]``.

    Slopes move by Adam, in units of the range of slopes that can be of use. Source: Xu et al., 2021.
    """
    start, step = _compiled(method, rows_at_once)
    constants, state = start(logits_fn, images, threat, specification)
    return iterate(step, constants, state, method.optimization_steps + 1).best


@lru_cache
def _compiled(method: Method, rows_at_once: int | None) -> tuple[Any, Any]:
    optimizer = optax.adam(RATE)

    @jax.jit
    def start(
        logits_fn: Closure, images: jax.Array, threat: ThreatModel, specification: jax.Array
    ) -> tuple[_Constants, _State]:
        def compute(graph: Graph, problem: Problem, rows: Dense) -> tuple[tuple[Interval, ...], Positions]:
            bounded = operand_bounds(graph, problem, method, rows_at_once)
            return bounded, tuple(
                _crown_positions(node.operation, operand, len(rows.values))
                for node, operand in zip(graph.nonlinear, bounded, strict=True)
                if isinstance(node.operation, Activation)
            )

        bounded, positions = per_image(logits_fn, images, threat, specification, compute)
        constants = _Constants(logits_fn, images, threat, specification, bounded)
        shapes = jax.eval_shape(lower_functions, positions, constants)
        nothing = jax.tree.map(lambda aval: jnp.full(aval.shape, -jnp.inf, aval.dtype), shapes)
        return constants, _State(positions, optimizer.init(positions), nothing)

    def lower_functions(positions: Positions, constants: _Constants) -> Functions:
        def compute(graph: Graph, problem: Problem, rows: Dense, bounded: Any, positions: Any) -> Functions:
            found = substitute(graph, graph.output, rows, _relaxation(graph, method, bounded, positions))
            normals = found.rows[graph.image]
            return Functions(problem.lower(normals) + found.lower, normals.dense().values[:, 0], found.lower)

        logits_fn, images, threat, specification, bounded = constants
        return per_image(logits_fn, images, threat, specification, compute, bounded, positions)

    def step(constants: _Constants, state: _State) -> _State:
        def lower(positions: Positions) -> tuple[jax.Array, Functions]:
            found = lower_functions(positions, constants)
            return found.lower.sum(), found

        uphill, found = jax.grad(lower, has_aux=True)(state.positions)
        with jax.numpy_dtype_promotion("standard"):  # Optax takes a number to the power of the integer count
            updates, optimizer_state = optimizer.update(jax.tree.map(jnp.negative, uphill), state.optimizer)
        positions = jax.tree.map(lambda a: jnp.clip(a, 0, 1), optax.apply_updates(state.positions, updates))
        better = found.lower > state.best.lower

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

        return _State(positions, optimizer_state, jax.tree.map(kept, found, state.best))

    return start, step


def _crown_positions(activation: Activation, operand: Interval, rows: int) -> tuple[jax.Array, jax.Array]:
    """Where CROWN's slopes lie in the range of slopes, for each row."""
    smallest, largest = activation.slope_range(*operand)
    lines = activation.crown(*operand)
    width = jnp.where(largest > smallest, largest - smallest, 1)
    found = [jnp.clip((slope - smallest) / width, 0, 1) for slope in (lines.lower_slope, lines.upper_slope)]
    lower, upper = (jnp.broadcast_to(position, (rows, *position.shape)) for position in found)
    return lower, upper


def _relaxation(graph: Graph, method: Method, bounded: tuple[Interval, ...], positions: Positions) -> Relaxation:
    found: dict[Node, Lines | PoolLines] = {}
    remaining = iter(positions)
    for node, operand in zip(graph.nonlinear, bounded, strict=True):
        if not isinstance(node.operation, Activation):
            found[node] = method.relax(node, operand)
            continue
        smallest, largest = node.operation.slope_range(*operand)
        lower, upper = (smallest + position * (largest - smallest) for position in next(remaining))
        if node.operation.is_convex:  # no line above is lower anywhere than the chord
            upper = node.operation.chord(*operand)
        found[node] = node.operation.with_slopes(lower, upper, *operand)
    return found
