"""The training state, and how a network is applied."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ._averaging import AverageState, Averaging


class TrainState(NamedTuple):
    """Everything a training step reads and writes; a pytree.

    Attributes:
        step: number of updates made, int32 scalar.
        params: trainable parameters.
        model_state: the other variable collections, e.g. ``{"batch_stats": ...}``; empty without batch norm.
        opt_state: state of the Optax optimizer.
        key: random key of the run; step ``t`` uses ``fold_in(key, t)``, so a resumed run draws the same numbers.
        average: averaged parameters, see :class:`Averaging`; ``None`` without averaging.
        memory: what else a method remembers from step to step; ``None`` for most.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    key: jax.Array
    average: AverageState | None = None
    memory: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and model state together, as ``model.apply`` takes them."""
        return {"params": self.params, **self.model_state}

    @property
    def averaged_variables(self) -> dict[str, Any]:
        """The averaged parameters with the current model state; without averaging, the variables themselves.

        Batch-norm statistics are those of the last step, not averaged (Wang et al., 2023). Stochastic weight averaging
        wants them computed anew, see :func:`recompute_batch_statistics`.
        """
        return self.variables if self.average is None else {"params": self.average.params, **self.model_state}


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
    model: nn.Module,
    key: jax.Array,
    images: jax.Array,
    optimizer: optax.GradientTransformation,
    *,
    averaging: Averaging | None = None,
    variables: Any = None,
) -> TrainState:
    """Initial state of a Flax Linen module for images of the given shape and dtype (values are not read).

    Args:
        model: its attributes must be hashable: equal models share one compiled initialisation.
        key: of the run; one half draws the parameters.
        images: one batch, ``[batch, height, width, channels]``.
        optimizer: whose state is made for the parameters.
        averaging: how parameters are averaged over the steps, if at all; give it to :func:`make_train_step` as well.
        variables: parameters and model state to start from, ``{"params": ..., ...}``; random ones by default.
    """
    init_key, run_key = jax.random.split(key)
    start = _init_variables(model, init_key, images) if variables is None else jax.tree.map(jnp.asarray, variables)
    model_state = dict(start)
    params = model_state.pop("params")
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        model_state,
        optimizer.init(params),
        run_key,
        None if averaging is None else averaging.init(params),
    )


@functools.partial(jax.jit, static_argnums=0)  # compiling the random draws takes seconds, so once per model
def _init_variables(model: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    return model.init(key, images)
