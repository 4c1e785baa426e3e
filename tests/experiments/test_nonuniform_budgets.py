import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.nonuniform_budgets import (
    certificates,
    claims,
    config,
    networks,
    plane,
    plane_section,
    published,
    section,
    statistics,
    study,
    tables,
)
from experiments.nonuniform_budgets.certificates import Certificates
from experiments.nonuniform_budgets.config import Config
from experiments.nonuniform_budgets.networks import Networks
from experiments.nonuniform_budgets.outcomes import Outcome
from experiments.nonuniform_budgets.presets import Plane, Row, Setting
from experiments.study import Run
from jaxrobust import Linf, certify, data
from jaxrobust.reporting import CommandError

ROOT = Path(__file__).parents[2]
SMALL = {setting.name: setting for setting in config.settings(Config(datasets=("digits", "mnist")))}
PAPER = {setting.name: setting for setting in config.settings(Config(preset="paper"))}


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.nonuniform_budgets", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


class TestCommand:
    @pytest.mark.slow
    def test_help_is_quick_and_explains_every_option(self):
        begin = time.monotonic()
        found = run_command("--help")
        # Two seconds are promised; a busy machine gets some grace, loading JAX alone would take longer than that.
        assert time.monotonic() - begin < 6
        assert found.returncode == 0
        for field in dataclasses.fields(Config):
            assert f"--{field.name.replace('_', '-')}" in found.stdout

    @pytest.mark.slow
    def test_a_mistake_ends_in_one_message(self, tmp_path):
        found = run_command("--datasets", "svhn", "--output", str(tmp_path))
        assert found.returncode == 2
        assert "unknown data set 'svhn'; the preset small has digits, mnist" in found.stderr
        assert "Traceback" not in found.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"datasets": ("cifar10",)}, "give another --preset"),
            ({"preset": "paper", "datasets": ("digits",)}, "the preset paper has mnist, fashion_mnist, svhn"),
            ({"datasets": ()}, "--datasets was given no value"),
            ({"seeds": (0, 0)}, "seeds must be different"),
            ({"seeds": (-1,)}, "at least 0, got -1"),
            ({"epochs": 0}, "epochs must be at least 1, got 0"),
            ({"images": 3}, "images must be at least 4, got 3"),
            ({"steps": 0}, "steps must be at least 1, got 0"),
            ({"workers": 2, "preset": "paper"}, "belongs to --preset small"),
            ({"data_dir": Path("/no")}, "/no does not exist"),
        ],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(CommandError, match=message):
            config.settings(Config(**options))

    def test_more_images_than_there_are(self, tmp_path):
        (setting, _) = config.settings(Config(images=361))
        with Run(tmp_path, {}) as run, pytest.raises(CommandError, match="digits has 360 test images, 361 were"):
            Networks(run).prepare(setting)

    def test_numbers_of_the_command_line(self):
        asked = Config(seeds=(7,), epochs=2, images=8, steps=5)
        for setting in config.settings(asked):
            assert (setting.seeds, setting.epochs, setting.images, setting.steps) == ((7,), 2, 8, 5)
            assert (setting.chunk, setting.brief_steps) == (8, 5)
        assert config.plane(asked) == Plane(seeds=(7,), epochs=2, points=200, steps=5)

    def test_identity_ignores_paths(self):
        first, second = Config(), Config(output=Path("x"), workers=2)
        assert config.identity(first, config.settings(first)) == config.identity(second, config.settings(second))
        assert json.dumps(config.identity(first, config.settings(first)))


