"""Part ``linear``: least squares with one irrelevant frequency (section 4.4, figure 4.7)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.study import LABELS, STYLES, Claim, Section, holds
from jaxrobust import L2, optimizers
from jaxrobust import linear_models as lm
from jaxrobust.reporting import Table, save_figure, subplots

from . import published
from .config import Setting
from .networks import Networks

METHODS = ("sgd", "adam", "rmsprop", "sign_sgd")
_LABELS = {**LABELS, "sgd": "GD"}
SAMPLED_SEEDS = (0, 1, 2)


def _optimizer(name: str) -> optax.GradientTransformation:
    return optimizers.by_name(name)(lm.PUBLISHED_LEARNING_RATE)


def _risks(problem: lm.LeastSquares, weights: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    threat = L2(lm.PUBLISHED_EPS, bounds=None)
    standard = jax.vmap(lambda w: lm.standard_risk(problem, w))(weights)
    adversarial = jax.vmap(lambda w: lm.adversarial_risk(problem, w, threat))(weights)
    return np.asarray(standard), np.asarray(adversarial)


def population(networks: Networks, name: str) -> dict[str, Any]:
    """The cell of one method on the population risk, in float64: trajectory and risks."""

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        with jax.enable_x64(True):
            problem, start = lm.published_problem(jnp.float64), lm.published_initial_weights(jnp.float64)
            trajectory = lm.train(problem, _optimizer(name), start, lm.PUBLISHED_STEPS)
            standard, adversarial = _risks(problem, trajectory.weights)
            arrays = {
                "steps": np.asarray(trajectory.steps),
                "errors": np.abs(np.asarray(trajectory.weights - problem.target)),
                "standard": standard,
                "adversarial": adversarial,
            }
            last = {
                "weights": np.asarray(trajectory.weights[-1]).tolist(),
                "standard_risk": float(standard[-1]),
                "adversarial_risk": float(adversarial[-1]),
            }
        return last, arrays

    return networks.run.cell(f"linear/population/{name}", compute)


def sampled(networks: Networks, name: str) -> dict[str, Any]:
    """The cell of one method on fresh samples at every step, as published."""

    def compute() -> dict[str, Any]:
        problem, start = lm.published_problem(), lm.published_initial_weights()
        optimizer = _optimizer(name)

        def last_weights(key: jax.Array) -> jax.Array:
            steps = lm.PUBLISHED_STEPS
            return lm.train(
                problem, optimizer, start, steps, key=key, samples=lm.PUBLISHED_SAMPLES, record_at=[steps]
            ).weights[-1]

        # A step is so small that three runs at once take hardly longer than one.
        weights = jax.vmap(last_weights)(jnp.stack([jax.random.key(seed) for seed in SAMPLED_SEEDS]))
        risks = [float(risk) for risk in _risks(problem, weights)[1]]
        return {"adversarial_risk": risks}

    return networks.run.cell(f"linear/sampled/{name}", compute)


def run(networks: Networks, settings: list[Setting]) -> Section:
    """Trajectories, risks, the ratio and the closed forms."""
    del settings
    cells = {name: population(networks, name) for name in METHODS}
    samples = {name: sampled(networks, name) for name in METHODS}
    with jax.enable_x64(True):
        problem, start = lm.published_problem(jnp.float64), lm.published_initial_weights(jnp.float64)
        limit = lm.gradient_descent_limit(problem, start)
        limit_risk = float(_risks(problem, limit[None])[1][0])
        steps = lm.PUBLISHED_STEPS
        closed = lm.gradient_descent(problem, start, lm.PUBLISHED_LEARNING_RATE, steps)
        closed_error = float(np.abs(np.asarray(closed) - np.asarray(cells["sgd"]["weights"])).max())
        drift = float(lm.irrelevant_drift(problem, start))
        a, b = (abs(float(value)) for value in lm.ab_coordinates(problem, start))
    moved = cells["sign_sgd"]["weights"][2] - float(start[2])
    ratio = cells["sign_sgd"]["adversarial_risk"] / limit_risk
    low, high = published.RISK_RATIO_RANGE
    order = [limit_risk, *(cells[name]["adversarial_risk"] for name in ("sign_sgd", "adam", "rmsprop"))]
    fitted = max(cells[name]["standard_risk"] for name in METHODS[1:])
    eta = lm.PUBLISHED_LEARNING_RATE
    section = Section(
        "Linear model with an irrelevant frequency",
        text=[
            "Variances (0.01, 0.0025, 0), target (5, 10, 0), learning rate 0.01, "
            f"{lm.PUBLISHED_STEPS:,} steps in spatial coordinates; population gradient in float64, and "
            f"{lm.PUBLISHED_SAMPLES:,} fresh samples per step (seeds {', '.join(map(str, SAMPLED_SEEDS))}). Adversarial risk "
            "for l2 perturbations of length √2. GD needs about 40,000 steps per e-fold of its slowest error and is not "
            "converged at the end; ratios use its limit.",
        ],
        claims=[
            Claim(
                "adversarial risk, signGD over converged GD",
                f"{published.RISK_RATIO:.3f}",
                f"{ratio:.4f}",
                f"{ratio - published.RISK_RATIO:+.4f}",
                holds(1.11 <= ratio <= 1.15),
            ),
            Claim(
                "the ratio lies in the predicted range",
                f"[{low:g}, {high:g}]",
                f"{ratio:.4f}",
                "",
                holds(low <= ratio <= high),
            ),
            Claim(
                "adversarial risk rises from GD over signGD and Adam to RMSProp",
                "GD lowest",
                " < ".join(f"{value:.2f}" for value in order),
                "",
                holds(order == sorted(order) and len(set(order)) == 4),
            ),
            Claim(
                "all adaptive methods fit the data (largest standard risk)",
                "→ 0",
                f"{fitted:.1e}",
                f"{fitted:+.1e}",
                holds(fitted < 1e-4),
            ),
            Claim(
                "GD leaves the irrelevant weight at its start",
                "0.02",
                f"{cells['sgd']['weights'][2]:.12f}",
                f"{cells['sgd']['weights'][2] - 0.02:+.1e}",
                holds(abs(cells["sgd"]["weights"][2] - 0.02) < 1e-10),
            ),
            Claim(
                "GD's end equals its closed form (largest difference)",
                "0",
                f"{closed_error:.1e}",
                f"{closed_error:+.1e}",
                holds(closed_error < 1e-10),
            ),
            Claim(
                "drift of signGD's irrelevant weight equals the closed form to 5 learning rates",
                f"{drift:.4f}",
                f"{moved:.4f}",
                f"{moved - drift:+.4f}",
                holds(abs(moved - drift) <= 5 * eta),
            ),
            Claim(
                "|A(0)|, |B(0)|",
                ", ".join(f"{value:.4f}" for value in published.INITIAL_COORDINATES),
                f"{a:.5f}, {b:.5f}",
                ", ".join(
                    f"{ours - theirs:+.4f}" for ours, theirs in zip((a, b), published.INITIAL_COORDINATES, strict=True)
                ),
                holds(math.dist((a, b), published.INITIAL_COORDINATES) < 2e-4),
            ),
        ],
    )
    rows = []
    for name in METHODS:
        cell, draws = cells[name], samples[name]["adversarial_risk"]
        rows.append(
            [
                _LABELS[name],
                "(" + ", ".join(f"{weight:.4f}" for weight in cell["weights"]) + ")",
                f"{cell['standard_risk']:.3g}",
                f"{cell['adversarial_risk']:.4f}",
                f"{min(draws):.2f} to {max(draws):.2f}",
            ]
        )
    rows.append(
        [
            "GD, limit",
            "(" + ", ".join(f"{w:.4f}" for w in np.asarray(limit)) + ")",
            "0",
            f"{limit_risk:.4f}",
            "",
        ]
    )
    section.tables.append(
        Table(
            "After the last step",
            (
                "method",
                "weights in the frequency domain",
                "standard risk",
                "adversarial risk",
                "the same, sampled",
            ),
            rows,
        )
    )
    _figures(cells, networks.run.folder)
    section.figures += [
        (
            "figures/linear_weights",
            "Errors of the three weights in the frequency domain against the step (figure 4.7a). Shaded: phase 1, in which "
            "signGD moves the irrelevant weight.",
        ),
        ("figures/linear_risks", "Standard and adversarial population risk against the step (figure 4.7b)."),
    ]
    return section


def _figures(cells: dict[str, dict[str, Any]], folder: Any) -> None:
    figure, axes = subplots(1, 3)
    signs = cells["sign_sgd"]["arrays"]
    moving = np.abs(signs["errors"][:, 2] - signs["errors"][-1, 2]) > math.sqrt(6) * lm.PUBLISHED_LEARNING_RATE
    for index, axis in enumerate(axes[0]):
        axis.axvspan(1, signs["steps"][moving][-1] + 1, color="0.92", zorder=0)
        for name, cell in cells.items():
            arrays = cell["arrays"]
            axis.plot(
                arrays["steps"] + 1,
                arrays["errors"][:, index],
                color=STYLES[name]["color"],
                label=_LABELS[name],
            )
        axis.set_xscale("log")
        axis.set_xlabel("step + 1")
        axis.set_title(f"|ẽ{'₀₁₂'[index]}|" + (" (irrelevant)" if index == 2 else ""))
    axes[0][0].set_ylabel("distance of the weight from the target")
    axes[0][2].legend()
    save_figure(figure, folder / "figures/linear_weights")
    figure, axes = subplots(1, 2)
    for axis, risk in zip(axes[0], ("standard", "adversarial"), strict=True):
        for name, cell in cells.items():
            arrays = cell["arrays"]
            axis.plot(arrays["steps"] + 1, arrays[risk], color=STYLES[name]["color"], label=_LABELS[name])
        axis.set_xscale("log")
        axis.set_xlabel("step + 1")
        axis.set_ylabel(f"{risk} risk")
        axis.set_title(f"{risk.capitalize()} population risk")
    axes[0][1].legend()
    save_figure(figure, folder / "figures/linear_risks")
