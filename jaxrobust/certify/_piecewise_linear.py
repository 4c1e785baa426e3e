"""A network whose nonlinear operations are piecewise linear, as matrices on the host."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure

from ._activations import Activation
from ._backward import substitute
from ._graph import Graph, Node
from ._max_pool import MaxPool
from ._rows import identity
from ._trace import UnsupportedOperation, trace

MAX_COEFFICIENTS = 50_000_000
"""How many entries a matrix between two nonlinear operations may have: half a gigabyte, and far more than can be solved."""

KINKED = ("relu", "leaky_relu", "absolute")
"""Activations that are linear on either side of zero, with slope 1 on the right."""


class Affine(NamedTuple):
    """``sum_i weights[i] @ value_i + offset``; value 0 is the image, value ``i`` the result of the ``i``-th layer.

    Attributes:
        weights: ``[entries, entries of value i]`` each.
        offset: ``[entries]``.
    """

    weights: dict[int, Any]
    offset: Any


class Kinks(NamedTuple):
    """An activation with a kink at zero: ``max(x, 0) + slope min(x, 0)``, slopes ``[entries]``."""

    slope: Any


class Windows(NamedTuple):
    """Max pooling: which entries of the operand each window holds, int ``[window, outputs]``; -1 outside."""

    entries: Any


class Layer(NamedTuple):
    """A nonlinear operation and the affine function that it is applied to."""

    operand: Affine
    operation: Kinks | Windows


class PiecewiseLinear(NamedTuple):
    """A network: its layers in order, and the logits."""

    layers: tuple[Layer, ...]
    logits: Affine


def piecewise_linear(logits_fn: LogitsFn, image: jax.ShapeDtypeStruct) -> PiecewiseLinear:
    """The matrices of a network on the host, sparse and in double precision.

    Where several affine operations follow each other, their product is rounded to the images' precision.

    Args:
        logits_fn: images ``[1, ...]`` to logits ``[1, classes]``.
        image: shape and dtype of a batch of one image.

    Raises:
        UnsupportedOperation: for nonlinear operations other than ReLU, leaky ReLU, absolute value and max pooling.
        ValueError: for matrices of more than :data:`MAX_COEFFICIENTS` entries.
    """
    dense = jax.device_get(_dense(Closure(logits_fn), tuple(image.shape), jnp.dtype(image.dtype)))
    layers = tuple(Layer(_sparse(layer.operand), layer.operation) for layer in dense.layers)
    return PiecewiseLinear(layers, _sparse(dense.logits))


def _sparse(affine: Affine) -> Affine:
    weights = {source: sparse.csr_array(np.asarray(matrix, np.float64)) for source, matrix in affine.weights.items()}
    return Affine(weights, np.asarray(affine.offset, np.float64))


@partial(jax.jit, static_argnums=(1, 2))
def _dense(logits_fn: Closure, shape: tuple[int, ...], dtype: jnp.dtype) -> PiecewiseLinear:
    with jax.default_matmul_precision("highest"):
        graph = trace(logits_fn, jax.ShapeDtypeStruct(shape, dtype))
        sources = {graph.image: 0, **{node: i for i, node in enumerate(graph.nonlinear, 1)}}
        operations = [_operation(node) for node in graph.nonlinear]
        operands = [node.operands[0] for node in graph.nonlinear]
        for node in (*operands, graph.output):
            _check_size(node)
        affine = [_affine(graph, node, sources) for node in operands]
        layers = tuple(Layer(*parts) for parts in zip(affine, operations, strict=True))
        return PiecewiseLinear(layers, _affine(graph, graph.output, sources))


def _affine(graph: Graph, node: Node, sources: dict[Node, int]) -> Affine:
    """A node as a function of the nonlinear nodes and the image, where backward substitution stops."""
    found = substitute(graph, node, identity(node.shape, node.aval.dtype), {})
    weights = {sources[source]: rows.dense().values.reshape(node.aval.size, -1) for source, rows in found.rows.items()}
    return Affine(weights, jnp.broadcast_to(found.lower, (node.aval.size,)))


def _operation(node: Node) -> Kinks | Windows:
    operation, aval = node.operation, node.operands[0].aval
    if isinstance(operation, MaxPool):
        windows = operation.windows(jnp.arange(aval.size, dtype=jnp.int32).reshape(aval.shape), -1)
        return Windows(windows.reshape(len(windows), -1))
    assert isinstance(operation, Activation)
    if operation.name not in KINKED:
        raise UnsupportedOperation(
            f"an exact answer needs a piecewise linear network, but this one holds {operation.name!r} of {aval.size} values. "
            "Use ReLU, leaky ReLU, absolute value or max pooling; or certified() and radius(), which bound any activation"
        )
    return Kinks(jnp.broadcast_to(jnp.asarray(operation.ends[0], aval.dtype), aval.shape).reshape(-1))


def _check_size(target: Node) -> None:
    """Refuse matrices that take too much memory, themselves or on the way.

    Raises:
        ValueError: naming the size.
    """
    seen, path = {target}, [target]
    while path:
        node = path.pop()
        operands = [] if node.is_nonlinear and node is not target else node.operands
        path.extend(operand for operand in operands if operand not in seen)
        seen.update(operands)
    rows, columns = target.aval.size, max(node.aval.size for node in seen)
    if rows * columns > MAX_COEFFICIENTS:
        raise ValueError(
            f"the network is too large for an exact answer: it computes {rows:,} values from {columns:,} by a matrix of "
            f"{rows * columns:,} entries, more than {MAX_COEFFICIENTS:,}. Use certified() and radius()"
        )
