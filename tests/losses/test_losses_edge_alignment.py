"""Alignment of input gradients with a map (gradient-norm study, 2.7 and 7.3)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.curvature import input_gradient
from jaxrobust.edges import oriented_energy
from jaxrobust.losses import cross_entropy, edge_alignment
from jaxrobust.losses._edge_alignment import alignment_and_logits

SHAPE, CLASSES = (5, 6, 2), 4
SIZE = 60


def parameters(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "first": jnp.asarray(0.3 * rng.normal(size=(SIZE, 8)).astype(dtype)),
        "second": jnp.asarray(rng.normal(size=(8, CLASSES)).astype(dtype)),
    }


def network(params, images):
    hidden = jax.nn.softplus(images.reshape(len(images), -1) @ params["first"])
    return hidden @ params["second"]


def examples(size=3, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(size=(size, *SHAPE)).astype(dtype))
    return images, jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32)


OPTIONS = ("temperature", "target_class", "gradient_of", "signed", "reduction")


@functools.partial(jax.jit, static_argnames=OPTIONS)
def value(params, key, images, labels, target=None, **options):
    return edge_alignment(key, functools.partial(network, params), images, labels, target, **options)


@functools.partial(jax.jit, static_argnames=OPTIONS)
def value_and_grad(params, *arguments, **options):
    """Values, and the gradient of their mean."""

    def mean(params):
        values = value(params, *arguments, **options)
        return values.mean(), values

    gradient, values = jax.grad(mean, has_aux=True)(params)
    return values, gradient


@jax.jit
def class_gradients(params, images):
    """``[batch, classes, height, width, channels]``, one image at a time."""
    return jax.vmap(jax.jacrev(lambda image: network(params, image[None])[0]))(images)


def cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


@pytest.mark.parametrize("maps", ["edges", "channels"])
def test_value_is_two_minus_two_cosines(float64, key, maps):
    params, (images, labels) = parameters(dtype=np.float64), examples(dtype=np.float64)
    rng = np.random.default_rng(1)
    target = rng.normal(size=(3, *SHAPE)) if maps == "channels" else None
    gradients = np.asarray(class_gradients(params, images))[np.arange(3), labels]
    target = None if target is None else jnp.asarray(target)
    compared = np.asarray(oriented_energy(images) if target is None else target)
    compared = np.broadcast_to(compared[..., None] if compared.ndim == 3 else compared, gradients.shape)
    whole = value(params, key, images, labels, target, target_class="label")
    assert whole.shape == (3,)
    np.testing.assert_allclose(whole.mean(), 2 - 2 * cosine(gradients, compared), rtol=1e-10)
    one_by_one = value(params, key, images, labels, target, target_class="label", reduction="example")
    expected = [2 - 2 * cosine(g, e) for g, e in zip(gradients, compared, strict=True)]
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-10)


def test_reductions_coincide_for_a_batch_of_one(key):
    images, labels = examples(1)
    arguments = parameters(), key, images, labels, images.mean(-1)
    values = [value(*arguments, reduction=reduction) for reduction in ("batch", "example")]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_unsigned_compares_the_largest_magnitude_over_the_channels(float64, key):
    params, (images, labels) = parameters(dtype=np.float64), examples(dtype=np.float64)
    gradients = np.abs(np.asarray(class_gradients(params, images))[np.arange(3), labels]).max(-1)
    edges = oriented_energy(images)
    found = value(params, key, images, labels, edges, target_class="label", signed=False).mean()
    np.testing.assert_allclose(found, 2 - 2 * cosine(gradients, edges), rtol=1e-10)


def test_gradient_of_the_loss(float64, key):
    """With soft labels, as mixup makes them."""
    params, (images, labels) = parameters(dtype=np.float64), examples(dtype=np.float64)
    soft = 0.6 * np.eye(CLASSES)[labels] + 0.1
    probabilities = np.asarray(jax.nn.softmax(network(params, images)))
    gradients = np.einsum("nk,nk...->n...", probabilities - soft, class_gradients(params, images))
    edges = oriented_energy(images)
    found = value(params, key, images, jnp.asarray(soft), edges, gradient_of="loss").mean()
    expected = 2 - 2 * cosine(gradients, np.broadcast_to(edges[..., None], gradients.shape))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_range_and_unrelated_gradients(key):
    """Identical, opposite and random directions: 0, 4 and about 2."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3072, 2)).astype(np.float32))
    linear = lambda images: images.reshape(len(images), -1) @ weights  # noqa: E731
    images, labels = jnp.zeros((2, 32, 32, 3)), jnp.array([0, 1])
    aligned = weights.T.reshape(2, 32, 32, 3)
    for reduction in ("batch", "example"):
        options = {"target_class": "label", "reduction": reduction}
        found_of = jax.jit(
            lambda target, options=options: edge_alignment(key, linear, images, labels, target, **options)
        )
        for target, expected, tolerance in ((aligned, 0, 1e-5), (-3 * aligned, 4, 1e-5), (aligned[::-1], 2, 0.1)):
            found = found_of(target)
            np.testing.assert_allclose(found.mean(), expected, atol=tolerance)


