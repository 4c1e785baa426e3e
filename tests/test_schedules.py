import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import schedules

VERSIONS = ("original", "a", "b", "c", "d", "e")
PUBLISHED = {
    0: [8e-3] * 6,
    59: [0.2] * 6,
    1000: [0.13026, 0.11638, 0.10487, 0.13026, 0.13026, 0.13026],
    1500: [0.064415, 0.045026, 0.031166, 0.064415, 0.064415, 0.064415],
    1900: [0.021615, 0.0076551, 0.0015057, 0.021615, 0.021615, 0.021615],
    2000: [0.0140087, 0.0030454, 2e-4, 0.0140087, 0.0050321, 0.0140087],
    2100: [0.0079503, 6.0179e-4, 2e-4, 0.003412, 0.0011715, 0.0048295],
    2160: [0.0051047, 2e-4, 2e-4, 0.0014621, 4.886e-4, 0.0025492],
    2200: [0.0035486, 2e-4, 2e-4, 8.3103e-4, 2.7274e-4, 0.0016649],
    2300: [8.828e-4, 2e-4, 2e-4, 2.0241e-4, 6.3498e-5, 5.7399e-4],
    2399: [8e-7, 2e-4, 2e-4, 5e-5, 1.5e-5, 2e-4],
}
"""Data geometry, section 3.6: learning rates by epoch, for the versions above; 2400 epochs, peak 0.2."""


def every_epoch(schedule, epochs):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(epochs)))


@pytest.fixture(scope="module")
def rates():
    return {name: every_epoch(schedules.one_cycle_version(name, 0.2, 2400), 2400) for name in VERSIONS}


@pytest.mark.parametrize("total", [200 * 12, 7])
def test_step_decay(total):
    schedule = schedules.step_decay(0.3, total)
    half, late = round(0.5 * total), round(0.75 * total)
    found = [float(schedule(step)) for step in (half - 1, half, late - 1, late, total)]
    np.testing.assert_allclose(found, [0.3, 0.03, 0.03, 0.003, 0.003], rtol=1e-5)


def test_warmup_cosine():
    schedule = schedules.warmup_cosine(1.0, 100, warmup=0.1)
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(9)) == pytest.approx(1.0)
    assert float(schedule(55)) == pytest.approx(0.5, abs=0.01)
    assert float(schedule(100)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("epoch", PUBLISHED)
def test_published_rates(rates, epoch):
    # The table prints four or five digits.
    np.testing.assert_allclose([rates[name][epoch] for name in VERSIONS], PUBLISHED[epoch], rtol=5e-5)


def test_every_version_warms_up_like_the_original(rates):
    for name in VERSIONS:
        np.testing.assert_allclose(rates[name][:60], rates["original"][:60], rtol=1e-6)
    assert (np.diff(rates["original"][:60]) > 0).all()


@pytest.mark.parametrize(("name", "begin"), [("a", 2160), ("b", 2000)])
def test_plateau(rates, name, begin):
    np.testing.assert_array_equal(rates[name][begin:], np.float32(2e-4))
    assert rates[name][begin - 1] > 2e-4


@pytest.mark.parametrize(("name", "begin"), [("c", 2000), ("d", 1900), ("e", 2000)])
def test_exponential_tail(rates, name, begin):
    np.testing.assert_allclose(rates[name][: begin + 1], rates["original"][: begin + 1], rtol=1e-6)
    ratios = rates[name][begin + 1 :] / rates[name][begin:-1]
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=1e-5)


def test_version_c_falls_faster_and_has_a_longer_tail(rates):
    difference = rates["c"] - rates["original"]
    assert (difference[2001:2371] < 0).all()
    assert (difference[2371:] > 0).all()


@pytest.mark.parametrize(("epochs", "begin"), [(1600, 1333), (3000, 2500), (2000, 1666), (60, 50)])
def test_versions_scale_with_the_epochs(epochs, begin):
    rates, original = (every_epoch(schedules.one_cycle_version(v, 0.1, epochs), epochs) for v in ("c", "original"))
    np.testing.assert_allclose(rates[: begin + 1], original[: begin + 1], rtol=1e-6)
    assert abs(rates[begin + 1] / original[begin + 1] - 1) > 1e-4
    assert rates[-1] == pytest.approx(2.5e-5, rel=1e-5)


