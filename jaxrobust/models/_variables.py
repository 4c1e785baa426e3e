"""Which variables a network has, and whether given ones are those."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

Shape = tuple[int, ...]


def expected_shapes(model: nn.Module, image_shape: Shape) -> dict[str, Shape]:
    """Shapes of the network's variables by names such as ``"params/conv_0/conv/kernel"``; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), getattr(model, "dtype", jnp.float32))
    return _shapes(jax.eval_shape(model.init, jax.random.key(0), images))


def check_variables(model: nn.Module, variables: Mapping[str, Any], image_shape: Shape) -> None:
    """Raise unless the variables have the names and shapes that the network has for images of this shape.

    Args:
        model: the network.
        variables: ``{"params": ...}`` and, with batch norm, ``"batch_stats"``.
        image_shape: ``(height, width, channels)``, for audio ``(samples, channels)``.

    Raises:
        ValueError: naming what is missing, what is too much and what has another shape.

    Example:
        >>> from jaxrobust import models
        >>> model = models.MLP(classes=3, widths=(4,))
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
        >>> models.check_variables(model, variables, (2, 2, 1))
    """
    wanted, given = expected_shapes(model, image_shape), _shapes(variables)
    problems = misfit(wanted.keys() - given.keys(), given.keys() - wanted.keys(), differences(given, wanted))
    if problems:
        raise ValueError(
            f"the variables are not those of this {type(model).__name__} for images {image_shape}. {problems}. "
            "Make the network with the options it was trained with, and give the variables of one network, running "
            "statistics included"
        )


def misfit(missing: Collection[str], unused: Collection[str], wrong: Collection[str]) -> str:
    """What does not fit, in words; empty if nothing is missing, unused or wrong."""
    parts = (("Missing", missing, ", "), ("Not in the network", unused, ", "), ("Of another shape", wrong, "; "))
    return ". ".join(f"{title}: {listed(names, separator)}" for title, names, separator in parts if names)


def differences(given: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    """One phrase for each name that both have with different shapes."""
    return [
        f"{name} is {given[name]}, the network wants {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]


def listed(names: Collection[str], separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    names = sorted(names)
    return separator.join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def to_float32(path: str, array: Any, name: str | None = None) -> jax.Array:
    """A weight in float32.

    Args:
        path: its place among the variables.
        array: its values.
        name: what to call it in messages, if not by its place.

    Raises:
        ValueError: if it is not floating point, is not finite in float32, or is a variance with negative entries.
    """
    array, name = np.asarray(array), name or path
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} is of type {array.dtype}; weights must be floating point, not quantised")
    with np.errstate(over="ignore"):  # found below, with a message that says where
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite in float32: the training diverged or the file is damaged")
    if path.endswith("/var") and (array < 0).any():
        raise ValueError(f"{name} is a variance but has negative entries: the file is damaged or the name is wrong")
    return jnp.asarray(array)


def _shapes(variables: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: np.shape(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
