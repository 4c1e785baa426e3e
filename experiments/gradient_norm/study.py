"""Runs the study's parts and writes the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import zip_longest

from experiments.study import Run, Section, print_sections, report, together, worker_count

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
    workers = worker_count(config.workers, alone=config.preset == "paper")
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir, weights(config))
        work = [(setting, row, measured) for setting in chosen for row, measured in plan(setting, wanted)]
        for setting in chosen:
            networks.prepare(setting, tuple(row for other, row, _ in work if other == setting))
        study.progress.expect(sum(bool(row.epochs) + len(measured) for _, row, measured in work))
        together([steps(networks, *item) for item in work], workers)
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


def steps(networks: Networks, setting: Setting, row: Row, measured: tuple[Measure, ...]) -> list[Callable[[], object]]:
    """A row's cells, in the order in which one needs another."""
    trained = [partial(networks.trained, setting, row)] if row.epochs else []
    return [*trained, *(partial(measure, networks, setting, row) for measure in measured)]