def test_no_digit_is_lost_near_the_end():
    # In single precision 1 + cos(pi q) keeps no digit of the last but one epoch, and few of those before.
    found = every_epoch(schedules.one_cycle(0.2, 60_000, final_factor=1e12), 60_000)
    progress = (np.arange(1500, 60_000) - 1499) / (59_999 - 1499)
    expected = 8e-15 + (0.2 - 8e-15) * np.sin(np.pi / 2 * (1 - progress)) ** 2
    np.testing.assert_allclose(found[1500:], expected, rtol=2e-6)


def test_momentum_is_the_mirror_of_the_rate():
    rate, momentum = (
        every_epoch(schedule, 400)
        for schedule in (schedules.one_cycle(0.2, 400, final_factor=1.0), schedules.one_cycle_momentum(400))
    )
    np.testing.assert_allclose((rate - 0.008) / 0.192, (0.95 - momentum) / 0.1, atol=2e-5)
    assert momentum[[0, 9, 399]].tolist() == [np.float32(0.95), np.float32(0.85), np.float32(0.95)]


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.025), (2, 0.025), (40, 0.025), (10, 0.0), (10, 1.0)])
def test_short_cycles_are_finite_and_within_their_bounds(total, warmup):
    rates = every_epoch(schedules.one_cycle(0.2, total, warmup=warmup), total)
    assert ((rates > 7e-7) & (rates <= np.float32(0.2))).all()
    for name in VERSIONS:
        assert np.isfinite(every_epoch(schedules.one_cycle_version(name, 0.2, total), total)).all()


def test_after_the_end_the_last_value_stays():
    for schedule in (schedules.one_cycle(0.2, 50), *(schedules.one_cycle_version(v, 0.2, 50) for v in VERSIONS)):
        assert float(schedule(1000)) == float(schedule(49))


def test_per_epoch():
    schedule = schedules.per_epoch(schedules.one_cycle(0.2, 80), steps_per_epoch=3)
    steps = every_epoch(schedule, 240)
    np.testing.assert_array_equal(steps, np.repeat(every_epoch(schedules.one_cycle(0.2, 80), 80), 3))
    assert float(schedule(5)) == steps[5]


MAKERS = {
    "step_decay": schedules.step_decay,
    "warmup_cosine": schedules.warmup_cosine,
    "one_cycle": schedules.one_cycle,
    **{name: lambda rate, total, name=name: schedules.one_cycle_version(name, rate, total) for name in "ac"},
}


@pytest.mark.parametrize("name", MAKERS)
def test_traced_rates_and_dtype(float64, name):
    step = jnp.asarray(47)
    together = jax.vmap(lambda rate: MAKERS[name](rate, 50)(step))(jnp.asarray([0.1, 0.2], jnp.float32))
    separate = [float(MAKERS[name](rate, 50)(step)) for rate in (0.1, 0.2)]
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(together, separate, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="learning rate must be finite and above 0, got -1"):
        schedules.one_cycle(-1, 10)
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="total_steps must be at least 1, got 0"):
            make(0.1, 0)
    with pytest.raises(ValueError, match="warmup is a fraction of all steps"):
        schedules.one_cycle(0.1, 10, warmup=5)
    with pytest.raises(ValueError, match="initial_factor and final_factor"):
        schedules.one_cycle(0.1, 10, final_factor=0)
    with pytest.raises(ValueError, match="unknown version 'f'; choose one of original, a"):
        schedules.one_cycle_version("f", 0.1, 10)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)"):
        schedules.one_cycle_momentum(10, high=1.0)
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1"):
        schedules.per_epoch(schedules.one_cycle(0.1, 10), 0)


