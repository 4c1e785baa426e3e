"""Runs the study's settings and writes the report."""

from __future__ import annotations

from experiments.study import Run, print_sections, report

from . import published, section
from .config import Config, generated_file, identity, settings
from .networks import Networks
from .presets import Setting


def run(config: Config) -> None:
    """Train and attack all networks of the chosen settings and write ``report.md``."""
    chosen = settings(config)
    with Run(config.folder, identity(config, chosen)) as study:
        networks = Networks(study, config.data_dir, lambda setting: generated_file(config, setting))
        for setting in chosen:
            networks.prepare(setting)
        study.progress.expect(sum(_cells(setting) for setting in chosen))
        sections = []
        for setting in chosen:
            sections.append(section.run(networks, setting))
            study.write_section(setting.name, sections[-1])
            study.write_text("report.md", report("Focused adversarial training", _introduction(config), sections))
        study.write_metrics()
    print_sections(sections, study.folder)


def _cells(setting: Setting) -> int:
    """How many cells a setting has, or a few less: the best epoch may be the last, or that of another row."""
    trained = {(setup.run, seed) for setup in setting.setups for seed in setup.seeds}
    best = {(str(setup), seed) for setup in setting.setups for seed in setup.seeds if setup.focus is not None}
    return 1 + 2 * len(trained) + len(best) + setting.check_monitor


def _introduction(config: Config) -> list[str]:
    beside = (
        "The published rows beside ours belong to CIFAR-10 and a WRN-28-10 with 20 million generated images; only signs and "
        "rough sizes can be compared."
        if config.preset == "small"
        else "One network was published per row. The binomial standard error of an AutoAttack accuracy of 67.5 % on 10,000 "
        "images is 0.47 points, and setups that were published twice with different seeds differ by 0.08 to 0.25 points."
    )
    misprints = "".join(
        f" In row {row} of table {table}, {value:.2f} is printed for Δ best; the row itself gives "
        f"{published.row(table, row).delta_best:.2f}."
        for (table, row), (_, value) in published.MISPRINTS.items()
        if config.preset == "paper"
    )
    return [
        f"Preset `{config.preset}`. Adversarial training is weakest on the training images that lie closest to another class "
        "(least robust, set s), although a classifier that is robust on all of them exists. The study asks whether a focus "
        f"on them helps. {beside}{misprints}",
        "**How to read a setup.** `-v,c (2s)*` holds out the random set v, uses version c of the learning rate, and focuses on "
        "2s, the least robust images, twice as many as s. PGD-40 attacks the set in parentheses after every epoch; without a mark "
        "nothing else happens to it. `*`: PGD-40 examples of the set, made anew in every epoch, are added to every batch. "
        "`**`: they are the adversarial partners of their images. `+` (ours): clean images of the set are added instead.",
        '**How to read a claim.** "s trained on: PGD-40, -v (s) above -s (s)": the first row trains on s and the second does not, and '
        "the first has the higher accuracy on the set in its parentheses. AutoAttack is always on test images. Differences are "
        "points, paired by seed, with their 95 % interval and the one-sided p-value. Controls are not claims of the study and are not counted.",
        "**Best and last.** Claims compare the last weights. The best weights are those of the epoch with the highest accuracy on "
        "the set in parentheses, which flatters that accuracy; and unless this set is held out, it is training data and "
        "no validation set.",
        "**The alleged glitch.** The study explains gains of rows without a mark by PGD-40 gradients that leak from the "
        "evaluation into training. The public code that it runs does not bear this out: what is switched off and what is "
        "attacked is one object, a copy with averaged weights that no optimizer reads, and gradients are set to zero before "
        "every update. What evaluation and training do share there is the stream of random numbers: PGD-40 draws from it, so "
        "another focus set means other random numbers from then on, as another seed does. That row -v (s) has a higher "
        "accuracy on s than row -s (s) needs no leak either: s is trained on in one and not in the other. And in the published "
        "rows with a star, where PGD-40 examples are trained on for certain, the accuracy on the set rises far more. Here, "
        "random numbers of evaluation and training are separate, and a set without a mark changes nothing.",
        "**Counts.** Between rows 4 and 5 of table 2, 113 more of the 1024 images of s withstand PGD-40, and 20 more of the "
        "10,000 test images withstand AutoAttack (best weights), not 200 as printed: a fifth of the local gain, and not almost twice "
        "as much. The two rows also differ in what is held out: hard images or the random set v. Which random set that is matters, too, "
        "so -s (s) is compared with -v' (v) as well.",
        f"**What this preset cannot show.** {_NOT_SHOWN[config.preset]}",
    ]


_NOT_SHOWN = {
    "small": "Differences of 0.1 to 0.3 points of test robustness, the size of all published gains: a few seeds and some hundred "
    "test images resolve a point or two, so a gain of that size is neither confirmed nor refuted. Which version of the "
    "learning rate is the best. Whether 2s and 4s help more than s. Anything about natural images or large networks.",
    "paper": "With one seed per row, differences between rows: give --seeds for more. Whatever could leak from an evaluation, "
    "since nothing does.",
}
