"""Layer norms against explicit matrices, and Lipschitz bounds against slopes of random networks."""

import math
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import curvature
from jaxrobust.curvature import (
    ACTIVATION_CONSTANTS,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Elementwise,
    MaxPool,
    Residual,
    Scale,
    certified_radius,
    layer_norm,
    layer_norms,
    lipschitz_upper_bound,
)

KEY = jax.random.key(0)
NORMS = [1, 2, math.inf]
SAME = ((1, 1), (1, 1))
NO_PADDING = ((0, 0), (0, 0))
norm = partial(layer_norm, key=KEY)


def apply(layer, x):
    """What a description stands for, without biases; ``x`` is ``[batch, ...]``."""
    match layer:
        case Dense():
            return x.reshape(len(x), -1) @ layer.kernel
        case Conv():
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, layer.kernel, layer.strides, layer.padding, dimension_numbers=dimensions
            )
        case MaxPool() | AveragePool():
            window, strides = (1, *layer.window, 1), (1, *layer.strides, 1)
            padding = ((0, 0), *layer.padding, (0, 0))
            if isinstance(layer, MaxPool):
                return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
            return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding) / math.prod(layer.window)
        case Scale():
            return x * layer.scale
        case BatchNorm():
            return x * (layer.scale / jnp.sqrt(layer.variance + layer.epsilon))
        case Elementwise():
            return jax.nn.relu(x)
        case Residual():
            return run(layer.shortcut, x) + run(layer.branch, x)


def run(layers, x):
    for layer in layers:
        x = apply(layer, x)
    return x


apply_compiled = jax.jit(apply)


def matrix(layer, shape):
    """The explicit matrix of a linear layer, acting on column vectors."""
    identity = np.eye(math.prod(shape), dtype=np.result_type(*jax.tree.leaves(layer), np.float32))
    return np.asarray(apply_compiled(layer, identity.reshape(-1, *shape))).reshape(len(identity), -1).T


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def random_conv(seed, size=5, inputs=2, outputs=3, kernel=(3, 3), strides=(1, 1), padding=SAME, dtype=np.float32):
    return Conv(normal(seed, *kernel, inputs, outputs, dtype=dtype), (size, size), strides, padding)