@pytest.mark.parametrize(
    ("peak", "epochs", "warmup_rate", "published"),
    [
        # Swin-B with gradient-norm regularisation: a base rate of 0.625e-3 per 512 images, 532 a batch.
        (
            0.625e-3 * 532 / 512,
            100,
            1e-5,
            {0: 1e-5, 1: 1.37883e-4, 4: 5.21531e-4, 5: 6.45478e-4, 50: 3.29707e-4, 99: 1.01578e-5},
        ),
        # ResNet-50: 1.25e-3 per 512 images, 256 a batch.
        (1.25e-3 * 256 / 512, 50, 1e-6, {0: 1e-6, 1: 1.258e-4, 5: 6.0995e-4, 25: 3.175e-4, 49: 1.06068e-5}),
    ],
)
def test_fine_tuning_rates(peak, epochs, warmup_rate, published):
    rates = every_epoch(schedules.cosine_with_warmup(peak, epochs, warmup_rate=warmup_rate), epochs)
    np.testing.assert_allclose(rates[list(published)], list(published.values()), rtol=5e-6)


def test_the_cosine_does_not_wait_for_the_warmup():
    schedule = schedules.cosine_with_warmup(1.0, 40, warmup_epochs=5, warmup_rate=0.1, final_rate=0.2)
    straight = schedules.cosine_with_warmup(1.0, 40, warmup_epochs=0, final_rate=0.2)
    rates, cosine = every_epoch(schedule, 60), every_epoch(straight, 60)
    np.testing.assert_allclose(rates[:5], 0.1 + 0.9 * np.arange(5) / 5, rtol=1e-6)
    np.testing.assert_array_equal(rates[5:], cosine[5:])
    np.testing.assert_allclose(cosine[:41], 0.2 + 0.4 * (1 + np.cos(np.pi * np.arange(41) / 40)), rtol=1e-5)
    np.testing.assert_array_equal(rates[40:], np.float32(0.2))
    assert float(schedule(2.5)) == pytest.approx(0.55)


def test_fine_tuning_errors_and_traced_rates():
    together = jax.vmap(lambda peak: schedules.cosine_with_warmup(peak, 50)(20))(jnp.asarray([0.1, 0.2], jnp.float32))
    separate = [float(schedules.cosine_with_warmup(peak, 50)(20)) for peak in (0.1, 0.2)]
    np.testing.assert_allclose(together, separate, rtol=1e-6)
    with pytest.raises(ValueError, match="learning rate must be finite and above 0, got 0"):
        schedules.cosine_with_warmup(0.1, 50, final_rate=0)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        schedules.cosine_with_warmup(0.1, 0)
    with pytest.raises(ValueError, match=r"warmup_epochs must lie in \[0, epochs\), got 5 of 5 epochs"):
        schedules.cosine_with_warmup(0.1, 5)


@pytest.mark.parametrize(("initial", "final"), [(0.0064, 0.1024), (0.02, 0.32)])
def test_doubling_radii(initial, final):
    """Verification, 7.6.6: doubled every 20 of 100 epochs."""
    radii = every_epoch(schedules.doubling(initial, every=20, times=4), 120)
    np.testing.assert_array_equal(
        radii, np.float32(initial) * 2 ** np.minimum(np.arange(120) // 20, 4).astype(np.float32)
    )
    np.testing.assert_allclose(radii[80:], final, rtol=1e-6)


def test_doubling_traced_and_errors(float64):
    together = jax.vmap(lambda first: schedules.doubling(first, 3, 2)(jnp.asarray(5)))(jnp.asarray([0.1, 0.2]))
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(together, [0.2, 0.4], rtol=1e-6)
    assert float(schedules.doubling(0.1, 1, 40)(10**6)) == pytest.approx(0.1 * 2**40)
    with pytest.raises(ValueError, match="initial must be finite and above 0, got 0"):
        schedules.doubling(0.0, 3, 2)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        schedules.doubling(0.1, 0, 2)
    with pytest.raises(ValueError, match="times must be at least 0, got -1"):
        schedules.doubling(0.1, 3, -1)
