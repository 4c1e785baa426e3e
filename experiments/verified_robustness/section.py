"""The parts of the report: text, tables, claims and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.study import Section

from . import claims, figures, radius_claims, tables, text
from .networks import Networks
from .results import Results
from .rows import Part, Setting


def relu(networks: Networks, settings: Sequence[Setting]) -> list[Section]:
    """Tables 3.6 and 3.7, a section for each setting."""
    found = []
    for setting in settings:
        results = Results(networks, setting)
        section = Section(setting.title, text=[text.setting(results)], claims=claims.relu(results))
        section.tables = [tables.methods(results)]
        if setting.exact_images:
            section.tables.append(tables.exact(results))
        found.append(_with_errors(section, results))
    return found


def smooth(networks: Networks, settings: Sequence[Setting]) -> list[Section]:
    """Table 3.8, a section for each setting."""
    found = []
    for setting in settings:
        results = Results(networks, setting)
        section = Section(setting.title, text=[text.setting(results), text.SMOOTH], claims=claims.smooth(results))
        section.tables = [tables.methods(results)]
        found.append(_with_errors(section, results))
    return found


def _with_errors(section: Section, results: Results) -> Section:
    path = f"figures/{results.setting.name}_errors"
    figures.errors(results, results.networks.run.folder / path)
    section.figures.append((path, figures.ERRORS))
    return section


def search(networks: Networks, settings: Sequence[Setting]) -> list[Section]:
    """Table 3.9."""
    results = [Results(networks, setting) for setting in settings]
    section = Section("Search for the largest radius", text=[text.SEARCH])
    section.tables, section.claims = tables.search(results), radius_claims.search(results)
    return [section]


def pictures(networks: Networks, settings: Sequence[Setting]) -> list[Section]:
    """Figures 3.6, 3.8 and 3.9."""
    results = [Results(networks, setting) for setting in settings]
    section = Section("Certified radii and parameters", text=[text.FIGURES], claims=radius_claims.figures(results))
    section.tables = [tables.parameters(one, rows) for one in results if (rows := radius_claims.compared(one))]
    for name, draw, caption in (
        ("curve", figures.curve, figures.CURVE),
        ("parameters", figures.parameters, figures.PARAMETERS),
        ("radii", figures.radii, figures.RADII),
    ):
        if draw(results, networks.run.folder / "figures" / name):
            section.figures.append((f"figures/{name}", caption))
    return [section]


PARTS: dict[Part, Callable[[Networks, Sequence[Setting]], list[Section]]] = {
    "relu": relu,
    "smooth": smooth,
    "search": search,
    "figures": pictures,
}