CONVOLUTIONS = {
    "plain": random_conv(0),
    "wide": random_conv(1, inputs=1, outputs=6),
    "narrow": random_conv(2, inputs=5, outputs=1),
    "unpadded": random_conv(3, padding=NO_PADDING),
    "stride": random_conv(4, size=6, strides=(2, 2)),
    "uneven": random_conv(5, size=7, kernel=(2, 3), strides=(3, 2), padding=((0, 1), (2, 1))),
    "pointwise": random_conv(6, kernel=(1, 1), strides=(2, 2), padding=NO_PADDING),
    "padded beyond the kernel": random_conv(7, kernel=(2, 2), padding=((3, 2), (0, 4))),
    "large kernel": random_conv(8, size=3, kernel=(5, 5), padding=((2, 2), (2, 2))),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_norms_of_convolutions_against_the_explicit_matrix(conv):
    explicit = matrix(conv, (*conv.input_shape, conv.kernel.shape[2]))
    exact = np.linalg.norm(explicit, 2)
    power = norm(conv)
    np.testing.assert_allclose(power, exact, rtol=1e-3)
    assert power <= exact * (1 + 1e-5)
    fourier, reshaped = norm(conv, convolution="fourier"), norm(conv, convolution="reshaped")
    assert exact <= fourier * (1 + 1e-5)
    assert fourier <= reshaped * (1 + 1e-5)
    for p in (1, math.inf):
        bound = norm(conv, p)
        if min(conv.input_shape) >= 5:
            np.testing.assert_allclose(bound, np.linalg.norm(explicit, p), rtol=1e-5)
        else:
            assert np.linalg.norm(explicit, p) <= bound * (1 + 1e-6)


def test_strided_bounds_are_those_of_the_strided_map_and_tight_on_large_images():
    conv = random_conv(9, size=12, inputs=2, outputs=2, kernel=(4, 4), strides=(2, 2))
    unstrided = Conv(conv.kernel, conv.input_shape, (1, 1), conv.padding)
    exact = np.linalg.norm(matrix(conv, (12, 12, 2)), 2)
    fourier = norm(conv, convolution="fourier")
    assert exact <= fourier <= 1.05 * exact
    assert fourier < 0.9 * norm(unstrided, convolution="fourier")  # valid too: subsampling has norm 1
    assert norm(conv, 1) < norm(unstrided, 1)
    halved = 0.5 * float(norm(unstrided, convolution="reshaped"))  # 2 x 2 instead of 4 x 4 windows per pixel
    assert norm(conv, convolution="reshaped") == pytest.approx(halved, rel=1e-6)


def test_fourier_bound_equals_the_periodic_convolution():
    """On its own grid: all shifts of the kernel, wrapped around; with strides, every second of them."""
    kernel = random_conv(10, inputs=2, outputs=2).kernel
    for stride in (1, 2):
        grid = 6  # of a 4 x 4 image and a 3 x 3 kernel
        periodic = np.zeros((grid // stride, grid // stride, 2, grid, grid, 2))
        for a, b, i, j in np.ndindex(grid // stride, grid // stride, 3, 3):
            periodic[a, b, :, (stride * a + i) % grid, (stride * b + j) % grid] += np.asarray(kernel[i, j]).T
        exact = np.linalg.norm(periodic.reshape(-1, grid * grid * 2), 2)
        conv = Conv(kernel, (4, 4), (stride, stride), SAME)
        np.testing.assert_allclose(norm(conv, convolution="fourier"), exact, rtol=1e-5)


def test_reshaped_kernel_norm_alone_is_no_bound():
    """For a kernel of equal entries the factor sqrt(height * width) is needed up to the border effect."""
    conv = Conv(np.ones((3, 3, 1, 1), np.float32), (12, 12), (1, 1), SAME)
    reshaped = np.linalg.norm(np.asarray(conv.kernel).reshape(-1, 1), 2)
    exact = np.linalg.norm(matrix(conv, (12, 12, 1)), 2)
    assert reshaped == pytest.approx(3.0)
    assert exact > 2.8 * reshaped
    assert norm(conv, convolution="fourier") == pytest.approx(9.0, rel=1e-6)
    assert norm(conv, convolution="reshaped") == pytest.approx(9.0, rel=1e-6)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 3), (1, 1), (5, 5)])
def test_reshaped_bound_recomputed(kernel):
    conv = random_conv(19, size=6, inputs=3, outputs=4, kernel=kernel)
    expected = math.sqrt(math.prod(kernel)) * np.linalg.norm(conv.kernel.reshape(-1, 4), 2)
    np.testing.assert_allclose(norm(conv, convolution="reshaped"), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", [20, 21, 22])
def test_norms_of_a_random_convolution_are_strictly_ordered(seed):
    """Check 7.8-2: the reshaped kernel's norm is too small, three times it is enough and more."""
    conv = random_conv(seed, size=6, inputs=3, outputs=4)
    reshaped = np.linalg.norm(conv.kernel.reshape(-1, 4), 2)
    exact = np.linalg.norm(matrix(conv, (6, 6, 3)), 2)
    fourier = float(norm(conv, convolution="fourier"))
    assert 1.2 * reshaped < exact <= fourier < 3 * reshaped
    assert fourier < 1.2 * exact


def test_power_iteration_in_double_precision_and_by_tolerance(float64):
    conv = random_conv(11, dtype=np.float64)
    exact = np.linalg.norm(matrix(conv, (5, 5, 2)), 2)
    precise = norm(conv, tolerance=1e-15)
    assert precise.dtype == jnp.float64
    np.testing.assert_allclose(precise, exact, rtol=1e-10)
    assert norm(conv, tolerance=0.5) < precise
    np.testing.assert_allclose(layer_norm(conv, key=jax.random.key(1)), precise, rtol=1e-4)
    for convolution in ("fourier", "reshaped"):
        assert norm(conv, convolution=convolution).dtype == jnp.float64


def test_power_iteration_of_zero_and_of_nan():
    for value in (0.0, math.nan):
        kernel = np.full((3, 3, 2, 3), value, np.float32)
        np.testing.assert_equal(float(norm(Conv(kernel, (5, 5), (1, 1), SAME))), value)


@pytest.mark.parametrize("p", NORMS)
def test_dense_against_numpy(p):
    kernel = normal(0, 4, 7)
    np.testing.assert_allclose(norm(Dense(kernel), p), np.linalg.norm(kernel.T, p), rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "stride", "two_norm"),
    [
        ((4, 4), (4, 4), 1 / 4),
        ((7, 7), (7, 7), 1 / 7),
        ((2, 3), (2, 3), 1 / math.sqrt(6)),
        ((2, 2), (3, 3), 1 / 2),
        ((3, 3), (1, 1), 1.0),
        ((3, 3), (2, 2), 5 / 9),
        ((4, 4), (2, 2), 1 / 2),
    ],
)
def test_average_pools_against_the_explicit_matrix(window, stride, two_norm):
    pool = AveragePool(window, stride, SAME)
    size = 14
    explicit = matrix(pool, (size, size, 1))
    assert norm(pool) == pytest.approx(two_norm, rel=1e-6)
    exact = np.linalg.norm(explicit, 2)
    assert exact <= two_norm * (1 + 1e-5)
    assert exact > (0.9 if window > stride else 1 - 1e-5) * two_norm
    for p in (1, math.inf):
        assert norm(pool, p) == pytest.approx(np.linalg.norm(explicit, p), rel=1e-5)


@pytest.mark.parametrize(("window", "stride", "count"), [(2, 2, 1), (3, 2, 4), (3, 1, 9), (2, 3, 1)])
def test_max_pool_constants_are_attained_by_one_pixel(window, stride, count):
    pool = MaxPool((window, window), (stride, stride))
    for p, constant in zip(NORMS, (count, math.sqrt(count), 1), strict=True):
        assert norm(pool, p) == pytest.approx(constant, rel=1e-6)
    responses = matrix(pool, (9, 9, 1))  # to a single pixel of value 1: every window that covers it returns 1
    assert responses.sum(0).max() == count


@pytest.mark.parametrize("p", NORMS)
def test_scale_and_batch_norm(p):
    assert norm(Scale(jnp.array([0.5, -3.0])), p) == 3.0
    assert norm(Scale(2.0), p) == 2.0
    batch_norm = BatchNorm(jnp.array([1.0, -2.0, 0.1]), jnp.array([0.25, 4.0, 1.0]), epsilon=0.0)
    assert norm(batch_norm, p) == pytest.approx(2.0)
    explicit = matrix(batch_norm, (2, 2, 3))
    assert norm(batch_norm, p) == pytest.approx(np.linalg.norm(explicit, p), rel=1e-5)
    assert norm(BatchNorm(1.0, jnp.zeros(3), epsilon=0.25), p) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", partial(jax.nn.gelu, approximate=False)),
        ("gelu_tanh", partial(jax.nn.gelu, approximate=True)),
        *((name, getattr(jax.nn, name)) for name in sorted(set(ACTIVATION_CONSTANTS) - {"gelu", "gelu_tanh"})),
    ],
)
def test_activation_constants_are_the_largest_slopes(float64, name, function):
    slopes = jax.vmap(jax.grad(function))(jnp.linspace(-40, 40, 80_001))
    largest = jnp.abs(slopes).max()
    assert largest <= ACTIVATION_CONSTANTS[name] * (1 + 1e-12)
    assert largest > ACTIVATION_CONSTANTS[name] - 1e-4


