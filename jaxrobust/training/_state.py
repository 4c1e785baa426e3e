"""The training state, and how a network is applied."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """Everything a training step reads and writes; a pytree.

    Attributes:
        step: number of updates made, int32 scalar.
        params: trainable parameters.
        model_state: the other variable collections, e.g. ``{"batch_stats": ...}``; empty without batch norm.
        opt_state: state of the Optax optimizer.
        key: random key of the run; step ``t`` uses ``fold_in(key, t)``, so a resumed run draws the same numbers.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and model state together, as ``model.apply`` takes them."""
        return {"params": self.params, **self.model_state}


class Apply(Protocol):
    """``apply(variables, images, train=...) -> (logits, new model state)``.

    With ``train=False`` batch norm uses its running statistics and the new model state is the old one.
    """

    def __call__(
        self, variables: Any, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Apply the network."""
        ...


def linen_apply(model: nn.Module) -> Apply:
    """The :class:`Apply` function of a Flax Linen module whose ``__call__`` takes ``train``."""

    def apply(variables: Any, images: jax.Array, *, train: bool, key: jax.Array | None = None) -> Any:
        model_state = {name: value for name, value in variables.items() if name != "params"}
        if not train:
            return model.apply(variables, images, train=False), model_state
        rngs = None if key is None else {"dropout": key}
        if not model_state:
            return model.apply(variables, images, train=True, rngs=rngs), model_state
        return model.apply(variables, images, train=True, rngs=rngs, mutable=list(model_state))

    return apply


def init_state(
    model: nn.Module, key: jax.Array, images: jax.Array, optimizer: optax.GradientTransformation
) -> TrainState:
    """Initial state of a Flax Linen module for images of the given shape and dtype (values are not read).

    Args:
        model: its attributes must be hashable: equal models share one compiled initialisation.
        key: of the run; one half draws the parameters.
        images: one batch, ``[batch, height, width, channels]``.
        optimizer: whose state is made for the parameters.
    """
    init_key, run_key = jax.random.split(key)
    variables = dict(_init_variables(model, init_key, images))
    params = variables.pop("params")
    return TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), run_key)


@functools.partial(jax.jit, static_argnums=0)  # compiling the random draws takes seconds, so once per model
def _init_variables(model: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    return model.init(key, images)
