"""Affine operations of a jaxpr, with what their bounds need: the linear part, its transpose and its absolute value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._convolution import interleaves, transpose_by_interleaving

_FACTORS: dict[str, tuple[int, ...]] = {
    "mul": (0, 1),
    "div": (1,),
    "dot_general": (0, 1),
    "conv_general_dilated": (0, 1),
    "select_n": (0,),
    "gather": (1,),
    "dynamic_slice": tuple(range(1, 32)),
}
"""Arguments that, if constant, multiply or select. Constants elsewhere are added."""

_SUMS = {
    *("add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum", "broadcast_in_dim"),
    *("reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "split", "concatenate", "stack", "pad"),
    *("convert_element_type", "sharding_constraint"),
}
_ONE_NODE = {"mul", "dot_general", "conv_general_dilated", "gather", "dynamic_slice"}
"""Linear in each of their arguments, or in the first, but not in two at a time."""


def is_affine(name: str, depends: list[bool]) -> bool:
    """Whether a primitive is an affine function of those arguments that depend on the image."""
    if name in _SUMS:
        return True
    if name in _ONE_NODE:
        return sum(depends) == 1 and (name not in ("gather", "dynamic_slice") or depends[0])
    if name == "div":
        return depends == [True, False]
    return name == "select_n" and not depends[0]


@dataclass(frozen=True, eq=False)
class Affine:
    """A primitive with its constants in place.

    Attributes:
        primitive, params: of the jaxpr's equation.
        arguments: constants, and ``None`` where an operand goes.
        operand_avals: shapes and dtypes of the operands.
        output: which of the primitive's results it is, if there are several.
    """

    primitive: Any
    params: dict[str, Any]
    arguments: tuple[Any, ...]
    operand_avals: tuple[jax.ShapeDtypeStruct, ...]
    output: int = 0

    @property
    def name(self) -> str:
        """Of the primitive."""
        return str(self.primitive.name)

    @property
    def has_offset(self) -> bool:
        """Whether it adds something: whether it is not linear."""
        return any(not self._is_factor(i) for i, argument in enumerate(self.arguments) if argument is not None)

    def evaluate(self, *operands: jax.Array) -> jax.Array:
        """Its value."""
        return self._bind(self.primitive, self.arguments, operands)

    def linear(self, *operands: jax.Array) -> jax.Array:
        """Without what it adds."""
        return self._bind(self.primitive, self._arguments(), operands)

    def absolute(self, *operands: jax.Array) -> jax.Array:
        """The linear part with the absolute values of its coefficients."""
        if self.name == "neg":
            return operands[0]
        primitive = lax.add_p if self.name == "sub" else self.primitive
        return self._bind(primitive, self._arguments(absolute=True), operands)

    def transpose(self, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        """The transposed linear part, by JAX's own rules, as good as always: one value per operand."""
        if self.name == "conv_general_dilated" and self.arguments[0] is None and interleaves(self.params):
            (operand,) = self.operand_avals
            return (transpose_by_interleaving(self.params, self.arguments[1], operand, cotangent),)
        return jax.linear_transpose(self.linear, *self.operand_avals)(cotangent)

    def offset(self) -> jax.Array:
        """Its value at zero."""
        return self.evaluate(*(jnp.zeros(aval.shape, aval.dtype) for aval in self.operand_avals))

    def _is_factor(self, index: int) -> bool:
        return index in _FACTORS.get(self.name, ())

    def _arguments(self, absolute: bool = False) -> tuple[Any, ...]:
        def changed(index: int, argument: Any) -> Any:
            if argument is None:
                return None
            if not self._is_factor(index):
                return jnp.zeros_like(argument)
            return jnp.abs(argument) if absolute and jnp.issubdtype(argument.dtype, jnp.floating) else argument

        return tuple(changed(i, argument) for i, argument in enumerate(self.arguments))

    def _bind(self, primitive: Any, arguments: tuple[Any, ...], operands: tuple[jax.Array, ...]) -> jax.Array:
        remaining = iter(operands)
        values = [next(remaining) if argument is None else argument for argument in arguments]
        result = primitive.bind(*values, **self.params)
        return result[self.output] if primitive.multiple_results else result


def exact_params(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a primitive, with full precision for products: accelerators round them by default."""
    if name in ("dot_general", "conv_general_dilated"):
        return {**params, "precision": (lax.Precision.HIGHEST, lax.Precision.HIGHEST)}
    return params
