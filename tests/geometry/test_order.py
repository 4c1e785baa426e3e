"""Focus sets: order, ties, nesting, errors."""

import numpy as np
import pytest

from jaxrobust import geometry

DISTANCES, OTHERS = np.asarray([3, 1, 2, 1, 1, np.inf]), np.asarray([0, 5, 0, 4, 5, 0])


def test_order_is_by_distance_then_ties_then_index():
    assert geometry.least_robust(DISTANCES, 6).tolist() == [1, 3, 4, 2, 0, 5]
    assert geometry.least_robust(DISTANCES, 6, ties=OTHERS).tolist() == [3, 1, 4, 2, 0, 5]
    assert geometry.most_robust(DISTANCES, 6, ties=OTHERS).tolist() == [5, 0, 2, 4, 1, 3]


def test_sets_are_nested_also_where_they_end_among_equals():
    rng = np.random.default_rng(0)
    distances, ties = rng.integers(0, 4, 200) / 255, rng.integers(0, 3, 200)
    for choose in (geometry.least_robust, geometry.most_robust):
        whole = choose(distances, 200, ties=ties)
        assert sorted(whole) == list(range(200))
        for count in (1, 64, 128):
            np.testing.assert_array_equal(choose(distances, count, ties=ties), whole[:count])
    expected = sorted(range(200), key=lambda i: (distances[i], ties[i], i))
    assert geometry.least_robust(distances, 200, ties=ties).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], 3), r"1\.\.2"),
        (([1, 2], 0), r"1\.\.2"),
        (([[1, 2]], 1), "same shape"),
        (([1, 2], 1, [1]), "same shape"),
        (([1, np.nan], 1), "NaN"),
        (([1, 2], 1, [np.nan, 0]), "NaN"),
    ],
)
def test_errors(arguments, message):
    distances, count, *ties = arguments
    for choose in (geometry.least_robust, geometry.most_robust):
        with pytest.raises(ValueError, match=message):
            choose(distances, count, ties=ties[0] if ties else None)
