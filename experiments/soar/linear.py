"""Over-parametrised linear regression: where a regulariser equals adversarial training exactly (section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import Claim, Run, Section, holds, palette
from jaxrobust.reporting import Table, save_figure, subplots

from . import closed_forms as cf

MEAN, DEVIATION, EPS, SIGMA = 0.5, 1.2, 0.3, 0.3
SECOND = MEAN**2 + DEVIATION**2
DIMENSIONS = (4, 8, 16, 32, 64, 128, 256, 512)
DRAWS, RIDGE = 2000, 0.7
RATE, STEPS = 0.5, 400


def run(study: Run) -> Section:
    """Simulate the toy and compare it with its closed forms."""
    found = study.cell("linear", compute)
    path = "figures/linear"
    _figure(found, study.folder / path)
    return Section(
        "Linear regression with unused coordinates (section 3.2)",
        text=[
            f"Inputs have one coordinate that varies, X₁ ~ N({MEAN}, {DEVIATION}²), labels are X₁, weights start from N(0, "
            f"{SIGMA}² I). Gradient descent fits the data and leaves the unused weights where they started; an attack of radius "
            f"ε = {EPS} on the unused coordinates then costs ε²‖w‖₁²/2, which grows like the square of the dimension. Ridge "
            "regression removes these weights and biases the used one; minimising the attacked loss, which equals its "
            "second-order expansion because the loss is quadratic, removes them without bias. Float64, NumPy.",
            "The text's gradient has E[X₁] where E[X₁²] belongs, and its second moment of the ridge solution is undefined "
            "(it must be E[X₁²]).",
        ],
        tables=[_table(found), _minimum_norm()],
        claims=_claims(found),
        figures=[
            (
                path,
                "Loss of the limit of gradient descent under attack against the dimension (left): formula, and mean over "
                f"{DRAWS:,} starts; the line has slope 2. Weights after training on the plain, the ridge and the attacked loss "
                "(right), d = 8.",
            )
        ],
    )


def compute() -> dict[str, Any]:
    """Everything that is simulated."""
    rng = np.random.default_rng(0)
    measured = []
    for dimension in DIMENSIONS:
        starts = rng.normal(0, SIGMA, (DRAWS, dimension))
        limits = np.concatenate([np.ones((DRAWS, 1)), starts[:, 1:]], axis=1)
        inputs = rng.normal(MEAN, DEVIATION, DRAWS)
        losses = [cf.attacked_loss(w, x[None], EPS)[0] for w, x in zip(limits, inputs, strict=True)]
        measured.append((float(np.mean(losses)), float(np.std(losses) / np.sqrt(DRAWS))))
    formula = [cf.expected_attacked_loss(dimension, SIGMA, EPS) for dimension in DIMENSIONS]
    start = rng.normal(0, SIGMA, 8)
    plain = cf.gradient_descent(start, SECOND, RATE, STEPS)
    limit = np.concatenate([[1.0], start[1:]])
    ridge = start.copy()
    for _ in range(STEPS * 10):
        ridge = ridge - RATE * 0.5 * (cf.population_gradient(ridge, SECOND) + RIDGE * ridge)
    robust = cf.minimize_robust_loss(start, MEAN, SECOND, EPS)
    inputs = rng.normal(MEAN, DEVIATION, 1000)
    moments = float(inputs.mean()), float(np.square(inputs).mean())
    weights = rng.normal(size=8)
    return {
        "measured": measured,
        "formula": formula,
        "slope": float(np.polyfit(np.log(DIMENSIONS[3:]), np.log([loss for loss, _ in measured[3:]]), 1)[0]),
        "start": start.tolist(),
        "weights": {"plain": plain.tolist(), "ridge": ridge.tolist(), "attacked": robust.tolist()},
        "plain_error": float(np.abs(plain - limit).max()),
        "identity_error": abs(
            float(cf.attacked_loss(weights, inputs, EPS).mean()) - cf.robust_loss(weights, *moments, EPS)
        ),
    }


def _loss(weights: list[float]) -> float:
    return SECOND * (weights[0] - 1) ** 2 / 2


def _table(found: dict[str, Any]) -> Table:
    rows = []
    for name, text in (("plain", "plain loss"), ("ridge", f"ridge, λ = {RIDGE}"), ("attacked", "attacked loss (3.2)")):
        weights = found["weights"][name]
        rows.append(
            [
                text,
                f"{weights[0]:.5f}",
                f"{np.abs(weights[1:]).sum():.5f}",
                f"{_loss(weights):.3g}",
                f"{cf.robust_loss(np.asarray(weights), MEAN, SECOND, EPS):.3g}",
            ]
        )
    return Table(
        "d = 8, after training", ("minimised", "w₁ (true: 1)", "‖w₂...w_d‖₁", "loss", "loss under attack"), rows
    )


def _minimum_norm() -> Table:
    """Eq. (2.8): extra data may help and may hurt, by the covariance of the inputs."""
    standard, extra, covariance = np.array([[0.0, 0, 1]]), np.array([[1.0, 1, 0]]), np.diag([1.0, 9, 5])
    rows = []
    for true in (np.array([1.0, -0.5, 3]), np.array([2.0, 1, 3])):
        both = np.concatenate([standard, extra])
        fits = cf.minimum_norm(standard, standard @ true), cf.minimum_norm(both, both @ true)
        losses = [cf.population_loss(fit, true, covariance) for fit in fits]
        shown = ["(" + ", ".join(f"{value:g}" for value in np.round(weights, 12)) + ")" for weights in (true, *fits)]
        gain = cf.augmentation_gain(standard, extra, true, covariance)
        rows.append([*shown, *(f"{loss:g}" for loss in losses), f"{gain:+g}"])
    return Table(
        "Minimum-norm fits (2.8) to the input (0, 0, 1), and to (1, 1, 0) as well; Σ = diag(1, 9, 5)",
        ("true weights", "fit", "fit with extra data", "loss", "with extra data", "gain by closed form"),
        rows,
    )


def _claims(found: dict[str, Any]) -> list[Claim]:
    ratios = [mean / expected for (mean, _), expected in zip(found["measured"], found["formula"], strict=True)]
    errors = [abs(mean - e) / error for (mean, error), e in zip(found["measured"], found["formula"], strict=True)]
    biased, robust = found["weights"]["ridge"][0], np.asarray(found["weights"]["attacked"])
    bias, slope, worst = RIDGE / (SECOND + RIDGE), found["slope"], float(np.abs(robust - np.eye(8)[0]).max())
    return [
        Claim(
            "gradient descent ends at (1, w₂(0), ..., w_d(0)): largest difference",
            "0",
            f"{found['plain_error']:.1e}",
            "",
            holds(found["plain_error"] < 1e-12),
        ),
        Claim(
            "attacked loss of that limit equals its expectation (7.2.4), all dimensions: smallest and largest ratio",
            "1",
            f"{min(ratios):.3f}, {max(ratios):.3f}; at most {max(errors):.1f} standard errors",
            "",
            holds(max(errors) < 4),
        ),
        Claim(
            "it grows like d² (slope in log-log, d from 32)",
            "2",
            f"{slope:.3f}",
            f"{slope - 2:+.3f}",
            holds(abs(slope - 2) < 0.05),
        ),
        Claim(
            "ridge is biased by λ/(μ + λ)",
            f"{bias:.6f}",
            f"{1 - biased:.6f}",
            f"{1 - biased - bias:+.1e}",
            holds(abs(1 - biased - bias) < 1e-9),
        ),
        Claim(
            "the attacked loss is (3.2), the same samples on both sides: difference",
            "0",
            f"{found['identity_error']:.1e}",
            "",
            holds(found["identity_error"] < 1e-12),
        ),
        Claim(
            "minimising the attacked loss gives w*: largest difference",
            "0",
            f"{worst:.1e}",
            "",
            holds(worst < 1e-6),
        ),
    ]


def _figure(found: dict[str, Any], path: Path) -> None:
    figure, axes = subplots(1, 2)
    left, right = axes[0]
    means, errors = np.asarray(found["measured"]).T
    left.plot(DIMENSIONS, found["formula"], color=palette.BLUE, label="formula")
    left.errorbar(
        DIMENSIONS, means, 2 * errors, fmt="o", color=palette.RED, markersize=4, label="simulated, ± 2 standard errors"
    )
    reference = np.asarray(DIMENSIONS[3:], float)
    left.plot(
        reference, found["formula"][-1] * (reference / reference[-1]) ** 2 / 3, "--", color="0.5", label="slope 2"
    )
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xlabel("dimension d")
    left.set_ylabel("expected loss under attack")
    left.legend()
    places = np.arange(1, 9)
    for offset, (name, color, text) in enumerate(
        (("plain", palette.BLUE, "plain"), ("ridge", palette.ORANGE, "ridge"), ("attacked", palette.GREEN, "attacked"))
    ):
        right.bar(places + 0.27 * (offset - 1), found["weights"][name], 0.27, color=color, label=text)
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set_xticks(places)
    right.set_xlabel("coordinate")
    right.set_ylabel("weight")
    right.legend(title="minimised loss")
    save_figure(figure, path)
