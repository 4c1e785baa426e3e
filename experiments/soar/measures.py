"""What is measured on a row's networks: correctness of every test image under every attack, and statistics."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxrobust import L2, Linf, attacks, evaluation, losses
from jaxrobust.curvature import confidence, gradient_count, input_gradient

from .networks import Networks
from .outcomes import Outcome
from .presets import Setting
from .published import HALF, PARTS
from .rows import Measure, Row
from .transfer import transferred

Found = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Column to ``[images]`` bool, classified correctly as it is and under the attack; and statistic to number."""
TARGETED_STEPS = 50


def collect(networks: Networks, setting: Setting) -> dict[str, Outcome]:
    """Gather the setting's rows; what is not on disk yet is trained and attacked."""
    outcomes = {}
    for row in setting.rows:
        trained = networks.trained(setting, row)
        if not row.shown:
            continue
        cells = [_measured(networks, setting, row, group) for group in _groups(row)]
        correct: dict[str, np.ndarray] = {}
        values: dict[str, list[float]] = {}
        for cell in cells:
            correct |= cell["arrays"]
            values |= cell["values"]
        if "clipped" in trained["history"]:
            for place, epoch in (("first", 0), ("last", -1)):
                values[f"clipped_{place}"] = [100 * history[epoch] for history in trained["history"]["clipped"]]
        outcomes[row.name] = Outcome(row, correct, values)
    return outcomes


def steps(networks: Networks, setting: Setting, row: Row) -> list[Callable[[], object]]:
    """What makes a row's cells, in this order."""
    measured = (
        [functools.partial(_measured, networks, setting, row, group) for group in _groups(row)] if row.shown else []
    )
    return [functools.partial(networks.trained, setting, row), *measured]


def _groups(row: Row) -> list[Measure | Literal["cheap", "brief"]]:
    """The groups of columns that a row is attacked for; ``samples`` is not about attacks."""
    return ["brief" if row.brief else "cheap", *(name for name in row.measures if name != "samples")]


def _measured(networks: Networks, setting: Setting, row: Row, group: Measure | str) -> dict[str, Any]:
    """The cell of one group of columns."""
    name = f"measure/{setting.name}/{row.name}/{group}"
    progress = networks.run.checkpoints(name)

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        measure = {"cheap": _cheap, "brief": _brief, "long": _long, "judge": _judge, "parts": _parts, "l2": _l2}[group]
        found = []
        for index, logits_fn in enumerate(networks.logits_fns(setting, row)):
            found.append(measure(networks, setting, progress / str(index), index, logits_fn))
        shutil.rmtree(progress, ignore_errors=True)
        arrays = {column: np.stack([correct[column] for correct, _ in found]) for column in found[0][0]}
        return {"values": {key: [values[key] for _, values in found] for key in found[0][1]}}, arrays

    return networks.run.cell(name, compute)


_BRIEF = ("pgd20", "targeted")


@functools.cache
def _attacks(setting: Setting, group: str) -> dict[str, attacks.Attack]:
    """The attacks behind columns, made once so that all networks share their compiled steps."""
    threat, step = Linf(setting.eps), setting.step_size
    if group == "cheap":
        return {
            "fgsm": attacks.fgsm(threat),
            "pgd20": attacks.pgd(threat, steps=20, step_size=step),
            "targeted": attacks.multi_targeted_pgd(threat, steps=TARGETED_STEPS),
            "simba": attacks.simba(threat),
            "eps1_printed": attacks.pgd(Linf(1.0), steps=20, step_size=step),
            "eps1_clean": attacks.bim(Linf(1.0), steps=20),
        }
    if group == "long":
        steps = {f"pgd{steps}": attacks.pgd(threat, steps=steps, step_size=step) for steps in (100, 200, 1000)}
        return {**steps, "pgd20_50": attacks.pgd(threat, steps=20, step_size=step, restarts=50)}
    found: dict[str, attacks.Attack] = {}
    for number, radius in enumerate(setting.l2_radii):
        found[f"l2_{number}"] = attacks.pgd(L2(radius), steps=100)
        found[f"l2_{number}_margin"] = attacks.pgd(L2(radius), steps=100, loss=losses.margin)
    return found


