import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import losses

LOGITS = jnp.asarray([[2.0, 5.0, 1.0, -1.0], [0.0, 1.0, 4.0, 2.0]])
LABELS = jnp.asarray([1, 0])
TARGETS = jnp.asarray([0, 3])


def test_closed_forms():
    np.testing.assert_allclose(losses.cross_entropy(jnp.zeros((1, 4)), LABELS[:1]), [np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(losses.margin(LOGITS, LABELS), [-3.0, 4.0])
    np.testing.assert_allclose(losses.logit_difference(LOGITS, LABELS, TARGETS), [-3.0, 2.0])
    # Sorted: 5 2 1 -1 and 4 2 1 0.
    np.testing.assert_allclose(losses.dlr(LOGITS, LABELS), [-3 / 4, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(losses.targeted_dlr(LOGITS, LABELS, TARGETS), [-3 / 5, 2 / 3.5], rtol=1e-6)


def test_log_odds_and_their_direction():
    def direction(loss):
        gradient = jax.grad(lambda logits: loss(logits, LABELS).sum())(LOGITS)
        return gradient / jnp.linalg.norm(gradient, axis=1, keepdims=True)

    entropy = losses.cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(direction(losses.log_odds), direction(losses.cross_entropy), rtol=1e-5)
    np.testing.assert_allclose(losses.log_odds(LOGITS, LABELS), np.log(np.expm1(entropy)), rtol=1e-5)


def test_log_odds_of_a_sure_classifier():
    sure = jnp.asarray([[60.0, 0.0, 0.0]])
    np.testing.assert_allclose(losses.log_odds(sure, LABELS[1:]), [np.log(2) - 60], rtol=1e-6)
    gradient = jax.grad(lambda z: losses.log_odds(z, LABELS[1:]).sum())(sure)
    np.testing.assert_allclose(gradient, [[-1.0, 0.5, 0.5]], rtol=1e-6)
    assert float(losses.cross_entropy(sure, LABELS[1:])[0]) == 0


def test_margin_is_positive_exactly_where_misclassified():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 6)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(6, size=50))
    np.testing.assert_array_equal(losses.margin(logits, labels) > 0, logits.argmax(-1) != labels)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-50, 50), scale=st.floats(0.1, 20))
def test_dlr_is_invariant_to_shift_and_scale(shift, scale):
    for loss in (lambda z: losses.dlr(z, LABELS), lambda z: losses.targeted_dlr(z, LABELS, TARGETS)):
        np.testing.assert_allclose(loss(scale * LOGITS + shift), loss(LOGITS), rtol=1e-3)


def test_label_smoothing_mixes_with_the_uniform_distribution():
    smoothed = losses.cross_entropy(LOGITS, LABELS, label_smoothing=0.2)
    uniform = -jax.nn.log_softmax(LOGITS).mean(-1)
    np.testing.assert_allclose(smoothed, 0.8 * losses.cross_entropy(LOGITS, LABELS) + 0.2 * uniform, rtol=1e-5)
    np.testing.assert_allclose(losses.smooth_labels(LABELS, 4, 0.2).sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses.smooth_labels(LABELS, 4, 0.2)[0], [0.05, 0.85, 0.05, 0.05], rtol=1e-5)


def test_soft_labels():
    soft = jnp.asarray([[0.1, 0.6, 0.3, 0.0], [0.0, 0.0, 1.0, 0.0]])
    expected = -(soft * jax.nn.log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, soft), expected, rtol=1e-6)
    one_hot = jax.nn.one_hot(LABELS, 4)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, one_hot), losses.cross_entropy(LOGITS, LABELS), rtol=1e-6)
    smoothed = losses.cross_entropy(LOGITS, losses.smooth_labels(LABELS, 4, 0.2))
    np.testing.assert_allclose(smoothed, losses.cross_entropy(LOGITS, LABELS, label_smoothing=0.2), rtol=1e-6)
    gradient = jax.grad(lambda z: losses.cross_entropy(z, soft).sum())(LOGITS)
    np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - soft, atol=1e-6)


def test_hard_labels():
    assert losses.hard_labels(jnp.asarray([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])).tolist() == [1, 0]
    assert losses.hard_labels(LABELS) is LABELS


def test_kl_divergence():
    p, q = LOGITS[:1], LOGITS[1:]
    expected = (jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q))).sum()
    np.testing.assert_allclose(losses.kl_divergence(p, q)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(losses.kl_divergence(p, p), [0.0], atol=1e-7)
    assert float(losses.kl_divergence(p, q)[0]) > 0


def test_carlini_wagner_stops_where_misclassified():
    # Data geometry, check 7.5-3; the second example is misclassified, the third lies on the cut-off.
    logits, labels = jnp.asarray([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [2.0, 1.0, 2.0]]), jnp.asarray([0, 0, 0])
    values, gradient = losses.carlini_wagner(logits, labels), jax.grad(_sum(losses.carlini_wagner))(logits, labels)
    assert values.tolist() == [-1.0, 0.0, 0.0]
    assert gradient.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]
    assert losses.carlini_wagner(logits, labels, confidence=1.5).tolist() == [-1.0, 1.5, 0.0]


def _sum(loss):
    return lambda *arguments: loss(*arguments).sum()


