"""From the jaxpr of a network to its graph.

What does not depend on the image is computed as it stands: parameters, running statistics, masks. Nested ``jit``,
``custom_jvp`` and ``checkpoint`` are entered, so a network may be written in any framework. Activations that JAX spells out
as several primitives, such as GELU, are found again by their expression: the tree of elementwise primitives must be that
of the known function, so that nothing else is taken for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as extend_core

from . import _activations as activations
from ._activations import Activation
from ._affine import Affine, exact_params, is_affine
from ._graph import Graph, Node, Operation, graph_of
from ._max_pool import MaxPool, axes_windows, reduce_window_windows


class UnsupportedOperation(ValueError):
    """The network holds an operation that cannot be bounded."""


@dataclass(frozen=True, eq=False)
class _Value:
    """A value of the jaxpr that depends on the image.

    Attributes:
        node: in the graph; ``None`` if its primitive cannot be bounded by itself.
        aval: shape and dtype.
        expression: primitive, parameters and operands, if it is an elementwise function of them.
        failure: why there is no node.
    """

    node: Node | None
    aval: Any
    expression: tuple[str, tuple[Any, ...], tuple[Any, ...]] | None = None
    failure: str = ""

    def required(self) -> Node:
        """The node.

        Raises:
            UnsupportedOperation: if there is none.
        """
        if self.node is None:
            raise UnsupportedOperation(self.failure)
        return self.node


_ACTIVATIONS: dict[str, Activation] = {
    "logistic": activations.sigmoid,
    "tanh": activations.tanh,
    "atan": activations.arctan,
    "erf": activations.erf,
    "exp": activations.exp,
    "abs": activations.absolute,
    "square": activations.square,
}
_REWRITTEN: dict[str, Callable[..., jax.Array]] = {
    "max": lambda x, y: jax.nn.relu(x - y) + y,
    "min": lambda x, y: x - jax.nn.relu(x - y),
    "clamp": lambda low, x, high: low + jax.nn.relu(x - low) - jax.nn.relu(x - high),
    "expm1": lambda x: jnp.exp(x) - 1,
    "erfc": lambda x: 1 - jax.scipy.special.erf(x),
}
"""Primitives written by others that have linear bounds."""

_COMPARISONS = {"gt": True, "ge": True, "lt": False, "le": False}
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "select_n", "integer_pow", "square", "exp", "exp2"),
    *("log", "log1p", "expm1", "tanh", "logistic", "atan", "erf", "erfc", "erf_inv", "abs", "sign", "sqrt"),
    *("rsqrt", "cbrt", "sin", "cos", "pow", "clamp", "gt", "ge", "lt", "le", "eq", "ne"),
    *("convert_element_type", "and", "or", "not", "is_finite"),
}
_RANDOM = {
    *("random_bits", "random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split"),
    *("random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"),
}
_HINTS = {
    "rsqrt": "batch norm in training mode? Use running statistics; layer norm has no linear bounds here",
    "mul": "a product of two values that both depend on the image",
    "dot_general": "a product of two values that both depend on the image, as in attention",
    "scan": "write the loop over layers out",
    "while": "write the loop out",
}
_SEARCH_DEPTH = 24
"""How many elementwise steps back the argument of an activation is looked for."""


def trace(logits_fn: Callable[[jax.Array], jax.Array], image: jax.ShapeDtypeStruct) -> Graph:
    """The graph of one image's logits, ``[classes]``.

    Args:
        logits_fn: images ``[1, ...]`` to logits ``[1, classes]``.
        image: shape and dtype of a batch of one image, ``[1, ...]``.

    Raises:
        UnsupportedOperation: naming primitive and layer.
        ValueError: for a function that does not return logits, or logits that do not depend on the image.
    """

    def logits_of_one(image: jax.Array) -> jax.Array:
        logits = logits_fn(image)
        if getattr(logits, "ndim", None) != 2 or logits.shape[0] != 1:
            found = logits.shape if hasattr(logits, "shape") else type(logits).__name__
            raise ValueError(
                f"logits_fn must return logits [batch, classes]; for one image it returned {found}. A Flax network in "
                "training mode returns new batch statistics as well: use it with running statistics (train=False)"
            )
        return logits[0]

    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"images must be floating point, got {image.dtype}; divide 8-bit images by 255")
    jaxpr = jax.make_jaxpr(logits_of_one)(image)
    (output,) = _walk(jaxpr.jaxpr, jaxpr.consts, [_Value(Node(None, (), image), image)], _values)
    if not isinstance(output, _Value):
        raise ValueError("the logits do not depend on the images")
    return graph_of(output.required())


def _walk(jaxpr: Any, constants: Any, arguments: list[Any], of_primitive: Callable[..., list[Any]]) -> list[Any]:
    """The results of a jaxpr, each a :class:`_Value` or a constant; ``of_primitive(equation, arguments)`` makes values."""
    found: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else found[atom]

    for equation in jaxpr.eqns:
        values, inner = [read(atom) for atom in equation.invars], _inner_jaxpr(equation)
        if equation.primitive.name in _RANDOM:
            raise UnsupportedOperation(
                f"the network draws random numbers in {_place(equation)}: its logits are no function of the image. Switch "
                "dropout and other stochastic layers off (deterministic=True, train=False)"
            )
        if not any(isinstance(value, _Value) for value in values):
            results = _evaluate(equation, values)
        elif equation.primitive.name == "copy":
            results = values
        elif inner is not None:
            results = _walk(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values, of_primitive)
        else:
            results = of_primitive(equation, values)
        found.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _inner_jaxpr(equation: Any) -> Any:
    """What a call calls; ``None`` for primitives, loops and conditions."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    for parameter in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if hasattr(equation.params.get(parameter), "eqns"):
            return equation.params[parameter]
    return None


