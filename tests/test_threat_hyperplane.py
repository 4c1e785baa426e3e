"""Smallest moves onto a hyperplane within the box, against linear programming and against sorting and bisection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from jaxrobust import L1, L2, Linf

MODELS = {"Linf": Linf, "L2": L2, "L1": L1}
NORMS = {
    "Linf": lambda d: np.abs(d).max(-1),
    "L2": lambda d: np.sqrt(np.square(d).sum(-1)),
    "L1": lambda d: np.abs(d).sum(-1),
}


def reference(name, image, normal, excess, bounds):
    """One example in double precision: bisection over the level, or sorting for l1."""
    ascent = -np.sign(excess) * normal
    room = np.where(ascent > 0, bounds[1] - image, image - bounds[0])
    slope, needed = np.abs(normal), abs(excess)
    if (slope * room).sum() <= needed:
        return np.sign(ascent) * room
    if name == "L1":
        size, left = np.zeros_like(room), needed
        for i in np.argsort(-slope, kind="stable"):
            size[i] = min(room[i], left / slope[i]) if slope[i] else 0
            left -= slope[i] * size[i]
        return np.sign(ascent) * size
    share = np.ones_like(slope) if name == "Linf" else slope
    low, high = 0.0, (room[slope > 0] / share[slope > 0]).max()
    for _ in range(200):
        middle = (low + high) / 2
        gain = (slope * np.minimum(middle * share, room)).sum()
        low, high = (middle, high) if gain < needed else (low, middle)
    return np.sign(ascent) * np.minimum(high * share, room)


def program(name, image, normal, excess, bounds):
    """The optimal norm by linear programming, infinite where the box ends before the hyperplane."""
    size = len(image)
    low, high = bounds[0] - image, bounds[1] - image
    if name == "L1":  # d = p - q
        found = linprog(
            np.ones(2 * size),
            A_eq=np.concatenate([normal, -normal])[None],
            b_eq=[-excess],
            bounds=[(0, h) for h in high] + [(0, -b) for b in low],
        )
    else:  # |d_i| <= t
        eye, ones = np.eye(size), np.ones((size, 1))
        found = linprog(
            np.r_[np.zeros(size), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * size),
            A_eq=np.r_[normal, 0][None],
            b_eq=[-excess],
            bounds=[*zip(low, high, strict=True), (0, None)],
        )
    return found.fun if found.status == 0 else np.inf


def problems(seed, batch, size, bounds=(0.0, 1.0)):
    """Random boxes with pixels on the bounds, ties, zeros, and hyperplanes near, far and out of reach."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(*bounds, size=(batch, size))
    edge = rng.uniform(size=images.shape)
    images = np.where(edge < 0.2, bounds[0], np.where(edge < 0.4, bounds[1], images))
    normal = rng.normal(size=(batch, size)) * np.exp(
        rng.uniform(0, 3, size=(batch, 1)) * rng.normal(size=(batch, size))
    )
    normal[::3] = np.round(normal[::3])  # ties and zeros
    normal[1::5, : size // 2] = 0
    reach = np.abs(normal).sum(1) * (bounds[1] - bounds[0])
    excess = rng.choice([-1, 1], size=batch) * reach * 10 ** rng.uniform(-6, 0.2, size=batch)
    excess[::11] = 0
    return images, normal, excess


@functools.cache
def compiled(name, bounds):
    return jax.jit(MODELS[name](1.0, bounds=bounds).to_hyperplane)


def solve(name, images, normal, excess, bounds=(0.0, 1.0), dtype=jnp.float32):
    return compiled(name, bounds)(*(jnp.asarray(x, dtype) for x in (images, normal, excess)))


@pytest.mark.parametrize("name", ["Linf", "L1"])
def test_linear_programming(name):
    bounds = (-0.5, 2.0)
    images, normal, excess = problems(0, 60, 7, bounds)
    moves = np.asarray(solve(name, images, normal, excess, bounds), np.float64)
    best = np.array([program(name, *one, bounds) for one in zip(images, normal, excess, strict=True)])
    reachable = np.isfinite(best)
    assert 5 < reachable.sum() < 60
    np.testing.assert_allclose(NORMS[name](moves)[reachable], best[reachable], rtol=2e-6, atol=1e-7)
    scale = np.abs(normal).sum(1)[reachable]
    np.testing.assert_array_less(np.abs((moves * normal).sum(1) + excess)[reachable], 1e-6 * scale + 1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 2, 40, 784])
