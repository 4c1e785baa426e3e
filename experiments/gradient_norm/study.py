"""Runs the study's parts and writes the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import zip_longest
from threading import Event

import jax

from experiments.study import Run, Section, print_sections, report
from jaxrobust.reporting import CommandError

from . import measures, section, statistics, text
from .config import Config, identity, parts, settings, weights
from .measures import Measure
from .networks import Networks
from .rows import Part, Row, Setting

_MEASURES: dict[Part, Callable[[Row], tuple[Measure, ...]]] = {
    "robustness": lambda row: (
        measures.accuracies,
        measures.auto_attack,
        measures.norms,
        *((measures.curve,) if len(row.radii) > 1 or row.method == "natural" else ()),
        *((measures.masking,) if row.method == "gradient_norm" else ()),
    ),
    "training": lambda row: (
        measures.accuracies,
        *((measures.auto_attack,) if row.judged_seeds else ()),
        *((measures.confidence,) if row.name.startswith("labels") else ()),
        *((measures.masking,) if row.method == "gradient_norm" else ()),
    ),
    "geometry": lambda row: (statistics.geometry, statistics.profile),
    "edges": lambda row: (measures.accuracies, measures.auto_attack, statistics.edge_agreement),
    "colour": lambda row: (measures.accuracies, statistics.channels),
}


def run(config: Config) -> None:
    """Train and measure all networks of the chosen parts and write ``report.md`` with every part that is finished."""
    chosen, wanted = settings(config), parts(config, settings(config))
    workers = _workers(config)
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir, weights(config))
        work = [(setting, row, measured) for setting in chosen for row, measured in plan(setting, wanted)]
        for setting in chosen:
            networks.prepare(setting, tuple(row for other, row, _ in work if other == setting))
        study.progress.expect(sum(bool(row.epochs) + len(measured) for _, row, measured in work))
        compute(networks, work, workers)
        sections = []
        for setting in chosen:
            for part in setting.parts:
                if part in wanted:
                    sections.append(section.PARTS[part](networks, setting))
                    study.write_section(f"{setting.name}_{part}", sections[-1])
        stored: Iterable[Section | None] = (
            study.read_section(f"{setting.name}_{part}") for setting in chosen for part in setting.parts
        )
        finished = [found for found in stored if found is not None]
        study.write_text(
            "report.md", report("Gradient norms and robustness", text.introduction(config.preset), finished)
        )
        study.write_metrics()
    print_sections(sections, study.folder)


def plan(setting: Setting, wanted: tuple[Part, ...]) -> list[tuple[Row, tuple[Measure, ...]]]:
    """Every row of the wanted parts, once, with what is measured of it. Rows of different networks alternate."""
    found: dict[Row, dict[Measure, None]] = {}
    for part, rows in setting.rows:
        for row in rows if part in wanted else ():
            found.setdefault(row, {}).update(dict.fromkeys(_MEASURES[part](row)))
    # Two threads that need the same program at the same time would both compile it.
    kinds: dict[tuple[str, str], list[tuple[Row, tuple[Measure, ...]]]] = {}
    for row, measured in found.items():
        kinds.setdefault((row.model, row.activation), []).append((row, tuple(measured)))
    return [pair for group in zip_longest(*kinds.values()) for pair in group if pair is not None]


def compute(networks: Networks, work: list[tuple[Setting, Row, tuple[Measure, ...]]], workers: int) -> None:
    """Make all cells, several rows at a time. XLA computes small networks on one core; threads use the others."""
    stop = Event()

    def one_row(setting: Setting, row: Row, measured: tuple[Measure, ...]) -> None:
        if row.epochs and not stop.is_set():
            networks.trained(setting, row)
        for measure in measured:
            if not stop.is_set():
                measure(networks, setting, row)

    if workers == 1:
        for item in work:
            one_row(*item)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(one_row, *item) for item in work]):
            future.result()
    finally:
        # After an error or an interrupt, the cells that are being computed are still finished and kept.
        stop.set()
        pool.shutdown(cancel_futures=True)


def _workers(config: Config) -> int:
    """What was asked for, or as many as processors, up to 4; one for accelerators and ``engine="fit"``, which handles signals.

    Programs for several devices, started by several threads, would wait for each other for ever.
    """
    devices = jax.local_device_count()
    if config.workers is not None:
        if config.workers > 1 and devices > 1:
            raise CommandError(f"--workers must be 1 where there are several devices, here {devices}")
        return config.workers
    if config.preset == "paper" or jax.default_backend() != "cpu" or devices > 1:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)
