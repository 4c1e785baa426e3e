"""From functions to graphs: what is recognised, and what is refused."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import Linf, certify
from jaxrobust.certify._trace import UnsupportedOperation, trace

VECTOR = jax.ShapeDtypeStruct((1, 3), jnp.float32)


def names(function, aval=VECTOR):
    """Names of the nonlinear operations of a network."""
    return [getattr(node.operation, "name", "max_pool") for node in trace(function, aval).nonlinear]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (jax.nn.relu, "relu"),
        (lambda x: jnp.maximum(x, 0), "relu"),
        (lambda x: jnp.maximum(0, x), "relu"),
        (jax.nn.sigmoid, "sigmoid"),
        (jnp.tanh, "tanh"),
        (jnp.arctan, "arctan"),
        (jax.lax.erf, "erf"),
        (jnp.exp, "exp"),
        (jax.nn.softplus, "softplus"),
        (jax.nn.silu, "silu"),
        (lambda x: x * jax.nn.sigmoid(x), "silu"),
        (jax.nn.gelu, "gelu_tanh"),
        (partial(jax.nn.gelu, approximate=False), "gelu"),
        (jax.nn.elu, "elu"),
        (jnp.abs, "absolute"),
        (jnp.square, "square"),
        (lambda x: x**2, "square"),
        (partial(jax.nn.leaky_relu, negative_slope=0.2), "leaky_relu"),
        (lambda x: jnp.where(x < 0, 0.1 * x, x), "leaky_relu"),
        (lambda x: jax.checkpoint(jax.jit(jax.nn.gelu))(x), "gelu_tanh"),
    ],
)
def test_activations_are_found_however_they_are_written(function, name):
    found = names(lambda x: function(2 * x + 1))
    assert [text.split("(")[0] for text in found] == [name]


@pytest.mark.parametrize("function", [jax.nn.relu6, lambda x: jnp.clip(x, -1, 2), lambda x: jax.lax.clamp(0.1, x, 0.5)])
def test_clipping_is_made_of_relus(function):
    assert names(function) == ["relu", "relu"]


def test_the_larger_of_two_values_is_a_relu_of_their_difference():
    assert names(lambda x: jnp.maximum(x @ jnp.eye(3), x @ jnp.ones((3, 3)))) == ["relu"]


def test_an_activation_of_an_activation_is_two():
    assert names(lambda x: jax.nn.silu(jax.nn.softplus(x))) == ["softplus", "silu"]


def test_what_does_not_depend_on_the_image_is_computed():
    graph = trace(lambda x: x * jnp.sin(jnp.arange(3.0)) + jax.lax.fori_loop(0, 3, lambda i, s: s + 1.0, 0.0), VECTOR)
    assert [node.operation.name for node in graph.nodes[1:-1]] == ["mul", "add"]


def test_values_are_put_together_and_taken_apart():
    def network(x):
        left, right = jnp.split(x, [1], axis=1)
        stacked = jnp.stack([right[:, 0], right[:, 1], left[:, 0]], 1)
        return jnp.concatenate([jnp.pad(stacked, ((0, 0), (1, 0))), jnp.flip(x, 1), x[:, jnp.array([2, 0])]], 1)

    image = jnp.array([[0.1, 0.2, 0.3]])
    found = certify.interval_bounds(network, image, Linf(0.0))
    assert found.lower.tolist() == network(image).tolist()


def test_the_graph_of_parameters_under_jit_is_the_same():
    @jax.jit
    def count(weight):
        graph = trace(lambda x: jax.nn.elu(x @ weight), VECTOR)
        return jnp.asarray([len(graph.nodes), len(graph.nonlinear)])

    graph = trace(lambda x: jax.nn.elu(x @ jnp.eye(3)), VECTOR)
    assert count(jnp.eye(3)).tolist() == [len(graph.nodes), len(graph.nonlinear)]


def test_a_function_that_looks_like_gelu_but_is_not_is_refused():
    def almost(x):
        return x * 0.5 * (1 + jnp.tanh(0.8 * (x + 0.044715 * x**3)))

    with pytest.raises(UnsupportedOperation, match="'integer_pow'"):
        trace(almost, VECTOR)


class Refused(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        if self.kind == "sin":
            x = jnp.sin(x)
        elif self.kind == "layer norm":
            x = nn.LayerNorm(name="norm")(x)
        elif self.kind == "attention":
            x = x @ x.T @ x
        elif self.kind == "dropout":
            x = nn.Dropout(0.5, deterministic=False)(x, rng=jax.random.key(0))
        elif self.kind == "half":
            x = x.astype(jnp.bfloat16).astype(jnp.float32)
        elif self.kind == "loop":
            x = jax.lax.fori_loop(0, 3, lambda i, y: 2 * y, x)
        return nn.Dense(3, name="last")(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sin", "'sin' in layer 'Refused'"),
        ("layer norm", "batch norm in training mode"),
        ("attention", "'dot_general'"),
        ("dropout", "deterministic=True"),
        ("half", "rounding"),
        ("loop", "write the loop"),
    ],
)
def test_what_cannot_be_bounded_is_named_with_its_layer(kind, message):
    model = Refused(kind)
    variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
    with pytest.raises(UnsupportedOperation, match=message) as failure:
        certify.margins(partial(model.apply, variables), jnp.ones((2, 3)), jnp.array([0, 1]), Linf(0.1))
    assert isinstance(failure.value, ValueError)


def test_functions_that_return_no_logits_are_refused():
    with pytest.raises(ValueError, match="must return logits"):
        trace(lambda x: x[0], VECTOR)
    with pytest.raises(ValueError, match="train=False"):
        trace(lambda x: (x, {}), VECTOR)
    with pytest.raises(ValueError, match="do not depend"):
        trace(lambda x: jnp.ones((1, 3)), VECTOR)
    with pytest.raises(ValueError, match="divide 8-bit"):
        trace(lambda x: x, jax.ShapeDtypeStruct((1, 3), np.uint8))


def test_deep_networks_need_no_recursion():
    def deep(x):
        for _ in range(1200):
            x = x + 1.0
        return x

    assert len(trace(deep, VECTOR).nodes) > 1200
