"""The claims that must hold at small scale: the whole study is run once (minutes), then its cells are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("study")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished run, made by the command that users type, with XLA as users have it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.optimizer_robustness", "all", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return folder


def cell(study, name):
    return json.loads((study / "cells" / f"{name.replace('/', '--')}.json").read_text())


def accuracy(study, setting, *optimizers):
    """``{column: [mean of each optimizer]}``."""
    found = [cell(study, f"compare/{setting}/{name}")["accuracy"] for name in optimizers]
    return {column: [float(np.mean(values[column])) for values in found] for column in found[0]}


def noisy_accuracy(study, setting, noise, *optimizers):
    """Clean accuracy minus the drop under a noise of the part ``bands``; mean of each optimizer."""
    changes = [cell(study, f"bands/{setting}/{name}")["change"][noise] for name in optimizers]
    cleans = accuracy(study, setting, *optimizers)["clean"]
    return [clean - float(np.mean(change)) for clean, change in zip(cleans, changes, strict=True)]


def log_products(study, setting, *optimizers):
    return [float(np.mean(cell(study, f"lipschitz/{setting}/{name}")["log_product"]["2"])) for name in optimizers]


def test_s1_linear_study(study):
    risks = {name: cell(study, f"linear/population/{name}") for name in ("sgd", "adam", "rmsprop", "sign_sgd")}
    assert max(risks[name]["standard_risk"] for name in ("adam", "rmsprop", "sign_sgd")) < 1e-4
    gd_limit = 25.0 + 100.0 + 0.02**2  # eps^2 / 2 = 1 times the squared weights: the target, and the irrelevant start
    order = [gd_limit, *(risks[name]["adversarial_risk"] for name in ("sign_sgd", "adam", "rmsprop"))]
    assert order == sorted(order)
    assert 1.11 <= order[1] / gd_limit <= 1.15


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sign_sgd"])
def test_s2_softmax_regression_on_empty_frequencies(study, optimizer):
    sgd = cell(study, "bands/digits_dct16_linear/sgd")["change"]
    assert sgd["empty 0.5"] == sgd["empty 2"] == [0.0] * len(sgd["empty 2"])
    found = cell(study, f"bands/digits_dct16_linear/{optimizer}")
    assert min(found["empty_weight_norm"]) > 0.5
    assert min(found["change"]["empty 2"]) >= 3


class TestS3:
    """The headline: an MLP on digits upsampled in the DCT domain."""

    OPTIMIZERS = ("sgd", "adam", "rmsprop", "sign_sgd")

    def test_clean_accuracies_are_alike(self, study):
        clean = accuracy(study, "digits_dct16_mlp", *self.OPTIMIZERS)["clean"]
        assert max(clean) - min(clean) < 1.5

    @pytest.mark.parametrize(
        ("column", "points"), [("gaussian 0.3", 1), ("l2 1.0", 6), ("linf 0.05", 3), ("linf 0.1", 8)]
    )
    def test_sgd_is_the_most_robust(self, study, column, points):
        sgd, *others = accuracy(study, "digits_dct16_mlp", *self.OPTIMIZERS)[column]
        assert sgd >= max(others) + points

    def test_sgd_is_least_sensitive_to_empty_frequencies(self, study):
        sgd, *others = noisy_accuracy(study, "digits_dct16_mlp", "empty 2", *self.OPTIMIZERS)
        assert sgd >= max(others) + 4

    def test_filled_frequencies_hit_sgd_and_adam_alike(self, study):
        sgd, adam = noisy_accuracy(study, "digits_dct16_mlp", "filled 0.3", "sgd", "adam")
        assert abs(sgd - adam) < 3

    def test_sgd_has_the_smallest_lipschitz_bound(self, study):
        sgd, *others = log_products(study, "digits_dct16_mlp", *self.OPTIMIZERS)
        assert sgd < min(others)


def test_s4_sgd_is_best_in_every_robust_column(study):
    columns = accuracy(study, "digits28_mlp", "sgd", "adam", "rmsprop")
    del columns["clean"]
    assert len(columns) == 6
    for sgd, *others in columns.values():
        assert sgd > max(others)


def test_s5_half_of_the_coefficients_can_go(study):
    mean = {
        name: float(np.mean(cell(study, f"frequencies/digits_mlp/{name}")["accuracy"]))
        for name in ("unfiltered", *(f"{kind}-{p}" for kind in ("energy", "frequency") for p in (50, 70, 80, 90)))
    }
    assert abs(mean["energy-50"] - mean["unfiltered"]) <= 1.5
    assert abs(mean["frequency-50"] - mean["unfiltered"]) <= 1.5
    for percent in (70, 80, 90):
        assert mean[f"energy-{percent}"] >= mean[f"frequency-{percent}"]


def test_s6_cnn_on_empty_frequencies(study):
    drops = [
        float(np.mean(cell(study, f"bands/digits_dct16_cnn4/{name}")["change"]["empty 1"]))
        for name in ("sgd", "adam", "rmsprop")
    ]
    assert drops[0] < min(drops[1:])
    products = log_products(study, "digits_dct16_cnn4", "sgd", "adam", "rmsprop")
    assert products == sorted(products)


def test_s7_the_negative_control_is_reported_but_not_counted(study):
    section = json.loads((study / "sections" / "compare.json").read_text())
    control = [claim for claim in section["claims"] if claim["text"].startswith("digits_cnn4")]
    assert control
    assert not any(claim["counted"] for claim in control)
    assert all(claim["counted"] for claim in section["claims"] if claim not in control)
    # No gap like that of S3: there are hardly any irrelevant frequencies in the raw digits.
    columns = accuracy(study, "digits_cnn4", "sgd", "adam", "rmsprop")
    for column in ("l2 0.5", "linf 0.05"):
        sgd, *others = columns[column]
        assert sgd < max(others) + 3


def test_the_report_shows_every_part(study):
    report = (study / "report.md").read_text()
    for title in ("Robustness against clean", "filtered images", "one frequency band", "irrelevant", "Lipschitz"):
        assert title in report
    for figure in (study / "figures").glob("*.png"):
        assert f"figures/{figure.name}" in report
