"""``jaxrobust evaluate``."""

from __future__ import annotations

import ast
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np

from jaxrobust import attacks, data, models, training
from jaxrobust.attacks import Attack, AutoAttack, AutoAttackResult
from jaxrobust.batching import to_float
from jaxrobust.files import write_atomically, write_text
from jaxrobust.reporting import CommandError, Table, print_table
from jaxrobust.threat import L1, L2, Linf, ThreatModel

from ._config import Evaluate
from ._figures import save_examples

NORMS: dict[str, Callable[..., ThreatModel]] = {"linf": Linf, "l2": L2, "l1": L1}
OTHERS: dict[str, Callable[[ThreatModel], Attack]] = {
    "fgsm": attacks.fgsm,
    "pgd": attacks.pgd,
    "carlini-wagner": attacks.carlini_wagner,
    "deepfool": attacks.deepfool,
}


@dataclass(frozen=True)
class _Subject:
    """What is evaluated."""

    dataset: data.Dataset
    images: np.ndarray
    labels: np.ndarray
    model: nn.Module
    variables: Any

    @property
    def logits_fn(self) -> Callable[[jax.Array], jax.Array]:
        """Images to logits."""
        logits_fn: Any = functools.partial(self.model.apply, self.variables)
        return logits_fn


def evaluate(command: Evaluate) -> None:
    """Run the command.

    Raises:
        CommandError: for a mistake of the user's.
    """
    try:
        subject = _subject(command)
        threat = NORMS[command.norm](_radius(command.eps), bounds=subject.dataset.bounds)
        folder = command.output if command.output is not None else _default_folder(command)
        judge = _attack(command, threat, folder)
        result = judge(jax.random.key(command.seed), subject.logits_fn, subject.images, subject.labels)
        _write(folder, command, subject, result)
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(str(error)) from error


def _radius(text: str) -> float:
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise CommandError(f"--eps must be a number or a fraction such as 8/255, got {text!r}") from error


def _default_folder(command: Evaluate) -> Path:
    eps = command.eps.replace(" ", "").replace("/", "_")
    count = "" if command.examples is None else f"-{command.examples}"
    seed = f"-seed{command.seed}" if command.seed else ""
    name = f"{command.weights.resolve().stem}-{command.dataset}{count}-{command.norm}-{eps}-{command.attack}{seed}"
    return Path("runs") / "evaluate" / name


def _options(command: Evaluate) -> dict[str, Any]:
    """``NAME=VALUE`` to keyword arguments; a value that is no Python literal is a string."""
    options = {}
    for text in command.options:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise CommandError(f"--options takes NAME=VALUE, such as widths=256,128; got {text!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _subject(command: Evaluate) -> _Subject:
    if not command.weights.exists():
        raise CommandError(f"there are no weights at {command.weights}")
    dataset = data.load(command.dataset, data_dir=command.data_dir)
    if command.examples is not None and not 0 < command.examples <= len(dataset.test_labels):
        raise CommandError(
            f"--examples must lie between 1 and {len(dataset.test_labels)}, the test images of {dataset.name}; "
            f"got {command.examples}"
        )
    options = _options(command)
    try:
        model = models.create(command.model, dataset.num_classes, dataset.image_shape, **options)
    except TypeError as error:
        raise CommandError(f"--options do not fit {command.model}: {error}") from error
    if command.weights.is_dir():
        if command.key_map is not None:
            raise CommandError("--key-map belongs to files of PyTorch weights; a folder of checkpoints needs none")
        variables = training.restore_variables(command.weights)
        models.check_variables(model, variables, dataset.image_shape)
    else:
        key_map = None if command.key_map is None else json.loads(command.key_map.read_text())
        variables = models.load_variables(command.weights, model, dataset.image_shape, key_map=key_map)
    rows = slice(command.examples)
    return _Subject(dataset, dataset.test_images[rows], dataset.test_labels[rows], model, variables)


def _attack(command: Evaluate, threat: ThreatModel, folder: Path) -> AutoAttack:
    make = functools.partial(attacks.auto_attack, threat, batch_size=command.batch_size, state=folder / "state")
    if command.attack in ("standard", "plus"):
        return make(command.attack)
    if command.attack in OTHERS:
        return make("custom", attacks=[(command.attack, OTHERS[command.attack](threat))])
    return make("custom", attacks=[cast(attacks.AttackName, command.attack)])


def _write(folder: Path, command: Evaluate, subject: _Subject, result: AutoAttackResult) -> None:
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


def _interval(percent: float, count: int) -> str:
    """An accuracy with its 95 % interval over the draw of the examples (Wilson, 1927)."""
    share, z = percent / 100, 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return f"{percent:.2f} [{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]"


def _table(result: AutoAttackResult) -> Table:
    count = len(result.robust)
    rows = [("clean", _interval(result.clean_accuracy, count))]
    rows += [(f"after {name}", _interval(value, count)) for name, value in result.after.items()]
    rows.append(("robust accuracy", _interval(result.robust_accuracy, count)))
    return Table("Accuracy in per cent, with 95 % intervals", ("", "accuracy"), rows)


def _warnings(result: AutoAttackResult) -> list[str]:
    return [f"Warning: {warning}\n" for warning in result.warnings]
