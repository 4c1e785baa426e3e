"""The report of a training run: accuracies and learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrobust import training
from jaxrobust.files import write_text
from jaxrobust.reporting import Table, interval_of_percentage, print_table, save_figure, subplots

from ._train_config import Train

CURVES = {
    "accuracy": "training, clean",
    "robust_accuracy": "training, adversarial",
    "eval/accuracy": "held out, clean",
    "eval/robust_accuracy": "held out, under PGD",
}


@dataclass(frozen=True)
class Row:
    """One network of the run and its accuracies on the test images, in per cent."""

    name: str
    place: Path
    step: int
    accuracies: dict[str, float]


def write_report(command: Train, folder: Path, rows: list[Row], *, test_images: int) -> None:
    """Write ``report.md`` and the figure of learning curves, and show where they are."""
    records = training.read_metrics(folder / "metrics.jsonl")
    table = Table(
        "Accuracy on the test images in per cent, with 95 % intervals",
        ("network", "after step", "clean", "under PGD (20 steps, margin loss)"),
        [
            (
                row.name,
                str(row.step),
                *(
                    interval_of_percentage(row.accuracies[name], test_images)
                    for name in ("accuracy", "robust_accuracy")
                ),
            )
            for row in rows
        ],
    )
    best = rows[-1]
    evaluate = f"jaxrobust evaluate {best.place} --norm {command.norm} --eps {command.eps}"
    lines = [
        f"# {command.model} on {Path(command.dataset).stem}: {command.method}\n",
        _method(command, rows[0].step),
        table.markdown(),
        "![learning curves](figures/learning_curves.png)\n",
        "PGD finds out what a training run does, not how robust a network is. The number to report is AutoAttack's:\n\n"
        f"    {evaluate}\n",
    ]
    _curves(records, folder / "figures" / "learning_curves")
    write_text(folder / "report.md", "\n".join(lines))
    print_table(table)
    print(f"report:      {folder / 'report.md'}")
    print(f"checkpoints: {folder / 'checkpoints'}")
    print(f"evaluate it: {evaluate}")


def _method(command: Train, steps: int) -> str:
    threat = f"{command.norm} perturbations of at most {command.eps}"
    attack = "" if command.method == "standard" else f" against {threat}, {command.attack_steps} attack steps"
    return (
        f"Trained for {steps} steps of {command.batch_size} images{attack}; optimizer `{command.optimizer}`, learning rate "
        f"{command.learning_rate:g} (`{command.schedule}`), averaging `{command.averaging}`, seed {command.seed}. All "
        "settings are in `config.json`.\n"
    )


def _curves(records: list[dict[str, Any]], path: Path) -> None:
    figure, axes = subplots(1, 2)
    loss, accuracy = axes[0]
    points = [(record["step"], record["loss"]) for record in records if "loss" in record]
    loss.plot(*zip(*points, strict=True), color="#0072B2")
    loss.set_xlabel("step")
    loss.set_ylabel("training loss")
    styles = zip(("#56B4E9", "#0072B2", "#E69F00", "#D55E00"), ("-", "-", "--", "--"), strict=True)
    for (name, label), (color, line) in zip(CURVES.items(), styles, strict=True):
        points = [(record["step"], 100 * record[name]) for record in records if name in record]
        if points:
            accuracy.plot(*zip(*points, strict=True), label=label, color=color, linestyle=line)
    accuracy.set_xlabel("step")
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_ylim(0, 101)
    accuracy.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)