def test_sorting_and_bisection(name, size):
    images, normal, excess = problems(size, 50, size)
    images, normal, excess = (x.astype(np.float32).astype(np.float64) for x in (images, normal, excess))
    moves = np.asarray(solve(name, images, normal, excess), np.float64)
    expected = np.stack([reference(name, *one, (0.0, 1.0)) for one in zip(images, normal, excess, strict=True)])
    assert ((images + moves >= -1e-7) & (images + moves <= 1 + 1e-7)).all()
    np.testing.assert_allclose(NORMS[name](moves), NORMS[name](expected), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose((moves * normal).sum(1), (expected * normal).sum(1), rtol=1e-5, atol=1e-6)
    if name != "L1":  # where the solution is unique
        np.testing.assert_allclose(moves, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_double_precision(name, float64):
    images, normal, excess = problems(3, 30, 60)
    moves = solve(name, images, normal, excess, dtype=jnp.float64)
    assert moves.dtype == jnp.float64
    expected = np.stack([reference(name, *one, (0.0, 1.0)) for one in zip(images, normal, excess, strict=True)])
    np.testing.assert_allclose(NORMS[name](np.asarray(moves)), NORMS[name](expected), rtol=1e-12, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.integers(-12, 12), name=st.sampled_from(sorted(MODELS)))
def test_scale_of_the_equation_does_not_matter(seed, power, name):
    images, normal, excess = problems(seed, 4, 6)
    factor = 4.0**power
    moves = solve(name, images, normal, excess)
    np.testing.assert_allclose(solve(name, images, factor * normal, factor * excess), moves, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_without_a_box_the_dual_norm_gives_the_distance(name):
    images, normal, excess = problems(4, 20, 12)
    normal[7] = 0
    moves = solve(name, images, normal, excess, bounds=None)
    model = MODELS[name](1.0, bounds=None)
    dual = model.dual_norm(jnp.asarray(normal, jnp.float32))
    distance = jnp.where(dual > 0, jnp.abs(jnp.asarray(excess, jnp.float32)) / dual, 0)
    np.testing.assert_allclose(model.norm(moves), distance, rtol=1e-5)
    reached = (np.asarray(moves) * normal).sum(1) + excess
    np.testing.assert_allclose(np.delete(reached, 7), 0, atol=2e-5 * np.abs(excess).max())


@pytest.mark.parametrize("name", MODELS)
def test_nothing_moves_without_a_normal_or_a_distance(name):
    images = jnp.full((2, 3, 3, 1), 0.5)
    normal = jnp.zeros_like(images).at[1].set(1.0)
    for bounds in ((0.0, 1.0), None):
        moves = solve(name, images, normal, [1.0, 0.0], bounds)
        np.testing.assert_array_equal(moves, jnp.zeros_like(images))


@pytest.mark.parametrize("name", MODELS)
def test_out_of_reach_every_pixel_goes_to_its_end(name):
    images = jnp.array([[0.25, 0.5, 0.75, 0.0]])
    moves = solve(name, images, [[1.0, -2.0, 0.0, -3.0]], [-100.0])
    np.testing.assert_allclose(images + moves, [[1.0, 0.0, 0.75, 0.0]], atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_examples_do_not_depend_on_each_other(name):
    images, normal, excess = problems(5, 12, 30)
    whole = solve(name, images, normal, excess)
    for i in (0, 3, 11):
        part = slice(i, i + 1)
        np.testing.assert_allclose(solve(name, images[part], normal[part], excess[part])[0], whole[i], atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ends_whatever_it_is_given(name, bad):
    images, normal, excess = problems(6, 4, 10)
    expected = solve(name, images, normal, excess)
    normal[1, 3] = bad
    excess[2] = bad
    moves = solve(name, images, normal, excess)
    np.testing.assert_allclose(moves[jnp.array([0, 3])], expected[jnp.array([0, 3])], atol=1e-6)


def test_ties_are_as_short_as_any_solution():
    images, normal = jnp.full((1, 8), 0.5), jnp.ones((1, 8)).at[0, :3].set(2.0)
    moves = solve("L1", images, normal, [3.5])
    np.testing.assert_allclose(moves[0, :3], -0.5, atol=1e-6)  # gain 3 of the 3.5
    np.testing.assert_allclose(moves[0, 3:].sum(), -0.5, atol=1e-6)
    assert float(moves.min()) >= -0.5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_under_vmap(name):
    images, normal, excess = (jnp.asarray(x, jnp.float32) for x in problems(8, 6, 10))
    scaled = jax.vmap(lambda factor: solve(name, images, normal, factor * excess))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(scaled[1], solve(name, images, normal, excess), atol=1e-6)
