"""``jaxrobust train``: what it writes, that it continues, and what it says to mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrobust import data, training
from jaxrobust.attacks._auto_attack import _stages
from jaxrobust.cli._config import Evaluate
from jaxrobust.cli._evaluate import evaluate
from jaxrobust.cli._train import train
from jaxrobust.cli._train_config import Train
from jaxrobust.reporting import CommandError

QUICK = {"model": "mlp", "options": ("widths=16,",), "eps": "0.1", "attack_steps": 2, "epochs": 2, "log_every": 5}


def run(output, **changes):
    train(Train(**{**QUICK, "output": output, **changes}))
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("trained") / "run")


def test_writes_report_curves_metrics_and_networks(trained, capsys):
    report = (trained / "report.md").read_text()
    for text in ("mlp on digits: pgd", "| last |", "| best |", "jaxrobust evaluate"):
        assert text in report
    assert (trained / "figures" / "learning_curves.png").stat().st_size > 5000
    records = training.read_metrics(trained / "metrics.jsonl")
    assert {"loss", "accuracy", "robust_accuracy", "gradient_norm"} <= records[0].keys()
    evaluations = [record for record in records if "eval/robust_accuracy" in record]
    assert [record["step"] for record in evaluations] == [10, 20]
    assert evaluations[-1]["eval/accuracy"] >= evaluations[-1]["eval/robust_accuracy"] > 0
    settings = json.loads((trained / "config.json").read_text())
    assert (settings["model"], settings["dataset"], settings["options"]) == ("mlp", "digits", ["widths=16,"])
    # 144 of 1437 images are held out, and partial batches left out.
    assert training.latest_step(trained) == 20


def test_a_finished_run_is_only_reported(trained, capsys):
    before = (trained / "report.md").read_text()
    run(trained)
    assert (trained / "report.md").read_text() == before


def test_the_folder_is_all_that_evaluation_needs(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_stages, "QUERIES", 20)
    monkeypatch.setattr(_stages, "STEPS", 5)
    for place in (trained, trained / "checkpoints" / "best"):
        evaluate(Evaluate(place, "0.1", examples=50, attack="pgd", output=tmp_path / place.name))
        assert "mlp on digits" in (tmp_path / place.name / "report.md").read_text()
    with pytest.raises(CommandError, match="not those of this MLP"):
        evaluate(Evaluate(trained, "0.1", model="mlp", options=("widths=8,",), output=tmp_path / "wrong"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "standard", "averaging": "none", "holdout": 0, "optimizer": "adam", "schedule": "constant"},
        {"method": "soar"},
        {"method": "foar", "norm": "l2"},
        {"method": "gradient_norm", "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "optimizer": "adamw"},
        {"method": "mma", "augment": ("resized_crop", "erase"), "model": "small_cnn", "options": (), "epochs": 1},
        {"method": "mixture", "augment": ("crop", "flip", "rotate"), "schedule": "step"},
        {"method": "trades", "norm": "l2", "eps": "0.5", "label_smoothing": 0.1, "awp": 0.005, "schedule": "cosine"},
        {
            "method": "mart", "model": "small_cnn", "options": ("batch_norm=True",), "averaging": "swa",
            "attack_batch_norm": "batch", "precision": "bfloat16", "accumulate": 2, "epochs": 1, "attack_steps": 1,
        },
    ],
    ids=lambda changes: changes["method"],
)  # fmt: skip
def test_every_choice_trains(tmp_path, changes, capsys):
    run(tmp_path / "run", **changes)
    records = training.read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses
    assert np.isfinite(losses).all()
    variables = training.restore_variables(tmp_path / "run")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert ("best" in (tmp_path / "run" / "report.md").read_text()) == (changes.get("holdout") != 0)


def test_starts_from_given_weights(trained, tmp_path, capsys):
    run(tmp_path / "run", method="gradient_norm", start=trained, epochs=1, learning_rate=1e-9, averaging="none")
    before, after = training.restore_variables(trained), training.restore_variables(tmp_path / "run")
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


@pytest.mark.slow
def test_generated_images_and_folders(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        for name in ("cats", "dogs"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{number}.png")
    shape = data.load(tmp_path / "images").image_shape
    np.savez(
        tmp_path / "generated.npz",
        image=rng.integers(0, 256, (30, *shape), dtype=np.uint8),
        label=rng.integers(0, 2, 30),
    )
    run(
        tmp_path / "run",
        dataset=str(tmp_path / "images"),
        generated=tmp_path / "generated.npz",
        method="standard",
        batch_size=20,
        epochs=1,
        attack_steps=1,
    )
    assert training.latest_step(tmp_path / "run") == 4  # 72 originals, 20 a step, as the published recipe counts


def process(output, *options):
    line = ("--model", "mlp", "--eps", "0.1", "--epochs", "200", "--attack-steps", "2", "--output", str(output))
    program = "from jaxrobust.cli import jaxrobust; jaxrobust()"
    return subprocess.Popen(
        (sys.executable, "-c", program, "train", *line, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_terminated_run_has_its_own_exit_code_and_says_how_to_go_on(tmp_path):
    worker = process(tmp_path / "run")
    while worker.poll() is None and not training.read_metrics(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 75, output
    assert "terminated after step" in output
    assert "Traceback" not in output
    step = training.latest_step(tmp_path / "run")
    assert f"after step {step} of 2000" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": "8/0"}, "--eps must be a number or a fraction"),
        ({"eps": "0"}, "--eps must be above 0"),
        ({"dataset": "digitz"}, "Did you mean 'digits'"),
        ({"dataset": "nowhere/at/all"}, "unknown data set"),
        ({"model": "resnet"}, "unknown network 'resnet'"),
        ({"options": ("depth=3",)}, "--options do not fit mlp"),
        ({"batch_size": 5000}, "exceeds the 1294 training images|exceeds the 1293 training images"),
        ({"batch_size": 33}, "33 cannot be split over 2 devices"),
        ({"accumulate": 3}, "128 cannot be split over 2 devices in 3 parts; choose a multiple of 6"),
        ({"holdout": 1437}, "--holdout must lie between 0 and 1436"),
        ({"holdout": 0, "patience": 2}, "--patience judges by held-out images"),
        ({"beta": 3.0}, "--beta belongs to trades, mart, gradient_norm, not to pgd"),
        ({"method": "trades", "mixup": 0.8}, "soft labels, which trades does not take"),
        ({"start": Path("missing.npz")}, "there are no weights at missing.npz"),
        (
            {"method": "soar", "model": "small_cnn", "options": ("batch_norm=True",)},
            "leaves the running statistics of batch norm as they are",
        ),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"generated": Path("missing.npz")}, "missing.npz"),
        ({"processes": 2}, "need --coordinator"),
        ({"learning_rate": 1e30, "averaging": "none", "schedule": "constant"}, "learning rate that is too high"),
    ],
)
def test_mistakes_get_a_message(tmp_path, changes, message):
    with pytest.raises(CommandError, match=message):
        run(tmp_path / "run", **changes)


def test_another_configuration_does_not_touch_a_run(trained):
    before = sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*") if path.name != ".lock")
    with pytest.raises(CommandError, match=r"holds results of another configuration \(seed: 0 there, 1 now\)"):
        run(trained, seed=1)
    assert sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*") if path.name != ".lock") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CommandError, match="cannot write"):
        run(tmp_path / "run")
