"""Rows that begin a substitution, against the matrices that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.certify._affine import Affine
from jaxrobust.certify._rows import Dense, Identity, identity
from jaxrobust.certify._trace import trace

RNG = np.random.default_rng(0)
MATRIX = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
CUBE = jnp.asarray(RNG.normal(size=(3, 5, 2)), jnp.float32)

LAYERS = {
    "matrix on the right": lambda x: x @ MATRIX + 1,
    "matrix on the left": lambda x: (MATRIX.T @ x.T).T,
    "two axes, in the other order": lambda x: jnp.einsum("bij,jki->bk", x.reshape(-1, 2, 3), CUBE),
    "shared by columns": lambda x: jnp.einsum("bij,jki->bik", x.reshape(-1, 2, 3), CUBE).reshape(-1, 10),
    "a matrix for each row": lambda x: jnp.einsum("bij,kij->bik", x.reshape(-1, 2, 3), CUBE.reshape(5, 2, 3)).reshape(
        -1, 10
    ),
    "constant after": lambda x: jnp.arange(4.0) + x @ MATRIX,
    "twice": lambda x: x @ MATRIX + 2 * x @ MATRIX,
    "minus": lambda x: 1 - x @ MATRIX,
}


@pytest.mark.parametrize("name", LAYERS)
def test_identity_passes_every_operation_as_its_matrix_does(name):
    graph = trace(LAYERS[name], jax.ShapeDtypeStruct((1, 6), jnp.float32))
    affine = [node for node in graph.nodes if isinstance(node.operation, Affine)]
    assert affine
    for node in affine:
        rows = identity(node.shape, node.aval.dtype)
        expected = rows.dense().through(node.operation)
        for ours, theirs in zip(rows.through(node.operation), expected, strict=True):
            np.testing.assert_allclose(ours.dense().values, theirs.values, atol=1e-6)


def test_a_layer_of_weights_takes_no_product_of_matrices():
    def rows(matrix):
        graph = trace(lambda x: x @ matrix + 1, jax.ShapeDtypeStruct((1, 6), jnp.float32))
        (total,) = (node for node in graph.nodes if node.operation is not None and node.operation.name == "add")
        (here,) = identity(total.shape, jnp.float32).through(total.operation)
        (here,) = here.through(total.operands[0].operation)
        return here.values

    assert "dot_general" not in str(jax.make_jaxpr(rows)(MATRIX))
    np.testing.assert_array_equal(rows(MATRIX), MATRIX.T.reshape(4, 1, 6))


def test_identity_is_its_matrix():
    rows, values = Identity((1, 2, 3), jnp.float32), jnp.asarray(RNG.normal(size=(6, 1, 2, 3)), jnp.float32)
    dense = rows.dense()
    np.testing.assert_array_equal(dense.values.reshape(6, 6), np.eye(6))
    np.testing.assert_array_equal(rows.dot(values[0]), dense.dot(values[0]))
    np.testing.assert_array_equal(rows.dot(values), dense.dot(values))
    np.testing.assert_array_equal(rows.map(jnp.negative).values, -dense.values)
    np.testing.assert_array_equal((rows + Dense(values)).values, dense.values + values)
    np.testing.assert_array_equal((Dense(values) + rows).values, dense.values + values)