def test_class_is_sampled_at_temperature(key):
    """Where the images hold a one-hot gradient per class, the values tell which class was drawn."""
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    count = 4000

    @jax.jit
    def drawn(key, temperature):
        one_pixel_a_class = lambda images: logits + images[:, 0, :, 0]  # noqa: E731
        images = jnp.zeros((count, 1, CLASSES, 1))
        maps = jnp.broadcast_to(jnp.array([1.0, 2.0, 4.0, 8.0]), (count, 1, CLASSES))
        labels = jnp.zeros(count, jnp.int32)
        values = edge_alignment(
            key, one_pixel_a_class, images, labels, maps, temperature=temperature, reduction="example"
        )
        cosines = np.array([1, 2, 4, 8]) / np.sqrt(85)
        return jnp.abs(values[:, None] - (2 - 2 * cosines.astype(np.float32))).argmin(1)

    squared = np.array([0.01, 0.04, 0.09, 0.16]) / 0.3
    np.testing.assert_allclose(jax.nn.softmax(logits / 0.5), squared, rtol=1e-5)
    for temperature, expected in ((0.5, squared), (1.0, np.exp(logits))):
        frequencies = np.bincount(drawn(key, temperature), minlength=CLASSES) / count
        deviations = np.sqrt(expected * (1 - expected) / count)
        assert (np.abs(frequencies - expected) < 4 * deviations).all()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    np.testing.assert_array_equal(drawn(keys, 0.5), drawn(key, 0.5))


def test_nothing_is_trained_through_the_choice_of_the_class_or_the_map(key):
    """Bias terms, the same for every image, do not enter input gradients of a linear network; nor does the map."""
    images, labels = examples()
    params = {"weights": parameters()["first"][:, :CLASSES], "bias": jnp.zeros(CLASSES), "map": jnp.ones((3, 5, 6))}

    def loss(params):
        linear = lambda images: images.reshape(len(images), -1) @ params["weights"] + params["bias"]  # noqa: E731
        return edge_alignment(key, linear, images, labels, params["map"]).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    assert not np.asarray(gradient["bias"]).any()
    assert not np.asarray(gradient["map"]).any()
    assert np.asarray(gradient["weights"]).any()


@pytest.mark.parametrize("options", [{}, {"reduction": "example"}, {"signed": False}, {"gradient_of": "loss"}], ids=str)
def test_parameter_gradient_against_central_differences(float64, key, options):
    params, (images, labels) = parameters(dtype=np.float64), examples(dtype=np.float64)
    edges, direction, h = oriented_energy(images), parameters(7, np.float64), 1e-5
    moved = [jax.tree.map(lambda a, b, step=step: a + step * b, params, direction) for step in (0, h, -h)]
    (_, derivative), (up, _), (down, _) = (
        value_and_grad(weights, key, images, labels, edges, **options) for weights in moved
    )
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), derivative, direction)))
    np.testing.assert_allclose(slope, (up.mean() - down.mean()) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["batch", "example"])
@pytest.mark.parametrize("signed", [True, False])
def test_constant_images_and_dead_gradients_give_no_nan(key, reduction, signed):
    params, (images, labels) = parameters(), examples()
    dead = params | {"second": jnp.zeros((8, CLASSES))}
    flat = jnp.full_like(images, 0.5)
    cases = [(params, flat, 1), (dead, images, 1), (dead, flat, 0), (params, images.at[0].set(0.5), None)]
    for weights, pictures, expected in cases:
        edges = oriented_energy(pictures)
        options = {"reduction": reduction, "signed": signed, "target_class": "label"}
        values, derivative = value_and_grad(weights, key, pictures, labels, edges, **options)
        assert all(np.isfinite(leaf).all() for leaf in (values, *jax.tree.leaves(derivative)))
        if expected is None:  # one flat image among others: the others are trained
            assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(derivative))
        else:
            np.testing.assert_allclose(values.mean(), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_the_size_of_the_gradient_does_not_matter(key, scale):
    """Squares of such gradients underflow or overflow in float32; the loss depends on the direction alone."""
    params, (images, labels) = parameters(), examples()
    scaled = params | {"second": params["second"] * jnp.float32(scale)}
    edges, options = oriented_energy(images), {"reduction": "batch", "signed": True, "target_class": "label"}
    expected, found = (value_and_grad(weights, key, images, labels, edges, **options) for weights in (params, scaled))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[1]["first"], expected[1]["first"], rtol=1e-3, atol=1e-5)


