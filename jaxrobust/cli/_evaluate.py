"""``jaxrobust evaluate``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from jaxrobust import attacks
from jaxrobust.attacks import Attack, AutoAttack, AutoAttackResult
from jaxrobust.batching import to_float
from jaxrobust.files import write_atomically, write_text
from jaxrobust.reporting import CommandError, Table, interval_of_percentage, print_table
from jaxrobust.threat import ThreatModel

from ._arguments import NORMS, length
from ._config import Evaluate
from ._figures import save_examples
from ._subject import Subject, read_subject, subject_name, with_network_of_run

OTHERS: dict[str, Callable[[ThreatModel], Attack]] = {
    "fgsm": attacks.fgsm,
    "pgd": attacks.pgd,
    "carlini-wagner": attacks.carlini_wagner,
    "deepfool": attacks.deepfool,
}


def evaluate(command: Evaluate) -> None:
    """Run the command.

    Raises:
        CommandError: for a mistake of the user's.
    """
    try:
        command = with_network_of_run(command)
        subject = read_subject(command)
        threat = NORMS[command.norm](length(command.eps, "--eps"), bounds=subject.dataset.bounds)
        folder = command.output if command.output is not None else _default_folder(command)
        judge = _attack(command, threat, folder)
        result = judge(jax.random.key(command.seed), subject.logits_fn, subject.images, subject.labels)
        _write(folder, command, subject, result)
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(str(error)) from error


def _default_folder(command: Evaluate) -> Path:
    seed = f"-seed{command.seed}" if command.seed else ""
    return Path("runs") / "evaluate" / f"{subject_name(command)}-{command.attack}{seed}"


def _attack(command: Evaluate, threat: ThreatModel, folder: Path) -> AutoAttack:
    make = functools.partial(attacks.auto_attack, threat, batch_size=command.batch_size, state=folder / "state")
    if command.attack in ("standard", "plus"):
        return make(command.attack)
    if command.attack in OTHERS:
        return make("custom", attacks=[(command.attack, OTHERS[command.attack](threat))])
    return make("custom", attacks=[cast(attacks.AttackName, command.attack)])


def _write(folder: Path, command: Evaluate, subject: Subject, result: AutoAttackResult) -> None:
    clean = to_float(subject.images)
    arrays = {
        "labels": subject.labels,
        "predictions": result.predictions,
        "robust": result.robust,
        "distances": result.distances,
        "adversarial_images": result.images,
        "forward_passes": result.passes.forward,
        "backward_passes": result.passes.backward,
        **{f"robust_by_{name}": robust for name, robust in result.robust_by.items()},
    }
    write_atomically(folder / "results.npz", lambda temporary: np.savez_compressed(temporary, **dict[str, Any](arrays)))
    figure = folder / "figures" / "adversarial_examples"
    shown = save_examples(figure, clean, subject.labels, result) if subject.images.ndim == 4 else 0
    settings = {name: str(value) for name, value in vars(command).items() if value not in (None, ())}
    write_text(folder / "config.json", json.dumps(settings, indent=1) + "\n")
    table = _table(result)
    lines = [
        f"# {command.model} on {command.dataset} under {command.norm} perturbations of at most {command.eps}\n",
        f"Weights `{command.weights.name}`, the first {len(clean)} test images, attack `{command.attack}`, seed {command.seed}.\n",
        table.markdown(),
        *_warnings(result),
    ]
    if shown:
        lines.append(f"![adversarial examples](figures/{figure.name}.png)\n")
    write_text(folder / "report.md", "\n".join(lines))
    # Times differ from run to run: they stay out of the report, so that a continued evaluation gives the same one.
    write_text(folder / "timings.json", json.dumps(result.seconds, indent=1) + "\n")
    print_table(table)
    print("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items()))
    for line in _warnings(result):
        print(line)
    print(f"report:  {folder / 'report.md'}")
    print(f"results: {folder / 'results.npz'}")
    if shown:
        print(f"figure:  {figure}.png")


def _table(result: AutoAttackResult) -> Table:
    count = len(result.robust)
    rows = [("clean", interval_of_percentage(result.clean_accuracy, count))]
    rows += [(f"after {name}", interval_of_percentage(value, count)) for name, value in result.after.items()]
    rows.append(("robust accuracy", interval_of_percentage(result.robust_accuracy, count)))
    return Table("Accuracy in per cent, with 95 % intervals", ("", "accuracy"), rows)


def _warnings(result: AutoAttackResult) -> list[str]:
    return [f"Warning: {warning}\n" for warning in result.warnings]
