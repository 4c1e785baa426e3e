"""The parts of the report: text, tables, claims and figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.study import Section
from jaxrobust.reporting import Table

from . import claims, figures, gradient_claims, gradient_figures, gradient_tables, tables, text, training_claims
from .networks import Networks
from .results import Results, shown
from .rows import Part, Setting

Draw = Callable[[Results, Path], bool]


def robustness(networks: Networks, setting: Setting) -> Section:
    """Tables 4.1 to 4.4, figures 1.1, 4.1 to 4.3."""
    results = Results(networks, setting)
    section = Section(
        f"{setting.name}: robustness and activations",
        text=[text.data(results), *text.constant(results, "robustness"), *text.robustness(results)],
    )
    section.tables = [tables.methods(results)]
    if any(row is not None for row in results.three("robustness")):
        section.tables += [tables.norms(results), tables.curve(results), tables.published_curve()]
    if any(row.method == "gradient_norm" for row in setting.of("robustness")):
        section.tables.append(tables.masking(results, "robustness"))
    section.tables.append(tables.passes())
    if setting.imagenet:
        section.tables.append(tables.sweep())
    section.claims = claims.robustness(results)
    _draw(section, results, "pictures", figures.pictures, figures.PICTURES)
    _draw(section, results, "curve", figures.curve, figures.CURVE)
    _draw(section, results, "epochs", figures.epochs, figures.EPOCHS)
    return section


def training(networks: Networks, setting: Setting) -> Section:
    """Schedules, labels and warm-up."""
    results = Results(networks, setting)
    section = Section(
        f"{setting.name}: what training needs", text=[*text.constant(results, "training"), *text.training(results)]
    )
    section.tables, section.claims = tables.training(results), training_claims.training(results)
    if any(row.method == "gradient_norm" for row in setting.of("training")):
        section.tables.append(tables.masking(results, "training"))
    return section


def geometry(networks: Networks, setting: Setting) -> Section:
    """Tables A.1 and A.2, figures A.1 to A.3."""
    results = Results(networks, setting)
    section = Section(f"{setting.name}: curvature and local linearity", text=text.geometry(results))
    section.tables, section.claims = [gradient_tables.geometry(results)], gradient_claims.geometry(results)
    _draw(section, results, "geometry", gradient_figures.geometry, gradient_figures.GEOMETRY)
    _draw(section, results, "profile", gradient_figures.profile, gradient_figures.PROFILE)
    return section


def edges(networks: Networks, setting: Setting) -> Section:
    """Table 5.1, figure 5.1, and the controls."""
    results = Results(networks, setting)
    section = Section(f"{setting.name}: gradients and edges", text=text.edges(results))
    section.tables, section.claims = [gradient_tables.edges(results)], gradient_claims.edges(results)
    _draw(section, results, "edges", gradient_figures.scatter, gradient_figures.SCATTER)
    _draw(section, results, "controls", figures.controls, figures.CONTROLS)
    return section


def colour(networks: Networks, setting: Setting) -> Section:
    """Figure 4.4."""
    results = Results(networks, setting)
    section = Section(
        f"{setting.name}: gradients by colour channel",
        text=[text.data(results), *text.constant(results, "colour"), text.COLOUR],
    )
    rows = [
        [row.label, *(shown(results.accuracy(row, name)) for name in ("clean", "pgd", "l1"))]
        for row in setting.of("colour")
    ]
    head = ("training", "clean", f"PGD-{setting.pgd_steps}", "test ‖∇L‖₁")
    section.tables = [
        Table(f"{setting.name}: the networks, accuracies in per cent", head, rows),
        gradient_tables.channels(results),
    ]
    _draw(section, results, "channels", gradient_figures.channels, gradient_figures.CHANNELS)
    return section


PARTS: dict[Part, Callable[[Networks, Setting], Section]] = {
    "robustness": robustness,
    "training": training,
    "geometry": geometry,
    "edges": edges,
    "colour": colour,
}


def _draw(section: Section, results: Results, name: str, draw: Draw, caption: str) -> None:
    path = f"figures/{results.setting.name}_{name}"
    if draw(results, results.networks.run.folder / path):
        section.figures.append((path, caption))