def test_residual_rule_scaling_law_and_report():
    dense = lambda factor: Dense(factor * jnp.eye(3))  # noqa: E731
    block = Residual((dense(3.0),), (dense(2.0), Elementwise(1.5), dense(-0.5)))
    for p in NORMS:
        assert lipschitz_upper_bound((), p) == 1
        assert layer_norm(block, p) == pytest.approx(3.0 + 1.5)
        assert layer_norm(Residual((), (dense(2.0),)), p) == pytest.approx(3.0)
        nested = Residual((), (block, dense(2.0)))
        assert layer_norm(nested, p) == pytest.approx(10.0)
    conv = random_conv(13)
    layers = [conv, MaxPool((2, 2), (1, 1)), Dense(jnp.ones((48, 2)))]
    scaled = [Conv(-2.5 * conv.kernel, conv.input_shape, conv.strides, conv.padding), *layers[1:]]
    for p in NORMS:
        norms = layer_norms(layers, p, key=KEY)
        bound = lipschitz_upper_bound(layers, p, key=KEY)
        np.testing.assert_allclose(bound, np.prod(norms), rtol=1e-6)
        np.testing.assert_allclose(lipschitz_upper_bound(scaled, p, key=KEY), 2.5 * bound, rtol=1e-3)


def random_network(seed, strides):
    """A residual network with every kind of layer, on 6 x 6 images of 2 channels."""
    rng = np.random.default_rng(seed)
    size = 6 // strides

    def conv(inputs, strides, size):
        kernel = rng.normal(size=(3, 3, inputs, 3)).astype(np.float32) / 4
        return Conv(kernel, (size, size), (strides, strides), SAME)

    batch_norm = BatchNorm(rng.normal(size=3).astype(np.float32), np.array([0.5, 1.0, 2.0], np.float32))
    dense = rng.normal(size=(3 * (math.ceil(size / 2) - 1) ** 2, 4)).astype(np.float32)
    return (
        Scale(np.array([4.0, 2.0], np.float32)),
        conv(2, 1, 6),
        Residual((conv(3, strides, 6),), (batch_norm, Elementwise(), conv(3, strides, 6))),
        Residual((), (conv(3, 1, size), Elementwise())),
        MaxPool((3, 3), (2, 2), SAME),
        AveragePool((2, 2), (1, 1)),
        Dense(dense),
    )


