"""What the commands make of their arguments."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxrobust import models, training
from jaxrobust.data import Dataset
from jaxrobust.reporting import CommandError
from jaxrobust.threat import L1, L2, Linf, ThreatModel

NORMS: dict[str, Callable[..., ThreatModel]] = {"linf": Linf, "l2": L2, "l1": L1}


def length(text: str, option: str) -> float:
    """A number or a fraction such as 8/255."""
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise CommandError(f"{option} must be a number or a fraction such as 8/255, got {text!r}") from error


def network_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` to keyword arguments; a value that is no Python literal is a string."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise CommandError(f"--options takes NAME=VALUE, such as widths=256,128; got {text!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def network(name: str, options: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The network of that name for the images and classes of a data set."""
    try:
        return models.create(name, dataset.num_classes, dataset.image_shape, **options)
    except TypeError as error:
        raise CommandError(f"--options do not fit {name}: {error}") from error


def read_variables(
    path: Path, model: nn.Module, image_shape: tuple[int, ...], key_map: Path | None = None
) -> dict[str, Any]:
    """A network's variables from a run's folder, one of its checkpoints, or a file of weights."""
    if not path.exists():
        raise CommandError(f"there are no weights at {path}")
    if not path.is_dir():
        names = None if key_map is None else json.loads(key_map.read_text())
        return models.load_variables(path, model, image_shape, key_map=names)
    if key_map is not None:
        raise CommandError("--key-map belongs to files of PyTorch weights; a folder of checkpoints needs none")
    variables = training.restore_variables(path)
    models.check_variables(model, variables, image_shape)
    return variables
