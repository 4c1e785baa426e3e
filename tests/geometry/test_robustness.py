"""Distances to other classes: golden values, brute force, scikit-learn, theorems, exactness, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from jaxrobust import geometry
from jaxrobust.batching import data_mesh
from jaxrobust.geometry import robustness

NORMS = ["l2", "linf"]


def pair_distances(points, norm, dtype=np.float64):
    """All pairs' distances, squared in the L2 norm, computed directly in the given type."""
    flat = np.asarray(points).reshape(len(points), -1).astype(dtype)
    differences = flat[:, None] - flat[None]
    return np.square(differences).sum(-1) if norm == "l2" else np.abs(differences).max(-1)


def pair_row(points, index, norm):
    """One row of :func:`pair_distances`."""
    differences = points - points[index]
    return np.square(differences).sum(1) if norm == "l2" else np.abs(differences).max(1)


def brute_force(points, labels, norm, dtype=np.float64):
    distances = np.where(labels[:, None] == labels[None], np.inf, pair_distances(points, norm, dtype))
    best = distances.min(1).astype(np.float64)
    neighbours = np.where(np.isinf(best), -1, distances.argmin(1))
    return (np.sqrt(best) if norm == "l2" else best), neighbours


@pytest.fixture(scope="module")
def digits():
    """Pixels 0..16 and labels."""
    return load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def found(digits):
    """The digits in [0, 1], by norm."""
    points, labels = digits
    images = (points / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return {norm: robustness(images, labels, norm) for norm in NORMS}


@pytest.mark.parametrize("norm", NORMS)
def test_four_points_on_a_line(norm):
    points, labels = np.asarray([0, 1, 3, 7]), np.asarray([0, 0, 1, 1])
    for images, scale in ((points[:, None].astype(np.float32), 1), (points[:, None].astype(np.uint8), 255)):
        result = robustness(images, labels, norm)
        np.testing.assert_array_equal(result.distances, np.asarray([3, 2, 2, 6]) / scale)
        np.testing.assert_array_equal(result.neighbours, [2, 2, 1, 1])
        assert result.distances.dtype == np.float64
        assert result.neighbours.dtype == np.int64


def test_digits_l2(digits, found):
    distances, neighbours = found["l2"]
    squared = np.rint(distances**2 * 256).astype(int)
    np.testing.assert_allclose(distances**2 * 256, squared, rtol=1e-14)
    assert squared.min() == 356
    assert neighbours[242] == 1714
    assert neighbours[1714] == 242
    assert squared[242] == squared[1714] == 356
    assert (neighbours[846], neighbours[1790]) == (1790, 846)
    assert squared[846] == 366
    assert digits[1][[242, 1714, 846, 1790]].tolist() == [8, 1, 1, 8]
    assert (squared.max(), squared.argmax(), digits[1][1595]) == (1643, 1595, 7)
    assert squared.sum() == 1_587_645
    assert distances.min() == pytest.approx(1.1792476, abs=5e-8)
    assert distances.max() == pytest.approx(2.5333710, abs=5e-8)
    assert distances.mean() == pytest.approx(1.8438610955, abs=5e-11)
    assert np.median(distances) == pytest.approx(1.8561553, abs=5e-8)
    assert (1 / distances).mean() == pytest.approx(0.5510895278, abs=5e-11)
    least = geometry.least_robust(distances, 10)
    assert least.tolist() == [242, 1714, 846, 1790, 95, 667, 823, 1409, 346, 583]
    means = [distances[digits[1] == label].mean() for label in range(10)]
    expected = [1.9599, 1.6621, 1.9808, 1.7281, 1.9722, 1.8612, 1.9309, 1.9387, 1.7209, 1.6862]
    np.testing.assert_allclose(means, expected, atol=5e-5)


def test_digits_linf(found):
    distances = found["linf"].distances
    values, counts = np.unique(distances * 16, return_counts=True)
    assert values.tolist() == list(range(7, 16))
    assert counts.tolist() == [10, 49, 105, 324, 512, 542, 219, 35, 1]
    assert (distances * 16).sum() == 20_135
    assert (1 / distances).mean() == pytest.approx(1.4490388854, abs=5e-11)
    assert distances.argmax() == 623
    least = geometry.least_robust(distances, 10, ties=found["l2"].distances)
    assert least.tolist() == [1361, 532, 1347, 598, 575, 813, 1282, 248, 1774, 1704]


@pytest.mark.parametrize("norm", NORMS)
def test_digits_as_brute_force_and_as_integers(norm, digits, found):
    points, labels = digits
    distances = np.where(
        labels[:, None] == labels[None], np.inf, np.stack([pair_row(points, i, norm) for i in range(len(points))])
    )
    np.testing.assert_array_equal(found[norm].neighbours, distances.argmin(1))
    integers = robustness(points.astype(np.uint8), labels, norm)
    np.testing.assert_array_equal(integers.neighbours, found[norm].neighbours)
    np.testing.assert_allclose(integers.distances * 255 / 16, found[norm].distances, rtol=1e-15)


@pytest.mark.parametrize(("norm", "metric"), [("l2", "euclidean"), ("linf", "chebyshev")])
def test_digits_as_scikit_learn(norm, metric, digits, found):
    points, labels = digits
    for label in range(10):
        others = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=metric).fit(points[labels != label] / 16)
        distances = others.kneighbors(points[labels == label] / 16)[0][:, 0]
        np.testing.assert_allclose(found[norm].distances[labels == label], distances, rtol=1e-12)