def test_trades_golden():
    # Data geometry, check 7.5-1.
    clean, adversarial, label = jnp.asarray([[2.0, 0.0, -1.0]]), jnp.asarray([[0.0, 1.0, 0.0]]), jnp.asarray([0])
    assert float(losses.cross_entropy(clean, label, label_smoothing=0.1)[0]) == pytest.approx(0.3365126862)
    assert float(losses.kl_divergence(clean, adversarial)[0]) == pytest.approx(0.9129828978)

    def loss(clean, adversarial):
        return losses.trades(clean, adversarial, label, beta=5.0, label_smoothing=0.1)[0]

    value, (by_clean, by_adversarial) = jax.value_and_grad(loss, argnums=(0, 1))(clean, adversarial)
    assert float(value) == pytest.approx(4.9014271753)
    np.testing.assert_allclose(by_clean, [[1.8875391, -1.3644978, -0.5230414]], rtol=1e-5)
    np.testing.assert_allclose(by_adversarial, [[-3.1592659, 2.3096084, 0.8496575]], rtol=1e-5)


def test_boosted_cross_entropy_of_sure_classifiers():
    # Right: no loss, up to the published 1.0001. Wrong: the second term ends at -log 0.0001.
    logits = jnp.asarray([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    expected = [-np.log(1.0001), 50 - np.log(1e-4)]
    np.testing.assert_allclose(losses.boosted_cross_entropy(logits, jnp.asarray([0, 0])), expected, rtol=2e-3)


def test_boosted_cross_entropy_of_two_classes_is_twice_the_cross_entropy():
    logits = LOGITS[:, :2]
    boosted, plain = (loss(logits, LABELS) for loss in (losses.boosted_cross_entropy, losses.cross_entropy))
    np.testing.assert_allclose(boosted, 2 * plain, atol=2e-3)


def test_mart_weighs_the_divergence_by_doubt():
    adversarial = jnp.flip(LOGITS, -1)
    doubt = 1 - jax.nn.softmax(LOGITS)[jnp.arange(2), LABELS]
    extra = losses.mart(LOGITS, adversarial, LABELS, beta=3.0) - losses.boosted_cross_entropy(adversarial, LABELS)
    np.testing.assert_allclose(extra, 3 * doubt * losses.kl_divergence(LOGITS, adversarial), rtol=1e-4)
    smooth = losses.mart(LOGITS, adversarial, LABELS, label_smoothing=0.1)
    rough = losses.mart(LOGITS, adversarial, LABELS)
    expected = [losses.cross_entropy(adversarial, LABELS, label_smoothing=a) for a in (0.1, 0.0)]
    np.testing.assert_allclose(smooth - rough, expected[0] - expected[1], rtol=1e-4)


ALL = {
    "cross_entropy": losses.cross_entropy,
    "smoothed": lambda z, y: losses.cross_entropy(z, y, label_smoothing=0.1),
    "soft": lambda z, y: losses.cross_entropy(z, 0.7 * jax.nn.one_hot(y, 4) + 0.3 * jax.nn.one_hot(y + 1, 4)),
    "margin": losses.margin,
    "log_odds": losses.log_odds,
    "dlr": losses.dlr,
    "targeted_dlr": lambda z, y: losses.targeted_dlr(z, y, (y + 1) % z.shape[-1]),
    "kl": lambda z, y: losses.kl_divergence(z, jnp.flip(z, -1)),
    "carlini_wagner": losses.carlini_wagner,
    "trades": lambda z, y: losses.trades(z, jnp.flip(z, -1), y, label_smoothing=0.1),
    "boosted_cross_entropy": losses.boosted_cross_entropy,
    "mart": lambda z, y: losses.mart(z, jnp.flip(z, -1), y),
}


@pytest.mark.parametrize("name", ALL)
def test_finite_for_huge_logits_and_ties(name):
    for logits in (1e4 * LOGITS, jnp.zeros((2, 4)), -1e4 * LOGITS):
        value, gradient = jax.value_and_grad(lambda z: ALL[name](z, LABELS).sum())(logits)
        assert bool(jnp.isfinite(value))
        assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("name", ALL)
def test_each_value_depends_on_its_own_example(name):
    jacobian = jax.jacobian(lambda z: ALL[name](z, LABELS))(LOGITS)
    assert not jacobian[0, 1].any()
    assert not jacobian[1, 0].any()


def test_cross_entropy_gradient_is_softmax_minus_one_hot():
    gradient = jax.grad(lambda z: losses.cross_entropy(z, LABELS).sum())(LOGITS)
    np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - jax.nn.one_hot(LABELS, 4), atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"at least 3 classes, got 2; use losses\.margin"):
        losses.dlr(LOGITS[:, :2], LABELS)
    with pytest.raises(ValueError, match=r"at least 4 classes, got 3; use losses\.logit_difference"):
        losses.targeted_dlr(LOGITS[:, :3], LABELS, TARGETS)
    with pytest.raises(TypeError, match="integer"):
        losses.cross_entropy(LOGITS, jnp.zeros(2))
    with pytest.raises(TypeError, match="integer"):
        losses.margin(LOGITS, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"the shape of the logits, \(2, 4\), got \(2, 3\)"):
        losses.cross_entropy(LOGITS, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="soft labels cannot be smoothed again"):
        losses.cross_entropy(LOGITS, jnp.zeros((2, 4)), label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"\[batch\] = \(2,\), got \(3,\)"):
        losses.margin(LOGITS, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=r"\[batch, classes\]"):
        losses.cross_entropy(LOGITS[0], LABELS)
    with pytest.raises(ValueError, match="smoothing must lie in"):
        losses.smooth_labels(LABELS, 4, 1.5)
    with pytest.raises(ValueError, match="both logits"):
        losses.kl_divergence(LOGITS, LOGITS[:1])
