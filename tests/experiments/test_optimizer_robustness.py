import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.optimizer_robustness import config
from experiments.optimizer_robustness.config import Config
from jaxrobust import models
from jaxrobust.reporting import CommandError

ROOT = Path(__file__).parents[2]
QUICK = ["--datasets", "digits", "--model", "linear", "--epochs", "2", "--seeds", "0", "1", "--learning-rates", "0.1"]


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.optimizer_robustness", *arguments],
        capture_output=True, text=True, env=environment, cwd=ROOT, **options,
    )  # fmt: skip


def test_help_is_quick_and_explains_every_option():
    begin = time.monotonic()
    found = command("--help")
    # Two seconds are promised; a busy machine gets some grace, loading JAX alone would take longer than that.
    assert time.monotonic() - begin < 6
    assert found.returncode == 0
    for name in config.Config.__dataclass_fields__:
        if name != "part":
            assert f"--{name.replace('_', '-')}" in found.stdout
    for name in (*models.names(), *config.OPTIMIZERS):
        assert name in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--datasets", "mnits"], "unknown data set 'mnits'. Did you mean 'mnist'?"),
        (["compare", "--optimizers", "adma"], "unknown optimizer 'adma'; choose from sgd, momentum, adam"),
        (["compare", "--learning-rates", "0"], "learning rates must be finite and above 0, got 0"),
        (["compare", "--datasets", "svhn", "--data-dir", "."], "is not prepared in ."),
        (["frequencies", "--datasets", "digits28"], "takes part in 'frequencies'"),
        (["compare", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (
            ["compare", "--datasets", "digits", "--model", "resnet"],
            "unknown network 'resnet'; choose one of linear, mlp",
        ),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(tmp_path, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["optimizer_robustness", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as found:
        runpy.run_module("experiments.optimizer_robustness", run_name="__main__")
    assert found.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    found = command("compare", *QUICK, "--output", str(tmp_path / "file"))
    assert found.returncode == 2
    assert "cannot write to" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_part_end_to_end_and_again(tmp_path):
    output = tmp_path / "out"
    first = command("compare", *QUICK, "--output", str(output))
    assert first.returncode == 0, first.stderr
    text = (output / "report.md").read_text()
    assert "Robustness against clean accuracy" in text
    for suffix in (".png", ".pdf"):
        assert (output / "figures" / f"compare{suffix}").stat().st_size > 1000
    timings = (output / "timings.jsonl").read_text()
    again = command("compare", *QUICK, "--output", str(output))
    assert again.returncode == 0
    assert (output / "timings.jsonl").read_text() == timings  # nothing was computed again
    assert (output / "report.md").read_text() == text
    other = command("compare", *QUICK[:-1], "0.2", "--output", str(output))
    assert other.returncode == 2
    assert "another configuration" in other.stderr
    cells = [json.loads(line)["cell"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert "train/digits_cnn4/sgd" in cells


class TestSettings:
    def test_small_is_the_spec(self):
        names = [setting.name for setting in config.settings(Config())]
        assert names == [
            "digits_dct16_linear",
            "digits_dct16_mlp",
            "digits28_mlp",
            "digits_mlp",
            "digits_dct16_cnn4",
            "digits_cnn4",
        ]

    def test_paper_has_all_tables(self, tmp_path):
        weights = tmp_path / "vit.npz"
        weights.write_bytes(b"")
        settings = {s.name: s for s in config.settings(Config(preset="paper", vit_weights=weights))}
        assert {s.dataset for s in settings.values()} == {
            "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "caltech101", "imagenette", "speech_commands",
        }  # fmt: skip
        assert sum("batch_norm" in name for name in settings) == 5
        assert settings["imagenette_vit_b16_head"].batch_size == 512
        assert settings["cifar100"].rates["sgd"] == (0.3,)
        assert "momentum" in settings["cifar10"].rates
        assert "momentum" not in settings["mnist"].rates
        assert all(s.epochs == 200 for s in settings.values() if s.model != "vit_b16")

    def test_the_grid_surrounds_the_published_rate(self):
        assert config._around(0.1) == (0.05, 0.1, 0.2)
        assert config._around(5e-4) == (2e-4, 5e-4, 1e-3)

    def test_sgd_is_always_included(self):
        for setting in config.settings(Config(optimizers=("adam",))):
            assert set(setting.rates) == {"sgd", "adam"}

    @pytest.mark.parametrize(
        "options",
        [
            {"optimizers": ("x",)},
            {"learning_rates": (-1.0,)},
            {"seeds": (0, 0)},
            {"seeds": ()},
            {"data_dir": Path("/no")},
            {"vit_weights": Path(__file__)},
        ],
    )
    def test_nonsense_is_refused(self, options):
        with pytest.raises(CommandError):
            config.settings(Config(**options))

    def test_identity_ignores_what_does_not_change_numbers(self):
        first, second = Config(), Config(part="bands", output=Path("x"))
        assert config.identity(first, config.settings(first)) == config.identity(second, config.settings(second))