def _evaluate(equation: Any, arguments: list[Any]) -> list[Any]:
    """The results of an equation whose arguments are all constants."""
    pairs = zip(equation.invars, arguments, strict=True)
    given = {atom: argument for atom, argument in pairs if not hasattr(atom, "val")}
    jaxpr = extend_core.Jaxpr((), list(given), equation.outvars, [equation], equation.effects)
    function = extend_core.jaxpr_as_fun(extend_core.ClosedJaxpr(jaxpr, ()))
    if any(isinstance(argument, jax.core.Tracer) for argument in arguments):
        return list(function(*given.values()))
    with jax.ensure_compile_time_eval():  # numbers, which expressions are compared by
        return list(function(*given.values()))


def _values(equation: Any, arguments: list[Any]) -> list[Any]:
    return [_value(equation, arguments, i) for i in range(len(equation.outvars))]


def _value(equation: Any, arguments: list[Any], index: int) -> _Value:
    """One result of a primitive, some of whose arguments depend on the image."""
    name, params = equation.primitive.name, equation.params
    depends = [isinstance(argument, _Value) for argument in arguments]
    variable = equation.outvars[index].aval
    aval = jax.ShapeDtypeStruct(variable.shape, variable.dtype)
    expression = _expression(equation, arguments)
    values = [argument for argument in arguments if isinstance(argument, _Value)]

    def of(operation: Operation, operands: list[_Value]) -> _Value:
        return _Value(Node(operation, tuple(value.required() for value in operands), aval), aval, expression)

    if expression is not None and (known := _known_activation(_Value(None, aval, expression))) is not None:
        activation, argument = known
        return of(activation, [argument])
    if all(value.node is not None for value in values):
        if name == "convert_element_type" and aval.dtype == values[0].aval.dtype:
            return values[0]
        if is_affine(name, depends) and not _rounds(name, values, aval):
            placed = tuple(None if isinstance(a, _Value) else jnp.asarray(a) for a in arguments)
            avals = tuple(jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype) for value in values)
            return of(Affine(equation.primitive, exact_params(name, params), placed, avals, index), values)
        if name in _ACTIVATIONS:
            return of(_ACTIVATIONS[name], values)
        if name == "integer_pow" and params["y"] == 2:
            return of(activations.square, values)
        if (pool := _max_pool(name, params, values[0].aval)) is not None:
            return of(pool, values)
        if name in _REWRITTEN:
            return _rewritten(_REWRITTEN[name], arguments, expression)
    elif expression is None:
        next(value for value in values if value.node is None).required()
    blamed = next((value.failure for value in values if value.node is None), None)
    return _Value(None, aval, expression, blamed or _failure(equation, aval))


def _rewritten(function: Callable[..., jax.Array], arguments: list[Any], expression: Any) -> _Value:
    arguments = sorted(arguments, key=lambda a: not isinstance(a, _Value)) if len(arguments) == 2 else arguments
    avals = [a.aval if isinstance(a, _Value) else jnp.asarray(a) for a in arguments]
    jaxpr = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
    (result,) = _walk(jaxpr.jaxpr, jaxpr.consts, arguments, _values)
    return _Value(result.required(), result.aval, expression)


def _rounds(name: str, values: list[_Value], aval: Any) -> bool:
    """Whether a conversion loses digits, which no linear function does."""
    if name != "convert_element_type":
        return False
    return not jnp.issubdtype(aval.dtype, jnp.floating) or bool(
        jnp.finfo(aval.dtype).nmant < jnp.finfo(values[0].aval.dtype).nmant
    )


def _max_pool(name: str, params: dict[str, Any], aval: Any) -> MaxPool | None:
    operand = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    if name == "reduce_max":
        return MaxPool(axes_windows(params["axes"], aval.shape), operand)
    if name == "reduce_window_max" and set(params["base_dilation"]) == {1}:
        names = ("window_dimensions", "window_strides", "padding", "window_dilation")
        return MaxPool(reduce_window_windows(*(params[key] for key in names)), operand)
    return None


