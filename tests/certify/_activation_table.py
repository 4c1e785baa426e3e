"""All activations with independent references in double precision."""

import numpy as np
from scipy import special

from jaxrobust.certify import _activations as activations


def _gelu_tanh(x):
    return x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def _elu(alpha):
    return lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _exp(x):
    with np.errstate(over="ignore"):
        return np.exp(x)


TABLE = {
    "relu": (activations.relu, lambda x: np.maximum(x, 0)),
    "leaky_relu(0.125)": (activations.leaky_relu(0.125), lambda x: np.maximum(x, 0.125 * x)),
    "leaky_relu(2)": (activations.leaky_relu(2.0), lambda x: np.minimum(x, 2 * x)),
    "leaky_relu(-0.5)": (activations.leaky_relu(-0.5), lambda x: np.maximum(x, -0.5 * x)),
    "absolute": (activations.absolute, np.abs),
    "elu": (activations.elu, _elu(1.0)),
    "elu_with_alpha(2)": (activations.elu_with_alpha(2.0), _elu(2.0)),
    "clip": (activations.clip(-1.0, 2.0), lambda x: np.clip(x, -1, 2)),
    "sigmoid": (activations.sigmoid, special.expit),
    "tanh": (activations.tanh, np.tanh),
    "arctan": (activations.arctan, np.arctan),
    "erf": (activations.erf, special.erf),
    "softplus": (activations.softplus, lambda x: np.logaddexp(x, 0)),
    "exp": (activations.exp, _exp),
    "square": (activations.square, np.square),
    "gelu": (activations.gelu, lambda x: x * special.ndtr(x)),
    "gelu_tanh": (activations.gelu_tanh, _gelu_tanh),
    "silu": (activations.silu, lambda x: x * special.expit(x)),
}
S_SHAPED = ("sigmoid", "tanh", "arctan", "erf")
