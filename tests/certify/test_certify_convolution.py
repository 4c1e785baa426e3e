"""The transpose of strided convolutions by interleaving, against JAX's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.certify._convolution import interleaves, is_plain, transpose_by_interleaving

CASES = list(
    itertools.product(
        [(9, 7), (8, 12)],
        [(3, 3), (4, 2), (1, 1), (5, 3)],
        [(2, 2), (3, 1)],
        ["SAME", ((1, 2), (0, 1)), ((0, 0), (3, 0))],
        [1, 2],
    )
)


def problem(size, window, strides, padding, groups):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(*window, 4 // groups, 6)), jnp.float32)
    operand = jax.ShapeDtypeStruct((2, *size, 4), jnp.float32)

    def convolution(images, kernel=kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=layout, feature_group_count=groups
        )

    shape = jax.eval_shape(convolution, operand).shape
    cotangent = jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = jax.make_jaxpr(convolution)(operand).eqns[-1].params
    return convolution, params, kernel, operand, cotangent


@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_it_is_the_transpose(case):
    convolution, params, kernel, operand, cotangent = problem(*case)
    (expected,) = jax.linear_transpose(convolution, operand)(cotangent)
    found = transpose_by_interleaving(params, kernel, operand, cotangent)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_transpose_in_every_case(case):
    test_it_is_the_transpose(case)


def test_its_derivatives_are_those_of_the_transpose():
    convolution, params, kernel, operand, cotangent = problem(*CASES[0])

    def by_jax(kernel, cotangent):
        return jax.linear_transpose(lambda x: convolution(x, kernel), operand)(cotangent)[0]

    weights = jnp.linspace(-1, 1, 2 * 9 * 7 * 4).reshape(operand.shape)
    expected = jax.grad(lambda *x: (weights * by_jax(*x)).sum(), (0, 1))(kernel, cotangent)
    found = jax.grad(lambda *x: (weights * transpose_by_interleaving(params, x[0], operand, x[1])).sum(), (0, 1))(
        kernel, cotangent
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_it_is_used_for_strides_without_dilation():
    assert interleaves(problem((8, 8), (3, 3), (2, 1), "SAME", 1)[1])
    assert not interleaves(problem((8, 8), (3, 3), (1, 1), "SAME", 1)[1])
    params = problem((8, 8), (3, 3), (2, 2), "SAME", 1)[1]
    assert not interleaves({**params, "rhs_dilation": (2, 2)})
    assert not is_plain({**params, "lhs_dilation": (2, 2)})
