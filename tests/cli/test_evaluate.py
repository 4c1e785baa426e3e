"""``jaxrobust evaluate``: what it writes, that it continues, and what it says to mistakes."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from jaxrobust import data, models, training
from jaxrobust.attacks._auto_attack import _stages
from jaxrobust.cli._config import Evaluate
from jaxrobust.cli._evaluate import evaluate
from jaxrobust.reporting import CommandError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An MLP on digits, as a checkpoint folder and as a file."""
    folder = tmp_path_factory.mktemp("trained")
    digits = data.load("digits")
    model = models.create("mlp", 10, digits.image_shape, widths=(32,))
    optimizer = optax.adam(3e-3)
    state = training.init_state(model, jax.random.key(0), digits.train_images[:64], optimizer)
    step = training.make_train_step(training.linen_apply(model), training.standard(), optimizer)

    def batches(start):
        return data.batches(
            digits.train_images, digits.train_labels, 64, seed=0, epochs=10, start_step=start, drop_last=True
        )

    state = training.fit(state, step, batches, steps=200, directory=folder / "run")
    models.write_weights(folder / "mlp.safetensors", state.variables)
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(_stages, "QUERIES", 20)
    monkeypatch.setattr(_stages, "STEPS", 5)


def command(path, output, **changes):
    options = {"model": "mlp", "eps": "1/20", "options": ("widths=32,",), "examples": 40, "output": output, **changes}
    return Evaluate(path, **options)


def test_writes_report_results_and_figure(trained, tmp_path, capsys):
    evaluate(command(trained / "mlp.safetensors", tmp_path / "out"))
    printed = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    for text in ("clean", "after apgd-ce", "after apgd-t", "after fab-t", "after square", "robust accuracy"):
        assert text in printed
        assert text in report
    with np.load(tmp_path / "out" / "results.npz") as results:
        arrays = dict(results)
    digits = data.load("digits")
    np.testing.assert_array_equal(arrays["labels"], digits.test_labels[:40])
    moved = np.abs(arrays["adversarial_images"] - digits.test_images[:40]).reshape(40, -1).max(1)
    np.testing.assert_allclose(arrays["distances"], moved, atol=1e-6)
    assert moved.max() <= 0.05 * (1 + 1e-6)
    np.testing.assert_array_equal(arrays["robust"], arrays["predictions"] == arrays["labels"])
    assert 0 < arrays["robust"].sum() < 40
    assert (tmp_path / "out" / "figures" / "adversarial_examples.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eps"] == "1/20"


@pytest.mark.slow
def test_checkpoint_folder_gives_the_same_as_the_file(trained, tmp_path):
    for number, path in enumerate((trained / "run", trained / "mlp.safetensors")):
        evaluate(command(path, tmp_path / str(number), attack="fgsm", norm="l2", eps="0.5"))
    first, second = (dict(np.load(tmp_path / str(number) / "results.npz")) for number in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.slow
def test_second_run_only_reports(trained, tmp_path):
    evaluate(command(trained / "mlp.safetensors", tmp_path / "out"))
    before = (tmp_path / "out" / "report.md").read_text()
    begin = time.perf_counter()
    evaluate(command(trained / "mlp.safetensors", tmp_path / "out"))
    assert (tmp_path / "out" / "report.md").read_text() == before
    assert time.perf_counter() - begin < 30
    with pytest.raises(CommandError, match="belongs to another evaluation"):
        evaluate(command(trained / "mlp.safetensors", tmp_path / "out", eps="0.1"))


@pytest.mark.slow
def test_killed_evaluation_continues_and_gives_the_same(trained, tmp_path):
    program = (
        "from jaxrobust.attacks._auto_attack import _stages; _stages.QUERIES, _stages.STEPS = 20, 5; "
        "from jaxrobust.cli import jaxrobust; jaxrobust()"
    )

    def start(output):
        options = [
            "--model",
            "mlp",
            "--options",
            "widths=32,",
            "--eps",
            "1/20",
            "--examples",
            "40",
            "--batch-size",
            "6",
        ]
        line = (sys.executable, "-c", program, "evaluate", trained / "mlp.safetensors", *options, "--output", output)
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def place(output):
        try:
            with np.load(output / "state" / "progress.npz") as progress:
                return progress["place"].tolist()
        except FileNotFoundError:
            return [-1, 0]

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole = start(undisturbed)
    for stage in (0, 5):  # in the middle of APGD on cross-entropy, and of APGD-T's fifth target
        process = start(killed)
        while process.poll() is None and place(killed) <= [stage, 0]:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.communicate()[0] == ""  # nothing was reported
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "report.md").exists()
    continued = start(killed)
    for process in (whole, continued):
        printed, complaint = process.communicate()
        assert process.returncode == 0, complaint
        assert "robust accuracy" in printed
    assert (killed / "report.md").read_text() == (undisturbed / "report.md").read_text()
    with np.load(killed / "results.npz") as ours, np.load(undisturbed / "results.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(ours[name], expected[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": "eight"}, "--eps must be a number or a fraction such as 8/255, got 'eight'"),
        ({"eps": "-1"}, "eps must be finite and at least 0"),
        ({"eps": "1/0"}, "--eps must be a number"),
        ({"model": "resnet"}, "unknown network 'resnet'; choose one of"),
        ({"dataset": "digit"}, "unknown data set 'digit'. Did you mean 'digits'"),
        ({"examples": 0}, "--examples must lie between 1 and 360"),
        ({"options": ("widths",)}, "--options takes NAME=VALUE"),
        ({"options": ("depth=3",)}, "--options do not fit mlp"),
        ({"options": ("widths=16,",)}, "Of another shape"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_mistakes_end_in_a_message(trained, tmp_path, changes, message):
    with pytest.raises(CommandError) as error:
        evaluate(command(trained / "mlp.safetensors", tmp_path / "out", **changes))
    assert message in str(error.value)


def test_missing_weights_and_wrong_files(trained, tmp_path):
    with pytest.raises(CommandError, match="there are no weights at"):
        evaluate(command(tmp_path / "nothing.npz", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="there is no checkpoint in"):
        evaluate(command(tmp_path / "empty", tmp_path / "out"))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(CommandError, match=r"is not an \.npz file"):
        evaluate(command(tmp_path / "text.npz", tmp_path / "out"))
    with pytest.raises(CommandError, match="--key-map belongs to files"):
        evaluate(command(trained / "run", tmp_path / "out", key_map=tmp_path / "map.json"))


def test_command_line(tmp_path):
    begin = time.perf_counter()
    shown = subprocess.run([sys.executable, "-m", "jaxrobust", "evaluate", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--eps" in shown.stdout
    assert time.perf_counter() - begin < 10  # generous: imports that take seconds on an idle machine fail
    missing = [sys.executable, "-m", "jaxrobust", "evaluate", str(tmp_path / "x.npz"), "--model", "mlp", "--eps", "0.1"]
    failed = subprocess.run(missing, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == f"jaxrobust: there are no weights at {tmp_path / 'x.npz'}\n"
