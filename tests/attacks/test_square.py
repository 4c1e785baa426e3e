"""Square (autoattack specification, section 6)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import L1, L2, Linf, attacks
from jaxrobust.attacks import _square
from jaxrobust.attacks._square import PHASES, pattern, square_passes, window_side
from jaxrobust.iteration import Closure
from jaxrobust.random import example_keys

THREATS = {"Linf": Linf(0.1), "L2": L2(0.8), "L1": L1(4.0)}
SHAPE, BATCH = (7, 6, 2), 6


def linear(weights, images):
    return images.reshape(images.shape[0], -1) @ weights


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    logits_fn = functools.partial(linear, jnp.asarray(rng.normal(size=(84, 4)), jnp.float32))
    images = jnp.asarray(rng.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    return images, labels.at[0].set((labels[0] + 1) % 4), logits_fn


def test_sides_and_phases():
    linf = [window_side(phase, 0.8, 224, 224, odd=False) for phase in range(10)]
    assert linf == [200, 142, 100, 71, 50, 35, 25, 18, 13, 9]
    assert PHASES == (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    assert window_side(0, 1.0, 9, 5, odd=False) == 5
    assert window_side(9, 0.8, 8, 8, odd=True) == 3
    assert window_side(0, 0.8, 1, 1, odd=True) == 1
    assert square_passes(5000) == (5002, 0)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 29])
def test_pattern_is_two_pyramids(side, power):
    def pyramid(rows, columns):
        result = np.zeros((rows, columns))
        middle = (rows // 2, columns // 2)
        for k in range(max(rows // 2, columns // 2) + 1):
            top, left = max(middle[0] - k, 0), max(middle[1] - k, 0)
            result[top : middle[0] + k + 1, left : middle[1] + k + 1] += 1 / (k + 1) ** (2 if power == 2 else 4)
        return result / np.linalg.norm(result.ravel(), power) if rows else result

    half = side // 2
    expected = np.concatenate([pyramid(half, side), -pyramid(side - half, side)])
    np.testing.assert_allclose(pattern(side, power), expected / np.linalg.norm(expected.ravel(), power), atol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_patterns_of_a_step_are_the_table(power):
    sides = [window_side(phase, 0.8, 12, 12, odd=True) for phase in range(10)]
    table = _square._table(sides, power, jnp.float32)
    for phase in (0, 2, 9):
        for turned in (False, True):
            side = sides[phase]
            offsets = jnp.arange(12)[None] - 12 + side  # the window ends with the image
            heights, scales = zip(
                *(_square._profile(table, phase, offsets, jnp.asarray([[halved]])) for halved in (not turned, turned)),
                strict=True,
            )
            found = jnp.minimum(heights[0][0][:, None], heights[1][0]) * scales[0][0][:, None] * scales[1][0]
            expected = np.zeros((12, 12))
            expected[12 - side :, 12 - side :] = pattern(side, power).T if turned else pattern(side, power)
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
def test_properties(threat, problem, key):
    images, labels, logits_fn = problem
    attack = attacks.square(threat, queries=60)
    keys = jax.random.split(key, BATCH)
    found = attack(keys, logits_fn, images, labels)
    assert found.dtype == images.dtype
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((threat.norm(found - images) <= threat.eps * (1 + 1e-6)).all())
    robust = np.asarray(logits_fn(found).argmax(-1) == labels)
    assert 0 < robust.sum() < BATCH
    np.testing.assert_array_equal(found[robust], images[robust])
    np.testing.assert_array_equal(found[0], images[0])
    np.testing.assert_array_equal(found, attack(keys, logits_fn, images, labels))
    part = attack(keys[2:3], logits_fn, images[2:3], labels[2:3])
    np.testing.assert_allclose(part, found[2:3], atol=1e-6)
    compiled = jax.jit(lambda keys, images, labels: attack(keys, logits_fn, images, labels))
    np.testing.assert_allclose(compiled(keys, images, labels), found, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
def test_candidates_use_the_whole_radius(threat, problem, key):
    # Without a box every point of the search lies on the sphere; in l-infinity every changed pixel at its distance.
    images, labels, logits_fn = problem
    threat = type(threat)(threat.eps, bounds=None)
    constants = _square._Constants(threat, Closure(logits_fn), example_keys(key, BATCH), images, labels)
    power = {Linf: None, L2: 2, L1: 1}[type(threat)]
    program = _square._program(_square._Options(power, 0.8, 100, False, "margin"))
    clean = jnp.moveaxis(images, -1, 1)
    state = program.start(constants, clean, jnp.zeros(BATCH, bool))
    for _ in range(8):
        moved = (state.adversarial - clean).reshape(BATCH, -1)
        np.testing.assert_allclose(threat.norm(moved), threat.eps, rtol=1e-5)
        if power is None:
            np.testing.assert_allclose(jnp.abs(moved), threat.eps, rtol=1e-4)
        state = jax.jit(program.step)(constants, state)


def test_windows_reach_every_pixel(key):
    images = jnp.full((64, 1, 6, 6), 0.5)
    options = _square._Options(None, 0.25, 100, False, "margin")
    draws = _square._draw(options, jax.random.split(key, 64), jnp.asarray(0), images.shape, images.dtype)
    moved = np.abs(_square._linf_candidate(Linf(0.1), images, images, draws) - images) > 0
    assert moved.any(0).all()
    assert (moved.sum((1, 2, 3)) == 9).all()


def test_never_breaks_what_is_provably_robust_and_breaks_the_rest(key):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(9, 2)).astype(np.float32)
    images = rng.uniform(0.3, 0.7, size=(64, 3, 3, 1)).astype(np.float32)
    logits = images.reshape(64, -1) @ weights
    labels = logits.argmax(-1).astype(np.int32)
    difference = weights[:, 0] - weights[:, 1]
    radius = np.abs(logits[:, 0] - logits[:, 1]) / np.abs(difference).sum()
    eps = float(np.median(radius))
    found = attacks.square(Linf(eps), queries=400)(key, functools.partial(linear, jnp.asarray(weights)), images, labels)
    broken = np.asarray((found.reshape(64, -1) @ weights).argmax(-1) != labels)
    assert not broken[radius > eps * (1 + 1e-5)].any()
    assert broken[radius < 0.9 * eps].mean() > 0.9


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    height=st.sampled_from([1, 3, 5, 12, 14, 19]),
    width=st.sampled_from([1, 4, 12, 18, 24]),
    channels=st.sampled_from([1, 3]),
    norm=st.sampled_from(["Linf", "L2", "L1"]),
)
@pytest.mark.slow
def test_starts_of_every_shape(height, width, channels, norm):
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, height, width, channels)), jnp.float32)
    threat = THREATS[norm]
    power = {"Linf": None, "L2": 2, "L1": 1}[norm]
    constants = _square._Constants(threat, None, jax.random.split(jax.random.key(0), 2), images, None)
    start = _square._start(constants, _square._Options(power, 0.8, 10, False, "margin"))
    moved = start - jnp.moveaxis(images, -1, 1)
    assert start.shape == (2, channels, height, width)
    assert bool(((start >= 0) & (start <= 1)).all())
    assert bool((threat.norm(moved) <= threat.eps * (1 + 1e-6)).all())
    assert bool((threat.norm(moved) > 0).all())


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
def test_small_images_two_classes_other_bounds_and_float64(threat, float64, key):
    weights = jnp.asarray([[1.0, -1.0]], jnp.float64)
    images = jnp.asarray([[[[1.0]]], [[[-0.5]]]], jnp.float64)
    threat = type(threat)(threat.eps, bounds=(-1.0, 2.0))
    labels = jnp.asarray([0, 1], jnp.int32)
    found = attacks.square(threat, queries=5)(key, functools.partial(linear, weights), images, labels)
    assert found.dtype == jnp.float64
    assert bool(jnp.isfinite(found).all())


def test_more_queries_and_restarts_never_repair(problem, key):
    images, labels, logits_fn = problem

    def robust(**options):
        found = attacks.square(Linf(0.06), **options)(key, logits_fn, images, labels)
        return np.asarray(logits_fn(found).argmax(-1) == labels)

    few = robust(queries=10)
    assert (robust(queries=60) <= few).all()
    assert (robust(queries=10, restarts=3) <= few).all()
    assert robust(queries=10, loss="ce", rescale_schedule=True).shape == (BATCH,)


def test_waveforms_are_images_of_one_row(key):
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
    waves = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12, 1)), jnp.float32)
    logits_fn = functools.partial(linear, weights)
    labels = logits_fn(waves).argmax(-1).astype(jnp.int32)
    threat = L2(0.8, bounds=None)
    found = attacks.square(threat, queries=20)(key, logits_fn, waves, labels)
    assert found.shape == waves.shape
    rows = attacks.square(threat, queries=20)(key, logits_fn, waves[:, None], labels)
    np.testing.assert_allclose(rows[:, 0], found, atol=1e-6)


def test_bad_arguments(problem, key):
    images, labels, logits_fn = problem
    with pytest.raises(ValueError, match="queries and restarts must be at least 1"):
        attacks.square(Linf(0.1), queries=0)
    with pytest.raises(ValueError, match="p_init is a share"):
        attacks.square(Linf(0.1), p_init=0)
    with pytest.raises(ValueError, match="unknown loss 'dlr'"):
        attacks.square(Linf(0.1), loss="dlr")
    with pytest.raises(ValueError, match="takes images"):
        attacks.square(Linf(0.1))(key, logits_fn, images.reshape(BATCH, -1), labels)
