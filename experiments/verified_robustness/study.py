"""Runs the study's parts and writes the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.study import Run, Section, print_sections, report, together, worker_count

from . import measures, radius_claims, section, text
from .config import Config, identity, parts, settings
from .measures import Measure
from .networks import Networks
from .results import Results
from .rows import PARTS, Part, Row, Setting


def run(config: Config) -> None:
    """Train and measure all networks of the chosen parts and write ``report.md`` with every part that is finished."""
    chosen = settings(config)
    wanted = parts(config, chosen)
    workers = worker_count(config.workers, alone=config.preset == "paper")
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir)
        work = [(setting, *item) for setting in chosen for item in plan(networks, setting, wanted, workers)]
        for setting in dict.fromkeys(setting for setting, _, _ in work):
            networks.prepare(setting)
        study.progress.expect(sum(1 + len(measured) for _, _, measured in work))
        together([steps(networks, *item) for item in work], workers)
        sections: list[Section] = []
        for part in wanted:
            found = section.PARTS[part](networks, [setting for setting in chosen if part in setting.parts])
            for number, one in enumerate(found):
                study.write_section(f"{part}_{number}", one)
            sections += found
        study.write_text(
            "report.md", report("Verified robustness", text.introduction(config.preset), _finished(study, chosen))
        )
        study.write_metrics()
    print_sections(sections, study.folder)


def _finished(study: Run, chosen: tuple[Setting, ...]) -> list[Section]:
    """The sections of every part that has been run, in order."""
    found = []
    for part in PARTS:
        for number in range(len(chosen)):
            stored = study.read_section(f"{part}_{number}")
            if stored is not None:
                found.append(stored)
    return found


def plan(
    networks: Networks, setting: Setting, wanted: tuple[Part, ...], workers: int
) -> list[tuple[Row, tuple[Measure, ...]]]:
    """What is measured of each row for the wanted parts; empty where the setting takes no part."""
    taking = [part for part in setting.parts if part in wanted]
    if not taking:
        return []
    results = Results(networks, setting)
    pictured, curve = radius_claims.compared(results), radius_claims.curve_row(results)

    def measured(row: Row) -> tuple[Measure, ...]:
        found: list[Measure] = []
        if "relu" in taking or "smooth" in taking:
            found.append(measures.errors)
            if setting.exact_images:
                found.append(partial(measures.exact, workers=1 if workers > 1 else None))
            if row.name == "l_per_at" and setting.one_hidden_layer and not setting.smooth:
                found.append(measures.agreement)
        drawn = "figures" in taking and setting.search_to is not None and row in pictured
        if "search" in taking or drawn:
            found.append(measures.search)
        if "figures" in taking and row == curve:
            found += [measures.errors, measures.curve]
        return tuple(dict.fromkeys(found))

    rows = setting.rows if {"relu", "smooth", "search"} & set(taking) else (*pictured, *([curve] if curve else []))
    return [(row, measured(row)) for row in dict.fromkeys(rows)]


def steps(networks: Networks, setting: Setting, row: Row, measured: tuple[Measure, ...]) -> list[Callable[[], object]]:
    """A row's cells, in the order in which one needs another."""
    return [
        partial(networks.trained, setting, row),
        *(partial(measure, networks, setting, row) for measure in measured),
    ]