run_compiled = jax.jit(run)


@hypothesis.given(
    seed=st.integers(0, 10_000),
    strides=st.sampled_from([1, 2]),
    p=st.sampled_from(NORMS),
    convolution=st.sampled_from(["power_iteration", "fourier", "reshaped"]),
    distance=st.sampled_from([1e-2, 1.0, 10.0]),
)
@hypothesis.settings(deadline=None, max_examples=20)
def test_no_slope_exceeds_the_bound(seed, strides, p, convolution, distance):
    layers = random_network(seed, strides)
    a, direction = normal(seed + 1, 2, 8, 6, 6, 2)
    b = a + np.float32(distance) * direction
    difference = np.asarray(run_compiled(layers, a)) - np.asarray(run_compiled(layers, b))
    change = (a - b).reshape(8, -1)
    slopes = np.linalg.norm(difference, p, axis=1) / np.linalg.norm(change, p, axis=1)
    bound = lipschitz_upper_bound(layers, p, convolution=convolution, key=KEY)
    assert slopes.max() <= bound * (1 + 1e-3)
    assert slopes.max() > 0


def test_linear_network_bound_exceeds_the_norm_of_the_product():
    first, second = random_conv(14, size=4), random_conv(15, size=4, inputs=3, outputs=2)
    product = matrix(second, (4, 4, 3)) @ matrix(first, (4, 4, 2))
    for p in NORMS:
        bound = lipschitz_upper_bound([first, second], p, convolution="fourier")
        assert np.linalg.norm(product, p) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("p", NORMS)
