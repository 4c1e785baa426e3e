"""Points in the plane, whose certified sets can be drawn (section 3.2.2, figure 3.3): data, networks and certificates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import Recipe, Run, create_model, members, train
from jaxrobust import L2, Linf, certify, data, evaluation, optimizers, schedules, training
from jaxrobust.attacks import LogitsFn

from .presets import Plane
from .statistics import gain

CLASSES, TRAINING, TESTING = 10, 9000, 1000
WIDTHS, BATCH, RATE = (10, 10), 100, 1e-2
SAMPLES = 500
"""Points that are drawn from each certified set."""
KINDS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
LIMIT = 2.0
"""The square [-1, 1]^2 is so wide."""


class Points(NamedTuple):
    """Points in [-1, 1]^2 with the number of the nearest centre.

    Attributes:
        centres: ``[10, 2]``.
        train, test: the points, ``[9000, 2]`` and ``[1000, 2]``.
        train_labels, test_labels: their classes.
    """

    centres: np.ndarray
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Sets(NamedTuple):
    """Certified sets of one network around correctly classified test points.

    Attributes:
        points: ``[points, 2]``.
        labels: ``[points]``.
        radii: half the sides of rectangles, or semi-axes of ellipses, ``[points, 2]``.
        uniform, nonuniform: the uniform radius, and the geometric mean of ``radii``, ``[points]``.
    """

    points: np.ndarray
    labels: np.ndarray
    radii: np.ndarray
    uniform: np.ndarray
    nonuniform: np.ndarray


def nearest(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Number of the nearest centre, ``[points]``."""
    distances = np.square(points[:, None] - centres[None]).sum(-1)
    return distances.argmin(1).astype(np.int32)


@functools.cache
def points(seed: int) -> Points:
    """The data of a seed."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-1, 1, (CLASSES, 2))
    drawn = rng.uniform(-1, 1, (TRAINING + TESTING, 2)).astype(np.float32)
    labels = nearest(centres, drawn)
    return Points(centres, drawn[:TRAINING], labels[:TRAINING], drawn[TRAINING:], labels[TRAINING:])


def trained(run: Run, plane: Plane, seed: int) -> dict[str, Any]:
    """The cell of a seed's network."""
    found = points(seed)
    dataset = data.Dataset(
        "plane", found.train, found.train_labels, found.test, found.test_labels, CLASSES, bounds=None
    )
    recipe = Recipe(
        model=_model(),
        objective=_standard(),
        optimizer=_adam(plane.epochs * data.steps_per_epoch(TRAINING, BATCH, True)),
        learning_rate=RATE,
        epochs=plane.epochs,
        batch_size=BATCH,
        drop_last=True,
    )
    return train(run, f"train/plane/{seed}", recipe, dataset, [seed])


def _model() -> Any:
    return create_model("mlp", CLASSES, (2,), (("widths", WIDTHS),))


@functools.cache
def _standard() -> training.Objective:
    return training.standard()


@functools.cache
def _adam(steps: int) -> training.OptimizerFactory:
    return lambda rate: optimizers.adam(schedules.warmup_cosine(rate, steps, warmup=0.0))


def logits_fn(run: Run, plane: Plane, seed: int) -> LogitsFn:
    """A seed's network."""
    return next(members(trained(run, plane, seed), _model()))


def measured(run: Run, plane: Plane, seed: int) -> dict[str, Any]:
    """The cell of a seed's certificates: accuracy, and for each norm the sets and sampled points that leave their class."""

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        network, found = logits_fn(run, plane, seed), points(seed)
        right = evaluation.correct(network, found.test, found.test_labels, bounds=None)
        values: dict[str, Any] = {"accuracy": 100 * float(right.mean()), "left": {}, "certified": {}}
        index = np.flatnonzero(right)[: plane.points]
        arrays = {"points": found.test[index], "labels": found.test_labels[index]}
        for name, kind in KINDS.items():
            given = jnp.asarray(arrays["points"]), jnp.asarray(arrays["labels"])
            result = certify.nonuniform(network, *given, kind(LIMIT, bounds=None), steps=plane.steps)
            arrays |= {
                f"{name}_{field}": np.asarray(values)
                for field, values in (
                    ("radii", result.radii),
                    ("uniform", result.uniform),
                    ("nonuniform", result.mean_radius),
                )
            }
            values["certified"][name] = int(result.certified.sum())
            values["left"][name] = int(_left(network, *given, result.radii, kind(1.0, bounds=None)))
        return values, arrays

    return run.cell(f"certify/plane/{seed}", compute)


def _left(network: LogitsFn, centres: jax.Array, labels: jax.Array, radii: jax.Array, unit: Linf | L2) -> jax.Array:
    """How many points drawn from certified sets, and from their boundary, are in another class."""
    directions = unit.sample(jax.random.key(0), jnp.zeros((SAMPLES * len(centres), 2)))
    # Half of them as far out as they may be.
    far = directions / unit.norm(directions)[:, None]
    directions = jnp.where((jnp.arange(len(far)) % 2 == 0)[:, None], far, directions).reshape(SAMPLES, -1, 2)
    moved = (centres + radii * directions).reshape(-1, 2)
    return (network(moved).argmax(-1) != jnp.tile(labels, SAMPLES)).sum()


def sets(cell: dict[str, Any], kind: str) -> Sets:
    """The certified sets of a seed; points without a certificate are left out."""
    arrays = cell["arrays"]
    kept = arrays[f"{kind}_uniform"] > 0
    return Sets(
        arrays["points"][kept],
        arrays["labels"][kept],
        *(arrays[f"{kind}_{name}"][kept] for name in ("radii", "uniform", "nonuniform")),
    )


def summary(found: Sets) -> dict[str, float]:
    """What is reported of one network's sets."""
    ratios = found.nonuniform / found.uniform
    return {
        "uniform": float(found.uniform.mean()),
        "nonuniform": float(found.nonuniform.mean()),
        "ratio": 1 + gain(found.uniform, found.nonuniform) / 100,
        "mean_ratio": float(ratios.mean()),
        "median_area": float(np.median(ratios**2)),
        "largest_area": float((ratios**2).max()),
        "smallest_ratio": float(ratios.min()),
        "shortened": 100 * float((found.radii.min(1) < 0.99 * found.uniform).mean()),
    }


def steps(run: Run, plane: Plane, seed: int) -> list[Callable[[], object]]:
    """What makes a seed's cells, in this order."""
    return [partial(trained, run, plane, seed), partial(measured, run, plane, seed)]
