"""What SOAR minimises, with one and with more random vectors per example (table 3.6)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import Claim, Section, above, alike, estimate, paired_difference
from jaxrobust import Linf, attacks, evaluation, losses
from jaxrobust.losses import expansion_points, soar_penalty
from jaxrobust.random import fold_in_each
from jaxrobust.reporting import Table

from . import published
from .networks import Networks
from .presets import Setting
from .rows import Row

COUNTS = (1, 10, 100)
ALIKE = 3.0
"""How many standard errors of a mean over examples two objectives may differ by."""


class Objective(NamedTuple):
    """The objective's mean over training images, one list over seeds for each number of random vectors.

    Attributes:
        value: its mean.
        error: standard error of the mean over examples.
        clipped: share of penalties at the limit with one vector, in per cent.
    """

    value: dict[int, list[float]]
    error: dict[int, list[float]]
    clipped: list[float]


def floor(features: int, radius: float) -> float:
    """The least expectation of the penalty, whatever the network: ``(d rho^2 + 1) / 2 * sqrt(2 / pi)``.

    Args:
        features: entries of an image, ``d``.
        radius: of the penalty, ``rho`` in l-infinity, half of what is defended against.

    Example:
        >>> floor(3072, 4 / 255), floor(64, 0.075)
        (0.7005, 0.5426)
    """
    return (features * radius**2 + 1) / 2 * math.sqrt(2 / math.pi)


def measure(networks: Networks, setting: Setting, row: Row, when: str) -> Objective:
    """The cell of the objective at one row's networks."""
    half = Linf(setting.eps / 2)
    limit = 10.0

    @jax.jit
    def at_points(logits_fn: attacks.LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        points = expansion_points(keys, logits_fn, images, labels, half)
        loss = losses.cross_entropy(logits_fn(points), labels)
        penalties = {}
        for number, count in enumerate(COUNTS):
            own = fold_in_each(keys, number + 1)
            penalties[count] = soar_penalty(own, logits_fn, points, labels, half, samples=count, clip=limit)
        clipped = (penalties[1] >= limit).astype(jnp.float32)
        return {count: loss + penalty for count, penalty in penalties.items()} | {0: clipped}

    def compute() -> dict[str, Any]:
        images, labels = networks.sample(setting)
        found = []
        for logits_fn in networks.logits_fns(setting, row):
            values = evaluation.map_batches(
                at_points, logits_fn, images, labels, key=jax.random.key(0), batch_size=setting.evaluation_batch // 2
            )
            found.append({count: array.astype(np.float64) for count, array in values.items()})
        error = math.sqrt(len(labels))
        return {
            "value": {str(count): [float(one[count].mean()) for one in found] for count in COUNTS},
            "error": {str(count): [float(one[count].std() / error) for one in found] for count in COUNTS},
            "clipped": [100 * float(one[0].mean()) for one in found],
        }

    cell = networks.run.cell(f"objective/{setting.name}/{row.name}/{when}", compute)
    value, error = ({int(count): values for count, values in cell[name].items()} for name in ("value", "error"))
    return Objective(value, error, cell["clipped"])


def run(networks: Networks, setting: Setting) -> Section | None:
    """The objective before and after training; ``None`` where no row asks for it."""
    rows = [row for row in setting.rows if row.shown and "samples" in row.measures and row.start is not None]
    if not rows:
        return None
    first = setting.row(rows[0].start or "")
    before = measure(networks, setting, first, "start")
    after = {row.name: measure(networks, setting, row, "end") for row in rows}
    least = floor(math.prod(networks.dataset(setting).image_shape), setting.eps / 2)
    section = Section(
        f"Random vectors per example on {setting.dataset}",
        text=[
            f"The mean of the objective over {len(networks.sample(setting)[1])} training images, at the networks that SOAR "
            "starts from and at those it ends with, R being the average over n random vectors, each clipped on its own. All "
            "n estimate the same expectation, so the published equality says nothing about robustness; what n changes is the "
            f"noise of the gradient. R cannot fall below {least:.3f} in the mean over random vectors, whatever the network: "
            "(d ε²/4 + 1)/2 √(2/π).",
            "At the start the clip decides: a clipped penalty has no gradient, so the share of clipped examples is trained on "
            "the loss at the PGD1 point alone until R falls.",
        ],
    )
    table = [_row("start of SOAR", before), _published("start of SOAR")]
    for row in rows:
        table.append(_row(f"end of {row.label}", after[row.name]))
        if row is rows[0]:
            table.append(_published("end of SOAR"))
    section.tables.append(
        Table(
            "Table 3.6: the regularised loss with n random vectors per example, mean ± standard error over seeds",
            (
                "networks",
                *(f"n = {count}" for count in COUNTS),
                "standard error over examples, n = 1",
                "clipped, n = 1 (%)",
            ),
            table,
        )
    )
    section.claims = _claims(before, after[rows[0].name], least)
    return section


def _row(text: str, found: Objective) -> list[str]:
    values = [str(estimate(found.value[count])) for count in COUNTS]
    return [text, *values, f"{np.mean(found.error[1]):.3f}", str(estimate(found.clipped))]


def _published(name: str) -> list[str]:
    return [f"{name} (published)", *(f"{value:.2f}" for value in published.SAMPLES[name].values()), "", ""]


def _claims(before: Objective, after: Objective, least: float) -> list[Claim]:
    start, end = (published.SAMPLES[name] for name in ("start of SOAR", "end of SOAR"))
    claims = []
    for text, found, theirs in (("start", before, start), ("end", after, end)):
        within = ALIKE * float(np.mean(found.error[1]))
        claims.append(
            alike(
                f"{text} of SOAR: the objective is that of n = 100 within {ALIKE:g} standard errors ({within:.2f})",
                paired_difference(found.value[1], found.value[100]),
                within,
                (theirs["1"] - theirs["100"], "table 3.6"),
            )
        )
    drop = paired_difference(before.value[1], after.value[1])
    spare = paired_difference(after.value[100], [least] * len(after.value[100]))
    return [
        *claims,
        above("training lowers the objective", drop, (start["1"] - end["1"], "table 3.6")),
        above("the objective stays above the floor", spare),
    ]