def test_certified_radius_of_a_linear_classifier(p):
    """The exact radius is margin / ||w_y - w_j||_q: never below the certificate, equal in a worst case."""
    weights, images = normal(0, 6, 3), normal(1, 20, 6)
    logits = images @ weights
    label = 0
    exact = np.full(20, np.inf)
    dual = {1: math.inf, 2: 2, math.inf: 1}[p]
    for j in (1, 2):
        norms = np.linalg.norm(weights[:, label] - weights[:, j], dual)
        exact = np.minimum(exact, (logits[:, label] - logits[:, j]) / norms)
    margins = logits[:, label] - logits[:, 1:].max(1)
    bound = lipschitz_upper_bound([Dense(weights)], p)
    radius = np.asarray(certified_radius(jnp.asarray(margins), bound, p))
    assert (radius <= np.maximum(exact, 0) * (1 + 1e-5)).all()
    assert ((radius > 0) == (margins > 0)).all()
    worst = jnp.array([[2.0, 0.0]]) if p == 1 else jnp.array([[2.0, -2.0]])
    certificate = certified_radius(jnp.array([1.0]), lipschitz_upper_bound([Dense(worst)], p), p)
    assert certificate[0] == pytest.approx(1.0 / float(worst[0, 0] - worst[0, 1]), rel=1e-5)


def test_certified_radius_edge_cases():
    assert certified_radius(jnp.array([1.0, -1.0, 0.0]), 0.0).tolist() == [math.inf, 0.0, 0.0]
    assert certified_radius(jnp.array([1.0]), math.sqrt(2.0))[0] == pytest.approx(0.5)


def test_descriptions_are_pytrees_for_compiled_and_differentiated_bounds():
    layers = random_network(0, 2)
    for p, convolution in ((1, "fourier"), (math.inf, "fourier"), (2, "fourier"), (2, "reshaped")):
        bound = partial(lipschitz_upper_bound, p=p, convolution=convolution)
        np.testing.assert_allclose(jax.jit(bound)(layers), bound(layers), rtol=1e-5)
    conv = random_conv(16)
    direction = random_conv(17).kernel
    shifted = lambda t: layer_norm(  # noqa: E731
        Conv(conv.kernel + t * direction, conv.input_shape, conv.strides, conv.padding), convolution="fourier"
    )
    numeric = (shifted(1e-2) - shifted(-1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(shifted)(0.0), numeric, rtol=2e-2, atol=1e-3)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(norm)(conv)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda: norm(conv))()


def test_errors_say_what_is_wanted():
    conv = random_conv(18)
    with pytest.raises(ValueError, match="p must be 1, 2 or infinity"):
        layer_norm(Elementwise(), 3)
    with pytest.raises(ValueError, match="p must be 1, 2 or infinity"):
        certified_radius(jnp.ones(1), 1.0, 3)
    with pytest.raises(ValueError, match="choose one of power_iteration, fourier, reshaped"):
        layer_norm(conv, convolution="exact")
    with pytest.raises(ValueError, match="pass a key"):
        lipschitz_upper_bound([conv])
    with pytest.raises(ValueError, match="Dense needs 2 axes"):
        layer_norm(Dense(jnp.ones(3)))
    with pytest.raises(ValueError, match="Conv needs 4 axes"):
        layer_norm(Conv(jnp.ones((3, 3)), (5, 5), (1, 1), SAME))
    with pytest.raises(TypeError, match="float32 or float64"):
        layer_norm(Dense(jnp.ones((2, 2), jnp.bfloat16)))
    with pytest.raises(TypeError, match="unknown kind of layer"):
        layer_norm("relu")
    assert curvature.layer_norm is layer_norm