class TestPresets:
    def test_small_is_the_specification(self):
        digits = SMALL["digits"]
        assert (digits.widths, digits.epochs, digits.images) == ((50, 50), 60, 60)
        assert (digits.attack_steps, digits.attack_step) == (10, 1 / 4)
        assert [row.eps for row in digits.rows] == [0, 0.1, 0.2, 0.4]
        assert len(digits.seeds) > 1
        assert SMALL["digits_1_7"].classes == SMALL["mnist_1_7"].classes == (1, 7)
        assert SMALL["mnist"].widths == (64, 64, 64)
        assert {setting.name for setting in config.settings(Config())} == {"digits", "digits_1_7"}

    def test_paper_is_section_4_2(self):
        assert PAPER.keys() == {
            "mnist_100", "mnist_300", "mnist_500", "mnist_100_1_7", "fashion_mnist_1024", "svhn_1024",
        }  # fmt: skip
        for setting in PAPER.values():
            assert len(setting.widths) == 3
            assert len(set(setting.widths)) == 1
            assert [row.eps for row in setting.rows[:2]] == [0, published.TRAINING_EPS]
            assert (setting.epochs, setting.batch_size, setting.learning_rate) == (100, 100, 1e-4)
            assert (setting.b2, setting.weight_decay, setting.attack_step) == (0.99, 1e-4, 0.2)
            assert setting.reference == (None if setting.classes else (setting.dataset, setting.widths[0]))
        assert {setting.reference for setting in PAPER.values()} - {None} == published.ROWS.keys()
        assert PAPER["mnist_100_1_7"].classes == (1, 7)
        asked = config.settings(Config(preset="paper", datasets=("svhn",)))
        assert [setting.name for setting in asked] == ["svhn_1024"]

    def test_rows_have_names_of_their_own(self):
        for setting in (*SMALL.values(), *PAPER.values()):
            assert len({row.name for row in setting.rows}) == len(setting.rows)
            assert setting.rows[0].name == "vanilla"
            assert setting.images <= 1000
            assert all("linf" in row.variants for row in setting.rows)


class TestPublished:
    """Sections 6.2 and 6.3 of the specification."""

    ROWS = tuple(row for pair in published.ROWS.values() for row in pair.values())

    def test_ratios_are_those_of_the_averages(self):
        close = [abs(row.nonuniform / row.uniform - row.ratio) for row in self.ROWS]
        # The averages have three digits.
        slack = [row.ratio * 0.5e-4 * (1 / row.uniform + 1 / row.nonuniform) for row in self.ROWS]
        assert all(a < b + 5e-4 for a, b in zip(close, slack, strict=True))
        fashion = published.ROWS["fashion_mnist", 1024]["robust"]
        assert fashion.nonuniform / fashion.uniform == pytest.approx(1.471, abs=5e-4)

    def test_what_the_tables_claim(self):
        assert len(self.ROWS) == 10
        not_on_the_mean = []
        for name, pair in published.ROWS.items():
            vanilla, robust = pair["vanilla"], pair["robust"]
            assert robust.ratio > vanilla.ratio > 1
            assert robust.min_cosine > vanilla.min_cosine
            assert robust.uniform > vanilla.uniform
            if robust.mean_cosine <= vanilla.mean_cosine:
                not_on_the_mean.append(name)
        assert not_on_the_mean == [("fashion_mnist", 1024)]


