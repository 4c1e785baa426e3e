"""The trained network that a command is about, and the images that it is judged on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import flax.linen as nn
import jax
import numpy as np

from jaxrobust import data
from jaxrobust.reporting import CommandError, read_json

from ._arguments import network, network_options, read_variables
from ._config import Trained

Command = TypeVar("Command", bound=Trained)


@dataclass(frozen=True)
class Subject:
    """A trained network and images.

    Attributes:
        dataset: that the images are from.
        images: ``[n, ...]``, uint8 or floating point.
        labels: ``[n]``.
        model: the network.
        variables: its weights.
    """

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


def with_network_of_run(command: Command) -> Command:
    """The command with what it leaves open taken from the training run whose checkpoints it names.

    Raises:
        CommandError: if there are no weights, or if the network is named neither here nor there.
    """
    if not command.weights.exists():
        raise CommandError(f"there are no weights at {command.weights}")
    place = command.weights.absolute()
    runs = [folder for folder in (place, *place.parents[:3]) if (folder / "checkpoints").is_dir()]
    settings = (read_json(runs[0] / "config.json") if runs else None) or {}
    if command.model is None and "model" not in settings:
        raise CommandError("--model is missing: the name of the network whose weights these are, e.g. --model mlp")
    dataset = command.dataset or settings.get("dataset", "digits")
    if command.model is not None:
        return replace(command, dataset=dataset)
    return replace(command, dataset=dataset, model=settings["model"], options=(*settings["options"], *command.options))


def read_subject(command: Trained, split: Literal["test", "train"] = "test") -> Subject:
    """What a command :func:`with_network_of_run` names, of one part of its data set.

    Raises:
        CommandError: for a wrong number of examples, or options or weights that are not the network's.
        ValueError: for an unknown data set or network.
    """
    dataset = data.load(cast(str, command.dataset), data_dir=command.data_dir)
    parts = {
        "test": (dataset.test_images, dataset.test_labels),
        "train": (dataset.train_images, dataset.train_labels),
    }
    images, labels = parts[split]
    if command.examples is not None and not 0 < command.examples <= len(labels):
        raise CommandError(
            f"--examples must lie between 1 and {len(labels)}, the {split} images of {dataset.name}; "
            f"got {command.examples}"
        )
    model = network(cast(str, command.model), network_options(command.options), dataset)
    variables = read_variables(command.weights, model, dataset.image_shape, command.key_map)
    rows = slice(command.examples)
    return Subject(dataset, images[rows], labels[rows], model, variables)


def subject_name(command: Trained) -> str:
    """A name for results about the command's weights, images and threat model."""
    eps = command.eps.replace(" ", "").replace("/", "_")
    count = "" if command.examples is None else f"-{command.examples}"
    weights = command.weights.resolve()
    run = f"{weights.parents[1].name}-" if weights.parent.name == "checkpoints" else ""
    return f"{run}{weights.stem}-{Path(command.dataset or '').stem}{count}-{command.norm}-{eps}"