def _under(
    networks: Networks, setting: Setting, group: str, count: int | None, logits_fn: attacks.LogitsFn
) -> Iterator[tuple[str, np.ndarray]]:
    images, labels = networks.test(setting, count)
    for column, attack in _attacks(setting, "cheap" if group == "brief" else group).items():
        if group == "brief" and column not in _BRIEF:
            continue
        size = min(setting.evaluation_batch, len(labels))
        yield (
            column,
            evaluation.correct(logits_fn, images, labels, attack=attack, key=jax.random.key(0), batch_size=size),
        )


def _cheap(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    images, labels = networks.test(setting, setting.tested)
    size = min(setting.evaluation_batch, len(labels))
    clean = evaluation.correct(logits_fn, images, labels, batch_size=size)
    found = {"clean": clean, **dict(_under(networks, setting, "cheap", setting.tested, logits_fn))}
    for column, made in transferred(networks, setting, index).items():
        right = evaluation.correct(logits_fn, made, labels[: len(made)], batch_size=min(size, len(made)))
        found[column] = clean[: len(made)] & right
    noise, pgd1 = _inputs(setting)

    def statistics(logits_fn: attacks.LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        points = {"clean": images, "random": noise(keys, logits_fn, images, labels)}
        points["pgd1"] = pgd1(keys, logits_fn, images, labels)
        sure = {f"confidence_{name}": _confidence(logits_fn, where) for name, where in points.items()}
        return {**sure, "gradient_count": _count(logits_fn, images, labels)}

    means = evaluation.map_batches(statistics, logits_fn, images, labels, key=jax.random.key(0), batch_size=size)
    return found, {name: float(values.astype(np.float64).mean()) for name, values in means.items()}


def _brief(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    images, labels = networks.test(setting, setting.tested)
    clean = evaluation.correct(logits_fn, images, labels, batch_size=min(setting.evaluation_batch, len(labels)))
    return {"clean": clean, **dict(_under(networks, setting, "brief", setting.tested, logits_fn))}, {}


@functools.cache
def _inputs(setting: Setting) -> tuple[attacks.Attack, attacks.Attack]:
    """Noise and one PGD step, both with the whole radius."""
    threat = Linf(setting.eps)
    return attacks.uniform_noise(threat), attacks.fgsm(threat, random_start=True)


@jax.jit
def _confidence(logits_fn: attacks.LogitsFn, images: jax.Array) -> jax.Array:
    return 100 * confidence(logits_fn(images))


@jax.jit
def _count(logits_fn: attacks.LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    return gradient_count(input_gradient(losses.cross_entropy, logits_fn, images, labels))


def _long(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    return dict(_under(networks, setting, "long", setting.attacked, logits_fn)), {}


def _l2(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    return dict(_under(networks, setting, "l2", setting.attacked, logits_fn)), {}


def _judge(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    return {"autoattack": _auto_attack(networks, setting, progress, logits_fn, setting.eps, cascade=True).robust}, {}


def _parts(networks: Networks, setting: Setting, progress: Path, index: int, logits_fn: attacks.LogitsFn) -> Found:
    found: dict[str, np.ndarray] = {}
    for radius, suffix in ((setting.eps, ""), (setting.eps / 2, HALF)):
        result = _auto_attack(networks, setting, progress / f"radius{suffix}", logits_fn, radius, cascade=False)
        found |= {part + suffix: result.robust_by[part] for part in PARTS} | {f"autoattack{suffix}": result.robust}
    return found, {}


def _auto_attack(
    networks: Networks, setting: Setting, progress: Path, logits_fn: attacks.LogitsFn, radius: float, cascade: bool
) -> attacks.AutoAttackResult:
    evaluate = attacks.auto_attack(
        Linf(radius),
        cascade=cascade,
        batch_size=setting.attack_batch,
        # Seconds of AutoAttack are cheaper done again than kept.
        state=progress if setting.attacked is None else None,
        progress=False,
    )
    return evaluate(jax.random.key(0), logits_fn, *networks.test(setting, setting.attacked))