def test_common_mode_lowers_the_value_without_changing_the_classifier(float64, key):
    """7.3.25: ``c h(x)`` on all logits, ``h`` along the map: the loss falls to zero, the softmax stays what it was."""
    params, (images, labels) = parameters(dtype=np.float64), examples(dtype=np.float64)
    direction = np.full(SHAPE, SIZE**-0.5)
    gradients = np.asarray(class_gradients(params, images))[np.arange(3), labels]
    # A network whose gradients across the map are as long as the printed value at c = 1000 implies.
    across = gradients - np.sum(gradients * direction, (1, 2, 3), keepdims=True) * direction
    factor = np.sqrt(1.7 / np.mean(np.sum(across**2, (1, 2, 3))))
    target = jnp.ones((3, *SHAPE[:2]))

    @jax.jit
    def measured(c):
        def logits_fn(images):
            return factor * network(params, images) + c * (images * direction).sum((1, 2, 3))[:, None]

        values, logits = alignment_and_logits(key, logits_fn, images, labels, target, target_class="label")
        return values.mean(), jax.nn.softmax(logits), input_gradient(cross_entropy, logits_fn, images, labels)

    values, softmaxes, loss_gradients = zip(*map(measured, (0.0, 1.0, 10.0, 1000.0)), strict=True)
    for c, found in zip((0.0, 1.0, 10.0, 1000.0), values, strict=True):
        expected = 2 - 2 * cosine(factor * gradients + c * direction, np.broadcast_to(direction, gradients.shape))
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert sorted(values, reverse=True) == list(values)
    np.testing.assert_allclose(values[2:], [0.016, 1.7e-6], rtol=0.1)
    for softmax, gradient in zip(softmaxes, loss_gradients, strict=True):
        np.testing.assert_allclose(softmax, softmaxes[0], atol=1e-12)
        np.testing.assert_allclose(gradient, loss_gradients[0], atol=1e-11)


def test_soft_labels_and_the_logits_of_the_pass(key):
    params, (images, labels) = parameters(), examples()
    edges, soft = oriented_energy(images), 0.6 * jax.nn.one_hot(labels, CLASSES) + 0.1
    options = {"reduction": "batch", "signed": True, "target_class": "label"}
    hard = value(params, key, images, labels, edges, **options)
    both = jax.jit(
        lambda *arguments: alignment_and_logits(key, functools.partial(network, params), *arguments, **options)
    )
    values, logits = both(images, soft, edges)
    np.testing.assert_allclose(values, hard, rtol=1e-5)
    np.testing.assert_allclose(logits, network(params, images), rtol=1e-6)


def test_one_pass_through_the_network(key):
    """A linear network costs one matrix product per pass: one forward, one backward."""
    images, labels = examples()
    weights = parameters()["first"][:, :CLASSES]
    linear = lambda images: images.reshape(len(images), -1) @ weights  # noqa: E731
    program = jax.make_jaxpr(lambda images: edge_alignment(key, linear, images, labels))(images)
    assert str(program).count("dot_general") == 2


def test_errors_say_what_is_wanted(key):
    images, labels = examples()
    call = functools.partial(edge_alignment, key, functools.partial(network, parameters()), images, labels)
    with pytest.raises(ValueError, match="unknown target_class 'true'; choose one of sampled, label"):
        call(target_class="true")
    with pytest.raises(ValueError, match="unknown gradient_of"):
        call(gradient_of="logits")
    with pytest.raises(ValueError, match="unknown reduction"):
        call(reduction="mean")
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        call(temperature=0)
    with pytest.raises(ValueError, match="one map per image"):
        call(jnp.ones((3, 5, 5)))
    with pytest.raises(ValueError, match="signed=False"):
        call(jnp.ones((3, *SHAPE)), signed=False)
    with pytest.raises(TypeError, match="target must be floating point"):
        call(jnp.ones((3, 5, 6), jnp.int32))
    with pytest.raises(TypeError, match="images must be floating point"):
        edge_alignment(key, None, images.astype(jnp.uint8), labels, jnp.ones((3, 5, 6)))
