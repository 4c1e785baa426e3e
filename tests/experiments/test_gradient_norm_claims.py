"""The claims that must hold at small scale: the whole study is run once (minutes), then its cells are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.gradient_norm import presets

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gradient_norm_study")]
ROOT = Path(__file__).parents[2]
SETTING = presets.digits()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished run, made by the command that users type, with XLA as users have it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.gradient_norm", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return folder


def cell(study, measure, row):
    return json.loads((study / "cells" / f"{measure}--digits--{row}.json").read_text())


def arrays(study, measure, row):
    with np.load(study / "cells" / f"{measure}--digits--{row}.npz") as file:
        return dict(file)


def mean(study, row, name="pgd"):
    return float(np.mean(cell(study, "accuracy", row)[name]))


def judged(study, row, radius="1"):
    return float(np.mean(cell(study, "auto_attack", row)["radii"][radius]["robust"]))


def test_8_1_gradient_norm_comes_near_adversarial_training(study):
    for robust in (mean, judged):
        norm, attack = (robust(study, f"{name}_gelu") for name in ("gradient_norm", "adversarial"))
        assert norm >= robust(study, "natural_gelu") + 30
        assert norm >= 0.95 * attack
    assert judged(study, "gradient_norm_gelu", "2") < judged(study, "adversarial_gelu", "2")


def test_8_1_smooth_activations_are_more_robust_and_reach_a_smaller_penalty(study):
    norms = {name: mean(study, f"gradient_norm_{name}") for name in ("gelu", "silu", "relu")}
    assert min(norms["gelu"], norms["silu"]) > norms["relu"] + 2
    sizes = {name: mean(study, f"gradient_norm_{name}", "l1") for name in ("gelu", "silu", "relu")}
    assert max(sizes["gelu"], sizes["silu"]) < sizes["relu"] - 0.3


def test_no_attack_is_beaten_by_a_weaker_one(study):
    for row in SETTING.of("robustness"):
        found = cell(study, "auto_attack", row.name)
        flags = arrays(study, "accuracy", row.name)["robust"][:, : found["images"]]
        for radius in found["radii"].values():
            assert all(robust <= clean for robust, clean in zip(radius["robust"], radius["clean"], strict=True))
        for pgd, robust in zip(100 * flags.mean(1), found["radii"]["1"]["robust"], strict=False):
            assert robust <= pgd + 2.6  # one image of 40


@pytest.mark.parametrize("row", ["natural_gelu", "gradient_norm_gelu", "adversarial_gelu"])
def test_accuracy_falls_to_nothing_with_the_radius(study, row):
    curve = np.mean(cell(study, "curve", row)["accuracy"], axis=0)
    assert (np.diff(curve) <= 2.5).all()
    assert curve[-1] <= 10


@pytest.mark.parametrize("row", ["natural_gelu", "gradient_norm_gelu", "adversarial_gelu"])
def test_the_gradient_is_larger_where_attacks_succeed(study, row):
    found = arrays(study, "norms", row)
    robust = found["robust"].astype(bool)
    assert found["l1"][robust].mean() < found["l1"][~robust].mean()


def test_8_2_the_penalty_of_smooth_networks_is_smaller_in_every_pair(study):
    for model in ("cnn", "mlp"):
        smooth, sharp = (cell(study, "accuracy", f"schedule_{model}_{name}")["l1"] for name in ("gelu", "relu"))
        assert all(a < b for a, b in zip(smooth, sharp, strict=True))


def test_8_3_labels_must_not_let_the_network_be_sure(study):
    hard, smoothed, mixed = (mean(study, f"labels_gradient_norm_{name}") for name in ("hard", "smoothed", "mixed"))
    assert hard + 2 < smoothed < mixed - 2
    doubts = [np.mean(cell(study, "confidence", f"labels_gradient_norm_{name}")["doubt"]) for name in ("hard", "mixed")]
    assert doubts[0] < 1e-3 < 0.05 < doubts[1]


def test_8_4_warm_up_helps_at_high_rates_and_sgd_does_not_crash(study):
    gains = {
        name: mean(study, f"warmup_{name}_5") - mean(study, f"warmup_{name}_0") for name in ("adamw_gelu", "adamw_relu")
    }
    assert min(gains.values()) > 0
    assert gains["adamw_relu"] > 2
    assert mean(study, "warmup_sgd_gelu_0") > 80


@pytest.mark.parametrize("row", ["gradient_norm_gelu", "adversarial_gelu"])
def test_8_5_robust_networks_are_flatter_and_more_linear(study, row):
    natural, robust = (arrays(study, "geometry", name) for name in ("natural_gelu", row))
    for name in ("l2", "hessian", "curvature", "linearity"):
        before, after = (np.log10(found[name] + 1e-17).mean() for found in (natural, robust))
        assert after < before


@pytest.mark.parametrize("row", ["gradient_norm_gelu", "adversarial_gelu"])
@pytest.mark.parametrize("name", ["saliency", "gradient"])
def test_8_6_gradients_of_robust_networks_look_like_edges(study, row, name):
    natural, robust = (np.nanmean(arrays(study, "edge_agreement", one)[name]) for one in ("natural_gelu", row))
    assert robust > natural + 0.1


def test_8_7_aligned_networks_are_more_robust_whatever_the_map(study):
    nothing = judged(study, "align_nothing")
    assert judged(study, "align_edges") > nothing + 10
    assert mean(study, "align_edges", "clean") > mean(study, "align_nothing", "clean") - 3
    assert mean(study, "align_edges", "l1") > 0.8 * mean(study, "align_nothing", "l1")
    controls = [judged(study, f"align_{name}") for name in ("ones", "noise", "signed_noise", "other_edges", "image")]
    assert min(controls) > nothing + 10
    assert np.mean(controls) > judged(study, "align_edges")
    assert judged(study, "align_magnitude") < nothing + 5


def test_8_7_the_alignment_is_that_of_a_common_mode(study):
    shares = {
        row.name: float(np.nanmean(arrays(study, "edge_agreement", row.name)["common"]))
        for row in SETTING.of("edges")
        if row.name.startswith("align")
    }
    assert max(shares["align_nothing"], shares["align_magnitude"]) < 0.6
    for name in ("edges", "ones", "noise", "signed_noise", "other_edges", "image"):
        assert shares[f"align_{name}"] > 0.85


def test_the_report_says_so(study):
    report = (study / "report.md").read_text()
    assert "other signed maps, the same for all classes, do at least as well as edges" in report
    assert len(list((study / "figures").glob("*.png"))) == 7
