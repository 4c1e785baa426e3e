import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import Linf, training

THREAT = Linf(0.1, bounds=None)
KEY = jax.random.key(0)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(2, name="head")(images.reshape(images.shape[0], -1))


APPLY = training.linen_apply(Linear())


@pytest.fixture(scope="module")
def problem():
    """Images at known distances from the decision boundary of a linear network, the last one misclassified."""
    weights = jax.random.normal(KEY, (12, 2))
    variables = {"params": {"head": {"kernel": weights, "bias": jnp.array([0.1, -0.2])}}}
    difference = weights[:, 0] - weights[:, 1]
    images = jax.random.uniform(jax.random.key(1), (4, 2, 2, 3))
    flat = images.reshape(4, -1)
    length = jnp.abs(difference).sum()
    distances = jnp.array([0.1, 0.3, 0.6, -0.2])
    now = (flat @ difference + 0.3) / length
    moved = flat + (distances - now)[:, None] * jnp.sign(difference)
    return variables, moved.reshape(images.shape), jnp.zeros(4, jnp.int32), distances


def test_margins_of_a_linear_network(problem):
    variables, images, labels, distances = problem
    objective = training.mma(THREAT, maximum=0.5, bisections=16)
    batch = objective.craft(APPLY, variables, KEY, {"images": images, "labels": labels})
    assert batch["found"].tolist() == [True, True, False, True]
    found = THREAT.norm(batch["adversarial"] - images)
    np.testing.assert_allclose(found[:2], distances[:2], rtol=1e-3)
    assert found[3] == 0
    logits = APPLY(variables, batch["adversarial"], train=False)[0]
    assert (logits.argmax(-1) == jnp.array([1, 1, 0, 1])).all()  # on the far side, except where nothing was found


def test_value_is_the_published_mixture(problem):
    variables, images, labels, _ = problem
    objective = training.mma(THREAT, maximum=0.5, clean_weight=0.25)
    batch = objective.craft(APPLY, variables, KEY, {"images": images, "labels": labels})
    value, aux = objective.loss(APPLY, variables, KEY, batch)

    def loss(images):
        logits = APPLY(variables, images, train=False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    at_margin = loss(batch["adversarial"]) * jnp.array([1.0, 1.0, 0.0, 1.0])
    expected = 0.25 * loss(images).mean() + 0.75 * at_margin.mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["margin"], (0.1 + 0.3 + 0) / 3, atol=2e-3)
    assert float(aux.metrics["found"]) == 0.75
    assert float(aux.metrics["accuracy"]) == 0.75


def test_training_widens_margins(problem):
    variables, images, _, _ = problem
    images, labels = images[jnp.array([0, 3])], jnp.array([0, 1])
    optimizer = optax.sgd(0.02)
    step = jax.jit(training.make_train_step(APPLY, training.mma(THREAT, maximum=0.5), optimizer))
    state = training.init_state(Linear(), KEY, images, optimizer)._replace(params=variables["params"])

    def margins(params):
        difference = params["head"]["kernel"] @ jnp.array([1.0, -1.0])
        scores = images.reshape(2, -1) @ difference + params["head"]["bias"] @ jnp.array([1.0, -1.0])
        return scores * jnp.array([1.0, -1.0]) / jnp.abs(difference).sum()

    np.testing.assert_allclose(margins(state.params), [0.1, 0.2], rtol=1e-4)
    for _ in range(20):
        state, _ = step(state, {"images": images, "labels": labels})
    assert (margins(state.params) > jnp.array([0.102, 0.208])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maximum": 0.0}, "maximum must be above 0"),
        ({"maximum": 0.1, "bisections": 0}, "bisections must be at least 1"),
        ({"maximum": 0.1, "clean_weight": 1.5}, r"clean_weight must lie in \[0, 1\]"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        training.mma(THREAT, **options)
