"""How optimizers look in all figures."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette: distinguishable with colour-blindness and in print.
STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": "#0072B2", "marker": "o"},
    "momentum": {"color": "#56B4E9", "marker": "v"},
    "adam": {"color": "#D55E00", "marker": "s"},
    "rmsprop": {"color": "#009E73", "marker": "^"},
    "sign_sgd": {"color": "#CC79A7", "marker": "D"},
    "adagrad": {"color": "#E69F00", "marker": "P"},
    "adamw": {"color": "#000000", "marker": "X"},
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