class TestStatistics:
    RADII = np.random.default_rng(0).uniform(0.1, 2, (5, 4, 3, 1))

    def test_shuffled_cosine_is_the_mean_over_random_orders(self):
        rng = np.random.default_rng(1)
        found = []
        for _ in range(2000):
            flat = np.stack([rng.permutation(image.ravel()) for image in self.RADII])
            flat /= np.linalg.norm(flat, axis=1, keepdims=True)
            found.append((flat @ flat.T)[np.triu_indices(5, 1)].mean())
        error = np.std(found) / math.sqrt(len(found))
        assert abs(statistics.shuffled_cosine(self.RADII) - np.mean(found)) < 4 * error

    def test_random_vectors(self):
        """The published comparison, 3/4, is what shuffling gives for vectors uniform in [0, 1]^784."""
        radii = np.random.default_rng(0).uniform(size=(50, 784))
        assert statistics.shuffled_cosine(radii) == pytest.approx(published.RANDOM_COSINE, abs=0.003)

    def test_neighbours(self):
        rows, columns = np.indices((6, 6))
        board = np.exp((-1.0) ** (rows + columns))[None, ..., None]
        assert statistics.neighbour_correlation(board) == pytest.approx(-1)
        assert statistics.neighbour_correlation(np.exp(1.0 * rows)[None, ..., None]) > 0.7
        noise = np.exp(np.random.default_rng(0).normal(size=(400, 8, 8, 1)))
        # Deviations from a mean of 64 pixels are correlated by -1/63.
        assert statistics.neighbour_correlation(noise) == pytest.approx(-1 / 63, abs=0.01)
        assert statistics.neighbour_correlation(7 * board) == pytest.approx(-1)  # the unit of radii does not matter

    def test_gain_and_spread(self):
        assert statistics.gain(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(50)
        radii = np.array([[[0.1], [10.0]], [[1.0], [1.0]]])[..., None]
        assert statistics.spread(radii) == pytest.approx(0.5)

    def test_strokes(self):
        images = np.zeros((4, 5, 4, 1))
        images[:, :, 1] = 1.0  # both classes
        images[2:, 0, 2:] = 0.8  # the second alone
        common, deciding = statistics.stroke_masks(images, np.array([0, 0, 1, 1]), 0.1)
        assert set(zip(*np.nonzero(deciding), strict=True)) == {(0, 2), (0, 3)}
        assert set(zip(*np.nonzero(common), strict=True)) == {(row, 1) for row in range(5)}
        radii = np.ones((3, 5, 4, 1))
        radii[:, :, 1], radii[:, 0, 2:] = 100.0, 10.0
        assert statistics.contrast(radii, common, deciding) == pytest.approx(1)


class TestPlane:
    def test_labels_are_those_of_the_nearest_centre(self):
        found = plane.points(3)
        assert (found.train.shape, found.test.shape) == ((9000, 2), (1000, 2))
        for points, labels in ((found.train, found.train_labels), (found.test, found.test_labels)):
            distances = np.linalg.norm(points[:, None] - found.centres, axis=-1)
            np.testing.assert_allclose(distances[np.arange(len(points)), labels], distances.min(1))
            assert np.abs(points).max() <= 1
        np.testing.assert_array_equal(plane.nearest(found.centres, found.centres), np.arange(10))
        assert not np.array_equal(found.centres, plane.points(4).centres)

    @pytest.mark.parametrize(("unit", "axis"), [(plane.KINDS["linf"], 1.0), (plane.KINDS["l2"], 2**0.5)])
    def test_sets_that_are_too_large_are_found_out(self, unit, axis):
        """The boundary x + y = 1 from the origin, by squares and by circles."""

        def network(points):
            return jnp.stack([jnp.ones(len(points)), points.sum(-1)], -1)

        origin, labels = jnp.zeros((3, 2)), jnp.zeros(3, jnp.int32)

        def left(scale):
            radii = jnp.full((3, 2), scale * 0.5 * axis)
            return int(plane._left(network, origin, labels, radii, unit(1.0, bounds=None)))

        assert left(0.999) == 0
        assert 0 < left(1.3) < 0.5 * 3 * plane.SAMPLES

    def test_summary(self):
        found = plane.Sets(
            np.zeros((2, 2)),
            np.zeros(2, int),
            radii=np.array([[1.0, 4.0], [3.0, 3.0]]),
            uniform=np.array([1.0, 3.0]),
            nonuniform=np.array([2.0, 3.0]),
        )
        assert plane.summary(found) == {
            "uniform": 2.0, "nonuniform": 2.5, "ratio": 1.25, "mean_ratio": 1.5, "median_area": 2.5, "largest_area": 4.0,
            "smallest_ratio": 1.0, "shortened": 0.0,
        }  # fmt: skip


def fake_dataset(name, shape=(4, 4, 1), classes=10):
    """Noise around a pattern for each class: networks learn it within an epoch or two."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0.2, 0.8, (classes, *shape))
    labels = (np.arange(200) % classes).astype(np.int32)
    images = np.clip(patterns[labels] + rng.normal(0, 0.05, (200, *shape)), 0, 1).astype(np.float32)
    return data.Dataset(name, images, labels, images[:40], labels[:40], classes)


TINY = Setting(
    "tiny",
    "digits",
    (6,),
    (Row(0.0), Row(0.1)),
    (0, 1),
    images=6,
    reference=("mnist", 100),
    epochs=10,
    batch_size=20,
    learning_rate=0.03,
    attack_steps=2,
    steps=20,
    brief_steps=4,
    chunk=4,
)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: fake_dataset(name))


class TestNetworks:
    def test_two_classes(self):
        found = networks._restricted(fake_dataset("digits"), (1, 7))
        whole = fake_dataset("digits")
        assert found.num_classes == 2
        np.testing.assert_array_equal(
            found.train_images[found.train_labels == 1], whole.train_images[whole.train_labels == 7]
        )
        assert set(found.test_labels.tolist()) == {0, 1}
        assert networks._restricted(whole, None) is whole

    def test_rows_share_what_is_equal(self):
        assert networks._objective(0.1, 10, 0.25) is networks._objective(0.1, 10, 0.25)
        assert networks._adam(0.999, 0.0) is networks._adam(0.999, 0.0)


class TestCertificates:
    def test_radii_are_those_of_pixels_in_minus_one_to_one(self):
        """The same network without its first layer, given such pixels, is certified by the same numbers."""
        model = networks.create_model("mlp", 3, (3, 3, 1), (("mean", (0.5,)), ("std", (0.5,)), ("widths", (5,))))
        bare = networks.create_model("mlp", 3, (3, 3, 1), (("widths", (5,)),))
        images = jax.random.uniform(jax.random.key(0), (4, 3, 3, 1))
        variables = model.init(jax.random.key(1), images)
        labels = model.apply(variables, images).argmax(-1)
        limit = certificates.threat("linf", 9)
        found = certify.nonuniform(functools.partial(model.apply, variables), images, labels, limit, steps=20)
        wide = Linf(2.0, bounds=None)
        other = certify.nonuniform(functools.partial(bare.apply, variables), 2 * images - 1, labels, wide, steps=20)
        np.testing.assert_allclose(networks.SCALE * found.radii, other.radii, rtol=1e-3)
        np.testing.assert_allclose(networks.SCALE * found.uniform, other.uniform, rtol=1e-4)

    @pytest.mark.slow
    def test_cells(self, fake, tmp_path):
        setting = replace(TINY, rows=(Row(0.1, ("linf", "l2")),))
        (row,) = setting.rows
        with Run(tmp_path, {}) as run:
            made = Networks(run)
            for step in certificates.steps(made, setting, row):
                step()
            found = certificates.certificates(made, setting, row, "linf")
            right = made.accuracy(setting, row)["arrays"]["clean"]
            names = sorted(path.stem for path in (tmp_path / "cells").glob("certify*.json"))
            assert names == [
                f"certify--tiny--robust_0.1--{variant}--{seed}--{begin}"
                for variant in ("l2", "linf")
                for seed in (0, 1)
                for begin in (0, 4)
            ]
            dataset = made.dataset(setting)
            for index, (one, logits_fn) in enumerate(zip(found, made.logits_fns(setting, row), strict=True)):
                np.testing.assert_array_equal(one.numbers, np.flatnonzero(right[index])[:6])
                assert (one.left_out, one.fooled) == (0, 0)
                images, labels = (
                    jnp.asarray(dataset.test_images[one.numbers]),
                    jnp.asarray(dataset.test_labels[one.numbers]),
                )
                whole = certify.nonuniform(logits_fn, images, labels, certificates.threat("linf", 16), steps=20)
                np.testing.assert_allclose(one.radii, 2 * whole.radii, rtol=2e-2)  # chunks do not matter
                np.testing.assert_allclose(one.nonuniform, 2 * whole.mean_radius, rtol=1e-3)
                tried = certificates.starts(made, setting, row, index)
                np.testing.assert_array_equal(tried.whole, one.nonuniform[3:])
                for values in tried[1:]:
                    assert (values >= tried.uniform * (1 - 1e-5)).all()

    def test_what_has_no_certificate_is_left_out(self):
        def chunk(certified, fooled):
            count = len(certified)
            arrays = {"radii": np.ones((count, 2)), "uniform": np.ones(count), "nonuniform": np.ones(count)}
            arrays |= {"numbers": np.arange(count), "certified": np.array(certified)}
            return {"cell": "certify/x", "fooled": fooled, "arrays": arrays}

        empty = {"cell": "certify/x", "fooled": 0, "arrays": {"numbers": np.arange(0)}}
        found = certificates._joined([chunk([True, True, False], 1), chunk([True, True], 0), empty])
        assert (found.numbers.tolist(), found.left_out, found.fooled) == ([0, 1, 0, 1], 1, 1)
        with pytest.raises(CommandError, match="fewer than 4 images"):
            certificates._joined([chunk([True, False, True, True], 0)])

    def test_a_wrong_certificate_would_be_noticed(self):
        """PGD inside a set that reaches beyond the boundary finds the other class."""
        weight = jnp.asarray([[2.0, 0.0], [1.0, 0.0]])
        images, labels = jnp.full((2, 2), 0.5), jnp.zeros(2, jnp.int32)
        keys = jax.random.split(jax.random.key(0), 2)

        def right(radius):
            logits_fn = jax.tree_util.Partial(lambda weight, x: x @ weight, weight)
            radii = jnp.full((2, 2), radius)
            return certificates._inside(logits_fn, keys, images, labels, radii, kind=Linf).tolist()

        assert right(0.49) == [True, True]  # a margin of 1.5, and at most 3 times the radius less
        assert right(0.51) == [False, False]


def outcome(row, gain, cosine=0.9, smallest=0.5, **values):
    """Of two networks that differ a little."""
    quantities = {
        "images": 10, "left_out": 0, "fooled": 0, "uniform": 0.1, "nonuniform": 0.1 * (1 + gain / 100), "gain": gain,
        "mean_cosine": cosine, "min_cosine": smallest, "shuffled_cosine": 0.7, "spread": 0.2, "neighbours": 0.3,
        "largest": 0.5, **values,
    }  # fmt: skip
    both = {name: [value, value * (1 + 1e-6)] for name, value in quantities.items()}
    both |= {name: [float(quantities[name])] * 2 for name in ("images", "left_out", "fooled")}
    certified = Certificates(np.arange(10), np.full((10, 2, 2, 1), 0.5), np.ones(10), np.ones(10), 0, 0)
    starts = {name: [gain, gain * (1 + 1e-6)] for name in tables.STARTS}
    return Outcome(row, {"clean": [90.0, 91.0], "pgd": [80.0, 81.0]}, {"linf": [certified] * 2}, {"linf": both}, starts)


class TestReport:
    def test_published_rows_stand_below_ours(self):
        ours = {
            "vanilla": outcome(Row(0.0), 20),
            "robust_0.1": outcome(Row(0.1), 50),
            "robust_0.4": outcome(Row(0.4), 60),
        }
        found = tables.radii(TINY, ours).rows
        assert [row[0] for row in found] == [
            "vanilla",
            "vanilla (MNIST, 3 x 100, published)",
            "robust, 0.1",
            "robust, 0.1 (MNIST, 3 x 100, published)",
            "robust, 0.4",
        ]
        assert found[0][3:] == ["20 of 20", "0.1000 ± 0.0000", "0.1200 ± 0.0000", "1.200 ± 0.000"]
        assert found[3][1:] == ["98.10", "", "not stated", "0.0692", "0.1678", "2.425"]
        cosines = tables.cosines(TINY, ours).rows
        assert cosines[1][1:] == ["0.9548", "0.2304", "not studied"]
        assert tables.spreads(ours).rows[1][2:4] == ["5.00 ± 0.00", "100.0 ± 0.0"]
        assert tables.variants(ours) is None

    def test_claims_are_judged_by_the_numbers(self):
        good = {"vanilla": outcome(Row(0.0), 20), "robust_0.1": outcome(Row(0.1), 50, 0.95, 0.8)}
        by_text = {claim.text: claim for claim in claims.volumes(TINY, good) + claims.shapes(TINY, good)}
        gain = by_text["gain of the non-uniform radius (points): robust, 0.1 above vanilla"]
        assert (gain.verdict, gain.published, gain.ours[:6]) == ("holds", "+124.20 (table 3.2)", "+30.00")
        smallest = by_text["smallest cosine: robust, 0.1 above vanilla"]
        assert (smallest.verdict, smallest.published) == ("holds", "+68.51 (table 3.3)")
        assert by_text["vanilla: non-uniform above uniform radius (%)"].published == "+18.30 (table 3.2)"
        bad = {"vanilla": outcome(Row(0.0), 20), "robust_0.1": outcome(Row(0.1), 10, 0.85, 0.4)}
        by_text = {claim.text: claim for claim in claims.volumes(TINY, bad) + claims.shapes(TINY, bad)}
        assert by_text[gain.text].verdict == by_text[smallest.text].verdict == "does not hold"
        assert by_text["mean cosine: robust, 0.1 above vanilla"].verdict == "does not hold"

    def test_one_network_fooled_is_one_certificate_too_many(self):
        assert claims.soundness({"vanilla": outcome(Row(0.0), 20)}).verdict == "holds"
        assert claims.soundness({"vanilla": outcome(Row(0.0), 20, fooled=1)}).verdict == "does not hold"

    def test_maps_of_two_classes(self):
        ours = {
            "vanilla": outcome(Row(0.0), 20, contrast=0.1),
            "robust_0.1": outcome(Row(0.1), 50, contrast=0.5, neighbours=0.2),
        }
        found = {claim.text: claim.verdict for claim in claims.maps(TINY, ours) if claim.counted}
        assert list(found.values()) == ["does not hold", "holds", "holds"]
        assert len(claims.maps(TINY, {"vanilla": outcome(Row(0.0), 20), "robust_0.1": outcome(Row(0.1), 50)})) == 1

    def test_what_robust_networks_allow_single_pixels(self):
        ours = {
            "vanilla": outcome(Row(0.0), 20),
            "robust_0.1": outcome(Row(0.1), 50),
            "robust_0.4": outcome(Row(0.4), 50),
        }
        found = [claim.verdict for claim in claims.spreads(TINY, ours)]
        assert found[:2] == ["holds", "does not hold"]  # 0.5 is 5 and 1.25 training radii


def whole(folder, setting, points):
    """A run's sections as text."""
    with Run(folder, {}) as run:
        made = Networks(run)
        made.prepare(setting)
        return [plane_section.run(run, points).markdown(), section.run(made, setting).markdown()]


POINTS = Plane(seeds=(0, 1), epochs=1, points=8, steps=10)


@pytest.mark.slow
def test_the_paper_runs_on_a_few_random_images(fake, tmp_path):
    """Two settings of the preset, three classes of cells each, but with small networks."""
    for name in ("mnist_100", "mnist_100_1_7"):
        small = replace(TINY, rows=PAPER[name].rows, classes=PAPER[name].classes, reference=PAPER[name].reference)
        text = whole(tmp_path / name, replace(small, seeds=(0,)), POINTS)[1]
        assert "Table 3.2" in text
        assert "Table 3.3" in text
        assert ("common stroke" in text) == (small.classes is not None)
        assert ("MNIST, 3 x 100, published" in text) == (small.classes is None)
        assert "tiny_maps.png" in text
        assert "nan" not in text


class _Killed(BaseException):
    """Ends a run without a chance to save anything, as SIGKILL does."""


@pytest.mark.slow
def test_killed_and_continued_equals_undisturbed(fake, tmp_path, monkeypatch):
    expected = whole(tmp_path / "whole", TINY, POINTS)
    cell, done = Run.cell, []

    def killed(self, name, compute):
        if len(done) == 12:
            raise _Killed
        done.append(name)
        return cell(self, name, compute)

    monkeypatch.setattr(Run, "cell", killed)
    with pytest.raises(_Killed):
        whole(tmp_path / "part", TINY, POINTS)
    monkeypatch.setattr(Run, "cell", cell)
    assert whole(tmp_path / "part", TINY, POINTS) == expected
    contents = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name / "cells").glob("*.json"))}
        for name in ("whole", "part")
    ]
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_command_expects_as_many_cells_as_it_makes(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "settings", lambda config: (TINY,))
    monkeypatch.setattr(study, "plane", lambda config: POINTS)
    expected = []
    monkeypatch.setattr("experiments.study._progress.Progress.expect", lambda self, cells: expected.append(cells))
    study.run(Config(output=tmp_path))
    assert expected == [len(list((tmp_path / "cells").glob("*.json")))]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == expected[0]
    report = (tmp_path / "report.md").read_text()
    for figure in (tmp_path / "figures").glob("*.png"):
        assert f"figures/{figure.name}" in report
        assert figure.with_suffix(".pdf").exists()
    assert "does the claim hold?" in capsys.readouterr().out
