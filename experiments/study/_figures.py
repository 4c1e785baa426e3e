"""How optimizers look in all figures."""

from __future__ import annotations

from typing import Any

from . import palette

STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": palette.BLUE, "marker": "o"},
    "momentum": {"color": palette.SKY, "marker": "v"},
    "adam": {"color": palette.RED, "marker": "s"},
    "rmsprop": {"color": palette.GREEN, "marker": "^"},
    "sign_sgd": {"color": palette.PURPLE, "marker": "D"},
    "adagrad": {"color": palette.ORANGE, "marker": "P"},
    "adamw": {"color": palette.BLACK, "marker": "X"},
}
LABELS = {
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "adam": "Adam",
    "rmsprop": "RMSProp",
    "sign_sgd": "signGD",
    "adagrad": "Adagrad",
    "adamw": "AdamW",
}