def _failure(equation: Any, aval: Any) -> str:
    name = equation.primitive.name
    hint = _HINTS.get(name, "")
    if name == "convert_element_type":
        hint = f"to {aval.dtype}: rounding cannot be bounded, certify the network in the images' precision"
    return (
        f"no bounds are known for the primitive {name!r}{' (' + hint + ')' if hint else ''} in {_place(equation)}. Known are "
        "affine layers (dense, convolution, average pooling, inference batch norm, residual connections, reshaping), max "
        "pooling and the activations relu, leaky_relu, elu, sigmoid, tanh, arctan, softplus, gelu, silu, exp, abs, clip"
    )


def _place(equation: Any) -> str:
    stack = str(equation.source_info.name_stack)
    return f"layer {stack!r}" if stack else "a layer without a name"


# --- Activations that are written as several primitives


def _known_activation(value: _Value) -> tuple[Activation, _Value] | None:
    """The activation that an elementwise expression is, and its argument."""
    if not jnp.issubdtype(value.aval.dtype, jnp.floating):
        return None
    for argument in _arguments_of(value):
        if argument.node is None:
            continue
        if (leaky := _leaky_relu(value, argument)) is not None:
            return leaky, argument
        key = _key(value, argument)
        if key is not None and (activation := _known(jnp.dtype(value.aval.dtype).name).get(key)) is not None:
            return activation, argument
    return None


def _arguments_of(value: _Value) -> Iterator[_Value]:
    """What an expression may be a function of, nearest first; the argument of an activation of one primitive is left out."""
    layer, seen = [value], {value}
    for _ in range(_SEARCH_DEPTH):
        deeper: list[_Value] = []
        for current in layer:
            for operand in current.expression[2] if current.expression else ():
                if isinstance(operand, _Value) and operand not in seen:
                    seen.add(operand)
                    deeper.append(operand)
        yield from deeper
        layer = deeper


def _key(value: Any, argument: _Value) -> Any:
    """An expression as a tree of primitives and numbers; ``None`` if it is a function of something else as well."""
    if value is argument:
        return "x"
    if not isinstance(value, _Value):
        return _number(value)
    if value.expression is None:
        return None
    name, params, operands = value.expression
    if name == "convert_element_type":
        return _key(operands[0], argument) if isinstance(operands[0], _Value) else None
    keys = tuple(_key(operand, argument) for operand in operands)
    return None if None in keys else (name, params, keys)


def _number(constant: Any) -> float | None:
    """The number that a constant consists of; ``None`` for different ones, and for those yet unknown."""
    if isinstance(constant, jax.core.Tracer) or not np.size(constant):
        return None
    values = np.asarray(constant)
    return float(values.flat[0]) if (values == values.flat[0]).all() else None


def _leaky_relu(value: _Value, argument: _Value) -> Activation | None:
    """``where(x > 0, x, slope x)``, whatever the slope is."""
    assert value.expression is not None
    name, _, operands = value.expression
    if name != "select_n" or len(operands) != 3 or not isinstance(operands[0], _Value):
        return None
    comparison = operands[0].expression
    if comparison is None or comparison[0] not in _COMPARISONS:
        return None
    if comparison[2][0] is not argument or _number(comparison[2][1]) != 0:
        return None
    otherwise, chosen = operands[1:] if _COMPARISONS[comparison[0]] else operands[:0:-1]
    if chosen is not argument or not isinstance(otherwise, _Value) or otherwise.expression is None:
        return None
    product, _, factors = otherwise.expression
    slopes = [factor for factor in factors if not isinstance(factor, _Value)]
    if product != "mul" or argument not in factors or len(slopes) != 1:
        return None
    return activations.leaky_relu(slopes[0])


@functools.lru_cache
def _known(dtype: str) -> dict[Any, Activation]:
    """Expressions of JAX's own activations."""
    references: list[tuple[Callable[..., jax.Array], Activation]] = [
        (jax.nn.relu, activations.relu),
        (lambda x: jnp.maximum(0, x), activations.relu),
        (jax.nn.softplus, activations.softplus),
        (jax.nn.silu, activations.silu),
        (functools.partial(jax.nn.gelu, approximate=False), activations.gelu),
        (functools.partial(jax.nn.gelu, approximate=True), activations.gelu_tanh),
        (jax.nn.elu, activations.elu),
    ]
    found, aval = {}, jax.ShapeDtypeStruct((2,), dtype)
    for function, activation in references:
        jaxpr, argument = jax.make_jaxpr(function)(aval), _Value(None, aval)
        with jax.ensure_compile_time_eval():
            (value,) = _walk(jaxpr.jaxpr, jaxpr.consts, [argument], _expressed)
        found[_key(value, argument)] = activation
    return found


def _expressed(equation: Any, arguments: list[Any]) -> list[Any]:
    return [_Value(None, equation.outvars[0].aval, _expression(equation, arguments))]


def _expression(equation: Any, arguments: list[Any]) -> tuple[str, tuple[Any, ...], tuple[Any, ...]] | None:
    name, params = equation.primitive.name, equation.params
    kept = tuple(params[key] for key in ("y",) if key in params)
    return (name, kept, tuple(arguments)) if name in _ELEMENTWISE else None
