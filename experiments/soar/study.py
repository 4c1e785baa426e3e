"""Runs the study's settings and writes the report."""

from __future__ import annotations

from experiments.study import Run, print_sections, report, together, worker_count

from . import linear, measures, published, section
from .config import Config, identity, settings
from .networks import Networks
from .presets import Setting
from .rows import Row


def run(config: Config) -> None:
    """Train and attack all networks of the chosen settings and write ``report.md``."""
    chosen = settings(config)
    workers = worker_count(config.workers, alone=config.preset == "paper")
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir)
        for setting in chosen:
            networks.prepare(setting)
        study.progress.expect(1 + sum(_cells(setting) for setting in chosen))
        together([measures.steps(networks, setting, row) for setting in chosen for row in setting.rows], workers)
        sections = [linear.run(study)]
        study.write_section("linear", sections[0])
        for setting in chosen:
            found = section.run(networks, setting)
            for number, part in enumerate(found):
                study.write_section(f"{setting.name}_{number}", part)
            sections[-1:-1] = found  # the toy comes last
            study.write_text(
                "report.md", report("SOAR: second-order adversarial regularisation", _introduction(config), sections)
            )
        study.write_metrics()
    print_sections(sections, study.folder)


def _cells(setting: Setting) -> int:
    """How many cells a setting has."""

    def measured(row: Row) -> int:
        return 1 + len(row.measures) if row.shown else 0

    objectives = any("samples" in row.measures for row in setting.rows)
    return sum(1 + measured(row) for row in setting.rows) + 5 * len(setting.seeds) + objectives


def _introduction(config: Config) -> list[str]:
    beside = (
        "The published rows beside ours belong to CIFAR-10, ResNet-10 and ε = 8/255; only signs and rough sizes can be compared. "
        "Claims that digits are known not to bear out, such as SOAR above PGD10 under PGD20, are reported as they come out."
        if config.preset == "small"
        else "One network was published per row, without error bars."
    )
    return [
        f"Preset `{config.preset}`. SOAR trains on ℓ(x') + R(x') at the one-step PGD point x' of radius ε/2, where R = (d ε²/4 + 1)/2 "
        "‖Hz‖ estimates how much the loss's second-order expansion about x' can rise in the remaining ε/2: H holds gradient and "
        "Hessian of the loss by the input, z is a random normal vector, and Hz takes one difference of gradients. FOAR is its "
        f"first-order relative ℓ(x') + ε/2 ‖∇ℓ(x')‖₁. {beside}",
        "**What is wrong in the mathematics.** Proposition 3.3.1 and its corollary claim that E‖Hz‖ is an upper bound on what the "
        "second-order expansion can rise. Its proof takes E‖Hz‖ for the Frobenius norm ‖H‖_F, but only the squares agree: E‖Hz‖² = "
        "‖H‖_F², hence E‖Hz‖ ≤ ‖H‖_F, and √(2/π) ‖H‖_F where H has rank one. For ½(⟨w, x⟩ - y)² with ‖w‖ = 1, residual 1 and √d ε = 1 "
        "the expansion reaches 2 and the printed bound is 1.596. R is trained as published, as an estimate; the true bound is "
        "`losses.second_order_bound`, and bounds the expansion, not the loss.",
        "**How to read the tables.** Accuracies in per cent, mean ± standard error over seeds. Below each of our rows stands the "
        "published one, if there is one. An image counts as robust only if it is classified correctly as it is. AutoAttack "
        "(standard version) is the judge: a row that PGD calls robust and AutoAttack does not is not robust. Differences in "
        "claims are paired by seed, with their 95 % interval and the one-sided p-value.",
        "**Misprints**, corrected in the published rows:\n\n" + "\n".join(f"- {text}" for text in published.MISPRINTS),
    ]
