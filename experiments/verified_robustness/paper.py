"""The preset ``paper``: the published runs on MNIST and CIFAR-10. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .presets import NOT_SMOOTH, methods, without
from .published import EPS, SEARCH_TO, TABLE_3_5, TITLES
from .rows import Row, Setting

MMR: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "mnist_fc1_linf": ((0.1, 0.1), (2.0, 1.0), (1e-3, 1e-3)),
    "mnist_cnn_linf": ((0.2, 0.2), (1.0, 0.5), (1e-3, 1e-3)),
    "cifar10_cnn_linf": ((3 / 255, 3 / 255), (1.0, 0.1), (1e-3, 1e-3)),
    "mnist_fc1_l2": ((0.6, 0.45), (1.5, 0.5), (1e-4, 5e-5)),
    "mnist_cnn_l2": ((0.45, 0.45), (3.0, 6.0), (1e-4, 5e-5)),
    "cifar10_cnn_l2": ((0.2, 0.15), (1.5, 0.5), (1e-3, 1e-3)),
}
"""Of MMR and MMR+at: gamma, weight and learning rate, from the public code of its authors; the study took their networks."""
SUBSET = {"mnist": 20, "cifar10": 10}
"""How many images of a batch of the CNN are bounded."""


def paper() -> tuple[Setting, ...]:
    """FC1 and the CNN with ReLU, FC1 with sigmoid and tanh: every block of tables 3.6 to 3.8."""
    return (
        *(_relu(name) for name in TABLE_3_5),
        *(_smooth(name) for name in EPS if "sigmoid" in name or "tanh" in name),
    )


def _relu(name: str) -> Setting:
    dataset, norm = name.partition("_")[0], name.rpartition("_")[2]
    options: dict[str, Any] = {
        "name": name,
        "title": TITLES[name],
        "dataset": dataset,
        "norm": norm,
        "eps": EPS[name],
        "theirs": name,
        "same": True,
        "seeds": (0,),
        "restarts": 5,
        "exact_images": 1000 if norm == "linf" else 0,
        "search_to": SEARCH_TO[name],
        "engine": "fit",
    }
    if "fc1" in name:
        return Setting(rows=_fc1_rows(name), **options)
    ramp = (0.05, 0.65) if dataset == "cifar10" else (0.0, 0.6)
    rows = _cnn_rows(name, SUBSET[dataset])
    return Setting(rows=rows, channels=(16, 32), widths=(100,), final_share=0.1, ramp=ramp, **options)


def _methods(name: str) -> tuple[Row, ...]:
    values, (gamma, weight, rates) = TABLE_3_5[name], MMR[name]
    rows = methods(
        EPS[name],
        values.beta,
        gamma,
        weight,
        beta_at=values.beta_at,
        first_eps=values.first_eps if values.doubled else EPS[name] / 16,
    )
    learning_rate = dict(zip(("mmr", "mmr_at"), rates, strict=True))
    return tuple(
        replace(row, learning_rate=learning_rate[row.name]) if row.name in learning_rate else row for row in rows
    )


def _fc1_rows(name: str) -> tuple[Row, ...]:
    """I-PER composes forward, or it would be L-PER."""
    return tuple(
        replace(row, label=f"{row.label}, forward", bounds="forward") if row.name.startswith("i_per") else row
        for row in _methods(name)
    )


def _cnn_rows(name: str, subset: int) -> tuple[Row, ...]:
    """PER starts from the adversarially trained networks, with the printed radius."""
    first, rows = TABLE_3_5[name].first_eps, []
    for row in _methods(name):
        if row.method in ("per", "per_at"):
            row = replace(row, first_eps=None, eps=first, start="at", subset=subset)
        elif row.method in ("ibp", "crown_ibp"):
            row = replace(row, subset=subset)
        rows.append(row)
    if name == "mnist_cnn_linf":
        kw = next(row for row in rows if row.name == "kw")
        rows.insert(3, replace(kw, name="kw_at", label="KW + PGD", method="kw_at", theirs="kw_at"))
    if TABLE_3_5[name].alpha > 1.6 * EPS[name]:
        printed = TABLE_3_5[name].alpha
        rows += [
            replace(row, name=f"{row.name}_printed", label=f"{row.label}, α = {printed:g}", alpha=printed, theirs=None)
            for row in rows
            if row.method in ("per", "per_at")
        ]
    return tuple(rows)


def _smooth(name: str) -> Setting:
    relu = _relu(f"mnist_fc1_{name.rpartition('_')[2]}")
    return replace(
        relu,
        name=name,
        title=TITLES[name],
        rows=without(relu.rows, *NOT_SMOOTH),
        activation="tanh" if "tanh" in name else "sigmoid",
        theirs=name,
        exact_images=0,
        search_to=None,
    )
