"""Runs the study's settings and writes the report."""

from __future__ import annotations

from itertools import chain, zip_longest

from experiments.study import Run, print_sections, report, together, worker_count

from . import certificates, plane_section, section
from . import plane as points_in_plane
from .config import Config, identity, plane, settings
from .networks import Networks


def run(config: Config) -> None:
    """Train and certify all networks of the chosen settings and write ``report.md``."""
    chosen, points = settings(config), plane(config)
    workers = worker_count(config.workers, alone=config.preset == "paper")
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir)
        for setting in chosen:
            networks.prepare(setting)
        groups = [
            [points_in_plane.steps(study, points, seed) for seed in points.seeds],
            *([certificates.steps(networks, setting, row) for row in setting.rows] for setting in chosen),
        ]
        # Two threads that need the same program at the same time would both compile it: networks of different shapes alternate.
        tasks = [task for task in chain.from_iterable(zip_longest(*groups)) if task is not None]
        study.progress.expect(sum(map(len, tasks)) + sum(len(setting.rows) for setting in chosen))
        together(tasks, workers)
        sections = [plane_section.run(study, points)]
        study.write_section("plane", sections[0])
        for setting in chosen:
            sections.append(section.run(networks, setting))
            study.write_section(setting.name, sections[-1])
            study.write_text("report.md", report("Certified radii for each pixel", _introduction(config), sections))
        study.write_metrics()
    print_sections(sections, study.folder)


def _introduction(config: Config) -> list[str]:
    beside = (
        "The published rows beside ours belong to MNIST and networks with three hidden layers of 100 units; only signs and rough sizes "
        "can be compared."
        if config.preset == "small"
        else "One network was published per row, without error bars; the images that were averaged over are not stated."
    )
    return [
        f"Preset `{config.preset}`. A certificate usually has one radius: no perturbation within it changes the class. Here each pixel has a radius of "
        "its own, and the volume of the set is maximised by an augmented Lagrangian (Algorithm 3.3). The size of a set is the geometric "
        "mean of its radii, which for equal radii is the radius. The study finds that non-uniform sets are larger, most of all for adversarially trained "
        f"networks, and that their shapes hardly depend on the image. {beside}",
        "**Conventions.** All radii, those of training too, are for pixels in [-1, 1], as in the study: twice those for pixels in [0, 1]. (The scale of its "
        "training radius 0.1 is not stated; the same is assumed.) Certificates ignore the pixels' range, which the study does not mention: they hold for all "
        "perturbations, and radii may be larger than the range. Margins are bounded as such, which is tighter than the differences of bounds of logits "
        "that the text describes; one table has both. The search starts from the largest uniform radius and keeps the best certified set, so no set is smaller "
        "than the uniform one; the published search may end below it. The uniform radius comes from the same bounds.",
        "**How to read the claims.** Gains are per cent by which the non-uniform radius is larger than the uniform one; cosines are multiplied by 100. "
        'Differences are paired by seed, with their 95 % interval and the one-sided p-value. "Not studied" stands where the study gives no number. Controls are not claims of the study and are not counted. Cosines of '
        "positive vectors are large whatever their shapes: beside them stands what the same radii would have in random order, and only what is above that is due to "
        "a common shape.",
    ]