def test_the_least_robust_point_and_its_neighbour_are_mutual(found):
    for distances, neighbours in found.values():
        least = distances.argmin()
        assert distances[neighbours[least]] == distances[least]


def test_norms_bound_each_other(found):
    l2, linf = found["l2"].distances, found["linf"].distances
    assert (linf <= l2).all()
    assert (l2 <= np.sqrt(64) * linf).all()


@pytest.mark.parametrize("norm", NORMS)
def test_robustness_is_1_lipschitz_over_all_pairs(norm, digits, found):
    points, distances = digits[0] / 16, found[norm].distances
    for index in range(0, len(points), 3):
        apart = pair_row(points, index, norm)
        apart = np.sqrt(apart) if norm == "l2" else apart
        assert (np.abs(distances - distances[index]) <= apart + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_coarser_labels_only_raise_it(norm, digits, found):
    points, labels = digits
    images = points.astype(np.uint8)
    fine = found[norm].distances * 16
    equal = {}
    for groups, coarse_labels in (("five", labels // 2), ("parity", labels % 2)):
        coarse = robustness(images, coarse_labels, norm).distances * 255
        assert (coarse >= fine - 1e-9).all()
        equal[groups] = np.mean(np.abs(coarse - fine) < 1e-9)
    if norm == "l2":
        assert equal["five"] == pytest.approx(0.888, abs=5e-4)
        assert equal["parity"] == pytest.approx(0.561, abs=5e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_fewer_points_only_raise_it(norm, digits, found):
    kept = np.random.default_rng(0).permutation(1797)[:900]
    part = robustness(digits[0][kept].astype(np.uint8), digits[1][kept], norm).distances * 255 / 16
    assert (part >= found[norm].distances[kept] - 1e-12).all()
    assert part.mean() > found[norm].distances[kept].mean() + 0.02


@pytest.mark.parametrize(("norm", "mean"), [("l2", 1.04), ("linf", 0.42)])
def test_permuted_labels_lower_it(norm, mean, digits, found):
    permuted = np.random.default_rng(0).permutation(digits[1])
    distances = robustness(digits[0].astype(np.uint8), permuted, norm).distances * 255 / 16
    assert distances.mean() == pytest.approx(mean, abs=0.03)
    assert np.mean(distances < found[norm].distances) > (0.97 if norm == "l2" else 0.9)


@pytest.mark.parametrize("norm", NORMS)
def test_it_certifies_the_nearest_neighbour_classifier(norm, digits, found):
    points, labels = digits[0] / 16, digits[1]
    distances, neighbours = found[norm]
    rng = np.random.default_rng(0)

    def classify(x):
        return labels[pair_row(np.vstack([x, points]), 0, norm)[1:].argmin()]

    flipped = []
    for index in rng.permutation(1797)[:60]:
        direction = rng.normal(size=64)
        direction = np.sign(direction) if norm == "linf" else direction / np.linalg.norm(direction)
        towards = points[neighbours[index]] - points[index]
        for step in (direction * distances[index], towards):
            assert classify(points[index] + 0.4999 * step) == labels[index]
        flipped.append(classify(points[index] + 0.5001 * towards) != labels[index])
    assert np.mean(flipped) > 0.8


@pytest.mark.parametrize(
    ("norm", "eps", "certified"),
    [("linf", 0.25, 0.96717), ("linf", 0.30, 0.90874), ("l2", 0.8, 0.84975), ("l2", 0.9, 0.60545)],
)
def test_certified_accuracy_of_the_nearest_neighbour_classifier(norm, eps, certified, found):
    assert np.mean(found[norm].distances / 2 > eps) == pytest.approx(certified, abs=5e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_duplicate_of_another_class_and_a_single_class(norm, dtype):
    points = np.asarray([[0, 5], [9, 9], [0, 5], [200, 3]], dtype)
    result = robustness(points, np.asarray([0, 0, 1, 1]), norm)
    assert result.distances[[0, 2]].tolist() == [0, 0]
    assert result.neighbours[[0, 2]].tolist() == [2, 0]
    assert np.isfinite(result.distances).all()
    alone = robustness(points, np.zeros(4, int), norm)
    assert np.isinf(alone.distances).all()
    assert (alone.neighbours == -1).all()


@pytest.mark.parametrize("features", [3072, 33_026])
def test_extreme_images_and_the_smallest_change_are_exact(features):
    """33,026 features have squared distances beyond int32."""
    images = np.zeros((4, features), np.uint8)
    images[1:3] = 255
    images[2, 7] = 254
    images[3, features // 2 :] = 128
    labels = np.asarray([0, 1, 2, 2])
    result = robustness(images, labels, "l2")
    gray = 128**2 * (features - features // 2)
    np.testing.assert_array_equal(result.distances, np.sqrt([gray, 1, 1, gray]) / 255)
    np.testing.assert_array_equal(result.neighbours, [3, 2, 1, 0])
    black_and_white = robustness(images[:2], labels[:2], "l2").distances
    np.testing.assert_array_equal(black_and_white, np.sqrt([255**2 * features] * 2) / 255)
    linf = robustness(images, labels, "linf").distances
    np.testing.assert_array_equal(linf, np.asarray([128, 1, 1, 128]) / 255)


@pytest.mark.parametrize("norm", NORMS)
def test_invariances(norm):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 100, (40, 5, 4), np.uint8), rng.integers(0, 4, 40)
    result = robustness(images, labels, norm)
    for other, other_labels in (
        (images.reshape(40, -1)[:, rng.permutation(20)], labels),
        (images + np.uint8(155), labels),
        (images, np.asarray([-7, 2**40, 3, 5])[labels]),
    ):
        np.testing.assert_array_equal(robustness(other, other_labels, norm), result)
    scaled = robustness(images.astype(np.float32) / 32, labels, norm)
    np.testing.assert_allclose(scaled.distances, result.distances * 255 / 32, rtol=1e-15)
    np.testing.assert_array_equal(scaled.neighbours, result.neighbours)
    order = rng.permutation(40)
    np.testing.assert_array_equal(robustness(images[order], labels[order], norm).distances, result.distances[order])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_brute_force_for_every_block_size_and_number_of_devices(norm, dtype, tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 4, (53, 3, 7), np.uint8)  # many ties
    if dtype != np.uint8:
        images = np.concatenate([images[:30] / 3, rng.normal(size=(23, 3, 7))]).astype(dtype)
    labels = np.sort(rng.integers(0, 5, 53))[rng.permutation(53)]
    labels[17] = 9
    exact = np.float32 if (norm, dtype) == ("linf", np.float32) else np.float64
    expected = brute_force(images, labels, norm, exact)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    scale = 255 if dtype == np.uint8 else 1
    for options in (
        {"block_size": 64},
        {"block_size": 11, "mesh": data_mesh(jax.devices()[:1])},
        {"block_size": 11, "mesh": data_mesh(jax.devices()[:2]), "cache_bytes": 0},
    ):
        result = robustness(mapped, labels, norm, **options)
        np.testing.assert_allclose(result.distances * scale, expected[0], rtol=1e-14)
        np.testing.assert_array_equal(result.neighbours, expected[1])


LABELS = arrays.arrays(np.int64, 12, elements=st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.uint8, (12, 3)), LABELS, st.sampled_from(NORMS))
def test_any_integers_equal_brute_force(images, labels, norm):
    expected = brute_force(images, labels, norm)
    result = robustness(images, labels, norm, block_size=4)
    np.testing.assert_allclose(result.distances * 255, expected[0], rtol=1e-14)
    np.testing.assert_array_equal(result.neighbours, expected[1])


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.float32, (12, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)),
    LABELS,
    st.sampled_from(NORMS),
)
def test_any_floats_equal_brute_force(images, labels, norm):
    expected = brute_force(images, labels, norm, np.float64 if norm == "l2" else np.float32)
    result = robustness(images, labels, norm, block_size=4)
    np.testing.assert_allclose(result.distances, expected[0], rtol=1e-14)
    np.testing.assert_array_equal(result.neighbours, expected[1])


def test_nearly_equal_distances_far_from_the_origin():
    """Where float32 cannot tell: two candidates 1e-9 apart, in points that share a large offset."""
    images = np.full((3, 50), 1000.0)
    images[1, 0] += 1.0
    images[2, 1] += 1.0 - 1e-9
    result = robustness(images, np.asarray([0, 1, 1]), "l2")
    assert result.neighbours.tolist() == [2, 0, 0]
    np.testing.assert_allclose(result.distances, [1 - 1e-9, 1, 1 - 1e-9], rtol=1e-12)
    linf = robustness(images, np.asarray([0, 1, 1]), "linf")
    assert linf.neighbours.tolist() == [2, 0, 0]


def test_half_precision_images_are_compared_as_they_are():
    images = np.random.default_rng(0).normal(size=(20, 6)).astype(jnp.bfloat16)
    labels = np.arange(20) % 3
    for norm in NORMS:
        expected = robustness(images.astype(np.float64), labels, norm)
        np.testing.assert_array_equal(robustness(images, labels, norm).neighbours, expected.neighbours)


IMAGES, TWO_CLASSES = np.zeros((3, 2), np.uint8), np.asarray([0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, TWO_CLASSES[:2], "l2"), "same length"),
        ((IMAGES[:0], TWO_CLASSES[:0], "l2"), "at least 1"),
        ((IMAGES, TWO_CLASSES.astype(float), "l2"), "class numbers"),
        ((IMAGES.astype(int), TWO_CLASSES, "l2"), "uint8 or floating point"),
        ((IMAGES > 0, TWO_CLASSES, "l2"), "uint8 or floating point"),
        ((IMAGES[:, :0], TWO_CLASSES, "l2"), r"shape \(3, 0\)"),
        ((np.full((3, 2), np.nan), TWO_CLASSES, "linf"), "NaN"),
        ((np.full((3, 2), np.inf, np.float32), TWO_CLASSES, "l2"), "infinite"),
        ((IMAGES, TWO_CLASSES, "l1"), "'l2' or 'linf'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        robustness(*arguments)
    with pytest.raises(ValueError, match="block_size"):
        robustness(IMAGES, TWO_CLASSES, "l2", block_size=0)
