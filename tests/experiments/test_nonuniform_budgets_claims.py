"""The claims that must hold at small scale: the whole study is run once (minutes), then its cells are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.nonuniform_budgets import config

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nonuniform_budgets_study")]
ROOT = Path(__file__).parents[2]
DIGITS, PAIR = config.settings(config.Config())
PLANE = config.plane(config.Config())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished run, made by the command that users type, with XLA as users have it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.nonuniform_budgets", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return folder


def read(study, name):
    return json.loads((study / "cells" / f"{name.replace('/', '--')}.json").read_text())


def means(study, setting, quantity, variant="linf"):
    """Of each row, in order, over seeds."""
    cells = [read(study, f"numbers/{setting.name}/{row.name}") for row in setting.rows]
    return [float(np.mean(cell["values"][variant][quantity])) for cell in cells]


@pytest.mark.parametrize("variant", ["linf", "linf_logits", "l2"])
def test_ratios_grow_from_vanilla_to_robust(study, variant):
    gains = means(study, DIGITS, "gain", variant)
    assert gains[0] > 0
    assert gains == sorted(gains)
    assert means(study, DIGITS, "uniform")[1] > means(study, DIGITS, "uniform")[0]


@pytest.mark.parametrize("quantity", ["mean_cosine", "min_cosine"])
def test_shapes_are_more_alike_for_robust_networks(study, quantity):
    vanilla, *robust = means(study, DIGITS, quantity)
    assert min(robust) > vanilla


def test_likeness_is_not_due_to_the_spread_alone(study):
    for found, shuffled in zip(
        means(study, DIGITS, "mean_cosine"), means(study, DIGITS, "shuffled_cosine"), strict=True
    ):
        assert found > shuffled + 0.1


def test_some_pixels_are_allowed_far_more_than_the_training_radius(study):
    for row, largest in list(zip(DIGITS.rows, means(study, DIGITS, "largest"), strict=True))[1:]:
        assert largest > 2 * row.eps


def test_no_certificate_is_wrong(study):
    for setting in (DIGITS, PAIR):
        for row in setting.rows:
            values = read(study, f"numbers/{setting.name}/{row.name}")["values"]
            assert values.keys() == set(row.variants)
            for found in values.values():
                assert sum(found["fooled"]) == 0
                assert min(found["images"]) >= 0.9 * setting.images


def test_the_common_direction_is_worth_most_of_the_gain(study):
    for row in DIGITS.rows:
        starts = read(study, f"numbers/digits/{row.name}")["starts"]
        direction, brief, whole = (np.mean(starts[name]) for name in ("direction", "direction_brief", "whole"))
        assert direction > 0.5 * whole
        assert brief > np.mean(starts["uniform_brief"])


def test_deciding_pixels_have_small_radii(study):
    vanilla, *robust = means(study, PAIR, "contrast")
    assert min(robust) > max(vanilla, 0)


def test_points_in_the_plane(study):
    ratios, areas = [], []
    for seed in PLANE.seeds:
        cell = read(study, f"certify/plane/{seed}")
        assert cell["accuracy"] > 98
        assert set(cell["left"].values()) == {0}
        with np.load(study / "cells" / f"certify--plane--{seed}.npz") as arrays:
            for kind in ("linf", "l2"):
                kept = arrays[f"{kind}_uniform"] > 0
                ratio = arrays[f"{kind}_nonuniform"][kept] / arrays[f"{kind}_uniform"][kept]
                assert ratio.min() > 1 - 1e-5
                ratios.append(ratio.mean())
                areas.append((ratio**2).max())
    assert np.mean(ratios) > 1.05
    assert np.mean(areas) > 2


def test_the_report_is_whole(study):
    report = (study / "report.md").read_text()
    for text in ("Table 3.2", "Table 3.3", "Figure 3.3", "Figure 3.4", "Figure 3.5", "does the claim hold?"):
        assert text in report
    figures = list((study / "figures").glob("*.png"))
    assert len(figures) == 7
    for figure in figures:
        assert f"figures/{figure.name}" in report
        assert figure.with_suffix(".pdf").exists()
    assert not list((study / "checkpoints").glob("*"))
