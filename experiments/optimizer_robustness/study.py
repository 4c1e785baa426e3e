"""Runs the parts of the study and writes the report."""

from __future__ import annotations

from collections.abc import Callable

from experiments.study import Run, Section, print_sections, report
from jaxrobust.reporting import CommandError

from . import bands, compare, frequencies, linear, lipschitz
from .config import PARTS, Config, Part, Setting, identity, settings
from .networks import Networks

_PARTS: dict[Part, Callable[[Networks, list[Setting]], Section]] = {
    "compare": compare.run,
    "frequencies": frequencies.run,
    "bands": bands.run,
    "linear": linear.run,
    "lipschitz": lipschitz.run,
}


def run(config: Config) -> None:
    """Run the chosen part, or all of them, and write ``report.md`` with every part that is finished."""
    chosen = settings(config)
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir, config.vit_weights)
        parts: tuple[Part, ...] = PARTS if config.part == "all" else (config.part,)
        members = {part: [setting for setting in chosen if _takes_part(setting, part, config, study)] for part in parts}
        if config.part != "all" and config.part != "linear" and not members[config.part]:
            raise CommandError(f"no data set of this configuration takes part in {config.part!r}")
        for setting in chosen:
            if any(setting in taking_part for taking_part in members.values()):
                networks.prepare(setting)
        study.progress.expect(sum(_cells(part, setting) for part in parts for setting in members[part]))
        sections = []
        for part in parts:
            if members[part] or part == "linear":
                sections.append(_PARTS[part](networks, members[part]))
                study.write_section(part, sections[-1])
        stored = [section for part in PARTS if (section := study.read_section(part)) is not None]
        study.write_text("report.md", report("Optimizer robustness", [_introduction(config)], stored))
        study.write_metrics()
    print_sections(sections, study.folder)


def _takes_part(setting: Setting, part: Part, config: Config, study: Run) -> bool:
    """Whether a part measures a setting. Negative controls are left to ``all``, unless they are asked for or done."""
    if part not in setting.parts:
        return False
    if not setting.control or config.part == "all" or config.datasets is not None:
        return True
    return all(study.is_finished(f"{part}/{setting.name}/{optimizer}") for optimizer in setting.rates)


def _introduction(config: Config) -> str:
    return (
        f"Preset `{config.preset}`. Published numbers are those of the optimizer-robustness study; where the study did not "
        "use a data set, they belong to the closest one it did use (MNIST for the bundled digits), which is named beside them."
    )


def _cells(part: Part, setting: Setting) -> int:
    """How many cells a setting has in a part, those of its training included."""
    if part == "frequencies":
        return 1 + len(frequencies.FILTERS) * len(frequencies.PERCENTS)
    return sum(2 + (len(rates) > 1) for rates in setting.rates.values())
