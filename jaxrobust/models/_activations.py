"""Activation functions by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = str
"""Name of an activation function, see :class:`Activate`."""

Function = Callable[[jax.Array], jax.Array]
_FIXED: dict[str, Function] = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "silu": nn.silu,
}
_PARAMETRIC = ("parametric_relu", "parametric_silu", "parametric_softplus")
_START = {"parametric_relu": 0.25, "parametric_silu": 1.0, "parametric_softplus": 1.0}


def softplus(x: jax.Array, sharpness: jax.Array | float = 1.0) -> jax.Array:
    """``log(1 + exp(sharpness x)) / sharpness``: a smooth ReLU, nearer to it the sharper.

    Its largest second derivative is ``sharpness / 4``, and it lies above ReLU by at most ``log(2) / sharpness``, at zero.

    Example:
        >>> softplus(jnp.array([0.0, 3.0]), 10.0).round(4).tolist()
        [0.0693, 3.0]
    """
    return nn.softplus(sharpness * x) / sharpness


def fixed_activation(name: Activation) -> Function | None:
    """The function of this name, or ``None`` if it has parameters to learn.

    Raises:
        ValueError: for an unknown name, or a sharpness that is not a positive number.
    """
    if name in _PARAMETRIC:
        return None
    if name in _FIXED:
        return _FIXED[name]
    kind, colon, number = name.partition(":")
    if kind != "softplus":
        raise ValueError(f"unknown activation {name!r}; choose {', '.join(activation_names())}")
    try:
        sharpness = float(number) if colon else 1.0
    except ValueError:
        sharpness = math.nan
    if not 0 < sharpness < math.inf:
        raise ValueError(f"the sharpness of softplus must be a positive number, as in softplus:10, got {name!r}")
    return partial(softplus, sharpness=sharpness)


def activation_names() -> tuple[str, ...]:
    """Names that networks take as ``activation``; ``softplus:10`` is a softplus of sharpness 10."""
    return (*_FIXED, "softplus", "softplus:SHARPNESS", *_PARAMETRIC)


class Activate(nn.Module):
    """An activation function that a network can exchange for another one.

    The names without parameters leave a network's variables as they are, so the same weights run with any of them:
    ``model.clone(activation="gelu")`` is the activation swap of the gradient-norm study.

    * ``"relu"``, ``max(x, 0)``; its second derivative is a spike at zero that automatic differentiation does not see, so
      penalties on derivatives are partly blind with it.
    * ``"gelu"``, ``x Phi(x)``, exact as PyTorch's default; ``"gelu_tanh"``, its approximation, JAX's and TensorFlow's default.
    * ``"silu"``, ``x sigmoid(x)``, also known as swish.
    * ``"softplus"`` and ``"softplus:B"``, ``log(1 + exp(B x)) / B``, see :func:`softplus`.

    The others learn one number ``a`` per layer, in its parameter ``"shape"`` (Dai et al., 2022, study such functions in
    adversarial training):

    * ``"parametric_relu"``, ``max(x, 0) + a min(x, 0)``, ``a = 0.25`` at first (He et al., 2015);
    * ``"parametric_silu"``, ``x sigmoid(a x)``, and ``"parametric_softplus"``, ``log(1 + exp(a x)) / a``, ``a = 1`` at first.
      ``a`` is ``exp(shape)`` there, which keeps it positive.

    Attributes:
        function: the name.

    Example:
        >>> x = jnp.array([-1.0, 2.0])
        >>> Activate("parametric_relu").init_with_output(jax.random.key(0), x)[0].tolist()
        [-0.25, 2.0]
    """

    function: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Any array to the same shape.

        Raises:
            ValueError: for an unknown name.
        """
        fixed = fixed_activation(self.function)
        if fixed is not None:
            return fixed(x)
        start = _START[self.function]
        if self.function == "parametric_relu":
            slope = self.param("shape", nn.initializers.constant(start), (), jnp.float32).astype(x.dtype)
            return jnp.where(x > 0, x, slope * x)
        shape = self.param("shape", nn.initializers.constant(math.log(start)), (), jnp.float32)
        sharpness = jnp.exp(shape).astype(x.dtype)
        return x * nn.sigmoid(sharpness * x) if self.function == "parametric_silu" else softplus(x, sharpness)
