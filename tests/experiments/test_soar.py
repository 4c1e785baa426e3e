import dataclasses
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

from experiments.soar import closed_forms as cf
from experiments.soar import (
    comparisons,
    config,
    linear,
    masking,
    measures,
    published,
    recipes,
    samples,
    section,
    tables,
    transfer,
)
from experiments.soar.config import Config
from experiments.soar.networks import Networks
from experiments.soar.outcomes import Outcome
from experiments.soar.published import HALF, PARTS
from experiments.study import Run
from jaxrobust import Linf, attacks, data, training
from jaxrobust.reporting import CommandError

ROOT = Path(__file__).parents[2]
(DIGITS,) = config.settings(Config())
(PAPER,) = config.settings(Config(preset="paper"))


def run_command(*arguments, folder=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "experiments.soar", *arguments],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
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
        found = run_command("--rows", "soar", "--output", str(tmp_path))
        assert found.returncode == 2
        assert "unknown row 'soar'; choose from standard, pgd10" in found.stderr
        assert "Traceback" not in found.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"datasets": ("mnits",)}, "unknown data set 'mnits'; the preset small has digits and mnist"),
            ({"datasets": ("cifar10",)}, "give another --preset"),
            ({"preset": "paper", "datasets": ("digits",)}, "the preset paper has cifar10"),
            ({"rows": ("soar",)}, "unknown row 'soar'; choose from standard, pgd10"),
            ({"rows": ("surrogate_r",)}, "unknown row 'surrogate_r'"),
            ({"rows": ("masked_zero",), "datasets": ("mnist",)}, "unknown row 'masked_zero'"),
            ({"rows": ()}, "--rows was given no value"),
            ({"seeds": (0, 0)}, "seeds must be different"),
            ({"seeds": (-1,)}, "at least 0, got -1"),
            ({"epochs": 0}, "epochs must be at least 1, got 0"),
            ({"workers": 0}, "workers must be at least 1, got 0"),
            ({"workers": 2, "preset": "paper"}, "belongs to --preset small"),
            ({"data_dir": Path("/no")}, "/no does not exist"),
        ],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(CommandError, match=message):
            config.settings(Config(**options))

    def test_rows_bring_what_they_need(self):
        (setting,) = config.settings(Config(rows=("soar_64", "pgd10"), seeds=(5,), epochs=3))
        assert [(row.name, row.shown) for row in setting.rows] == [
            ("standard_64", False), ("surrogate_r", False), ("surrogate_w", False), ("pgd10", True), ("soar_64", True),
        ]  # fmt: skip
        assert setting.seeds == (5,)
        assert {row.epochs for row in setting.rows} == {3}
        (setting,) = config.settings(Config(rows=("soar_zero",)))
        assert not setting.row("standard").shown

    def test_identity_ignores_paths(self):
        first, second = Config(), Config(output=Path("x"), workers=2)
        assert config.identity(first, config.settings(first)) == config.identity(second, config.settings(second))


class TestPresets:
    def test_small_is_the_specification(self):
        assert (DIGITS.eps, DIGITS.step_size, DIGITS.pooled_test) == (0.15, 0.0375, 500)
        assert (DIGITS.batch_size, DIGITS.momentum, DIGITS.weight_decay, DIGITS.seeds) == (64, 0.9, 2e-4, (0, 1, 2))
        assert dict(DIGITS.options) == {"widths": (256, 256)}
        rates = {row.name: (row.start, row.learning_rate, row.epochs) for row in DIGITS.rows}
        assert rates["standard"] == rates["pgd10"] == (None, 0.1, 60)
        for name in (
            "pgd1",
            "foar_zero",
            "foar_rand",
            "foar_pgd1",
            "soar_zero",
            "soar_rand",
            "soar_pgd1",
            "soar_exact",
        ):
            assert rates[name] == ("standard", 0.02, 60)
        for point in ("zero", "rand", "pgd1"):
            assert rates[f"masked_{point}"] == ("standard", 0.05, 200)
            assert DIGITS.row(f"masked_{point}").point == point
        assert DIGITS.row("soar_pgd1").clip == 10
        assert DIGITS.row("soar_no_clip").clip is None

    def test_rows_start_from_earlier_rows_of_the_same_network(self):
        for setting in (*config.settings(Config(datasets=("digits", "mnist"))), PAPER):
            seen = {}
            for row in setting.rows:
                if row.start is not None:
                    begin = seen[row.start]
                    assert (begin.model, begin.options or setting.options) == (
                        row.model,
                        row.options or setting.options,
                    )
                assert row.name not in seen
                assert row.label
                seen[row.name] = row
            assert {"surrogate_r", "surrogate_w"} <= seen.keys()

    def test_paper_is_table_4_1(self):
        assert (PAPER.eps * 255, PAPER.step_size * 255, PAPER.batch_size) == (8, 2, 128)
        assert (PAPER.momentum, PAPER.weight_decay, PAPER.augment, PAPER.model) == (0.9, 2e-4, True, "resnet10")
        assert PAPER.l2_radii == published.L2_RADII
        for name, epochs, rate, drops in (
            ("standard", 200, 0.1, (100, 150)),
            ("pgd10", 200, 0.1, (100, 150)),
            ("trades", 120, 0.1, (75, 90, 100)),
            ("mart", 120, 0.1, (75, 90, 100)),
            ("foar_pgd1", 200, 0.004, (100,)),
            ("soar_pgd1", 200, 0.004, (100,)),
        ):
            row = PAPER.row(name)
            assert (row.epochs, row.learning_rate) == (epochs, rate)
            assert [fraction * epochs for fraction, _ in row.drops] == pytest.approx(drops)
        assert PAPER.row("soar_pgd1").start == "standard"
        mma = PAPER.row("mma")
        assert abs(mma.epochs * 50_000 / 128 - 50_000) < 200
        rates = [0.3 * math.prod(factor for _, factor in mma.drops[: count + 1]) for count in range(3)]
        assert rates == pytest.approx([0.09, 0.03, 0.009])
        names = {row.name for row in PAPER.rows}
        for table in (
            published.WHITE_BOX,
            published.FOAR_INITIALISATION,
            published.CONFIDENCE,
            published.L2,
            published.CAPACITY,
        ):
            assert table.keys() <= names

    @pytest.mark.slow
    def test_every_row_of_every_preset_can_be_trained(self):
        """Shapes alone: networks, objectives and optimizers fit together."""
        for setting in (*config.settings(Config(datasets=("digits", "mnist"))), PAPER):
            shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[setting.dataset]
            dataset = fake_dataset(setting.dataset, shape, 8)
            for row in setting.rows:
                recipe = recipes.recipe(setting, row, dataset)
                optimizer = recipe.optimizer(recipe.learning_rate)
                state = jax.eval_shape(
                    lambda images, recipe=recipe, optimizer=optimizer: training.init_state(
                        recipe.model, jax.random.key(0), images, optimizer
                    ),
                    jnp.zeros((1, *shape)),
                )
                step = training.make_train_step(training.linen_apply(recipe.model), recipe.objective, optimizer)
                batch = {"images": dataset.train_images[:2], "labels": dataset.train_labels[:2]}
                after, metrics = jax.eval_shape(step, state, batch)
                assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)
                assert metrics["loss"].shape == ()


def fake_dataset(name, shape, count):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(count, *shape)).astype(np.float32)
    labels = (np.arange(count) % 10).astype(np.int32)
    return data.Dataset(name, images, labels, images[:8], labels[:8], 10)


class TestPublished:
    def test_row_minima_bound_auto_attack(self):
        found = [published.row_minimum(name) for name in published.AUTO_ATTACK]
        assert found == [38.99, 40.27, 39.22, 34.77, 27.56, 18.25]
        half = [published.row_minimum(name, half=True) for name in published.AUTO_ATTACK]
        assert half == [60.11, 58.25, 58.38, 57.82, 46.91, 52.64]

    def test_relations_that_must_hold(self):
        """Section 7.7 of the specification."""
        for name, row in published.AUTO_ATTACK.items():
            for part in PARTS:
                assert row[part + HALF] > row[part]
            assert row["apgd-ce"] <= published.WHITE_BOX[name]["pgd20"]
            assert max(row.values()) < published.WHITE_BOX[name]["clean"]
        for row in published.WHITE_BOX.values():
            assert row["pgd1000"] <= row["pgd20"] <= row["fgsm"] <= row["clean"]

    def test_square_beats_pgd_on_soar_alone(self):
        beaten = [
            name for name, row in published.AUTO_ATTACK.items() if row["square"] < published.WHITE_BOX[name]["pgd20"]
        ]
        assert beaten == ["soar_pgd1"]

    def test_tables_agree_where_they_share_networks(self):
        """The heads of table 3.8 follow from tables 3.2 and 3.3."""
        foar, soar = published.FOAR_INITIALISATION["foar_pgd1"], published.WHITE_BOX["soar_pgd1"]
        for column in ("clean", "fgsm", "pgd20", "pgd100", "pgd200", "pgd20_50"):
            assert foar[column] == published.WHITE_BOX["foar_pgd1"][column]
        assert foar["pgd20_r"] == published.BLACK_BOX["foar_pgd1"]["pgd20_r"]
        assert "pgd1000" not in foar
        for column, value in published.CAPACITY["soar_pgd1"].items():
            assert value == soar[column]
        initial = published.INITIALISATION["soar_pgd1"]
        assert (initial["clean"], initial["pgd20"]) == (soar["clean"], soar["pgd20"])
        assert initial["pgd20_r"] == published.BLACK_BOX["soar_pgd1"]["pgd20_r"]

    def test_every_row_has_a_label(self):
        for table in (published.CONFIDENCE, *comparisons.TABLES.values(), published.GRADIENT_COUNT):
            assert table.keys() <= published.LABELS.keys()

    def test_the_end_value_of_table_3_6_needs_half_the_radius(self):
        end = published.SAMPLES["end of SOAR"]["1"]
        assert samples.floor(3072, 4 / 255) < end < samples.floor(3072, 8 / 255)
        assert abs(published.L2_RADII[-1] - 8 / 255 * math.sqrt(3072)) < 0.002


@pytest.mark.parametrize(
    ("features", "radius", "expected"),
    [(3072, 8 / 255, 1.605174), (784, 0.15, 7.4363), (64, 0.15, 0.9734), (64, 0.075, 0.5426), (64, 0.05, 0.4628)],
)
def test_floor_of_the_penalty(features, radius, expected):
    assert samples.floor(features, radius) == pytest.approx(expected, abs=6e-5)


class TestLinearRegression:
    """Checks 7.2.1 to 7.2.6 of the specification: d = 8, X_1 ~ N(0.5, 1.2^2), eps = 0.3, random weights."""

    WEIGHTS = np.random.default_rng(3).normal(size=8)
    MEAN, SECOND, EPS = 0.5, 0.25 + 1.44, 0.3

    def test_population_gradient(self):
        def loss(weights):
            return self.SECOND * (weights[0] - 1) ** 2 / 2

        found = cf.population_gradient(self.WEIGHTS, self.SECOND)
        steps = 1e-6 * np.eye(8)
        central = [(loss(self.WEIGHTS + step) - loss(self.WEIGHTS - step)) / 2e-6 for step in steps]
        np.testing.assert_allclose(found, central, atol=1e-8)
        assert abs(found[0] - (self.WEIGHTS[0] - 1) * self.MEAN) > 0.1  # as the text prints it

    def test_gradient_descent_keeps_the_unused_weights(self):
        found = cf.gradient_descent(self.WEIGHTS, self.SECOND, 1.0, 200)
        np.testing.assert_allclose(found, [1, *self.WEIGHTS[1:]], atol=1e-12)
        one = cf.gradient_descent(self.WEIGHTS, self.SECOND, 0.2, 7)
        assert one[0] - 1 == pytest.approx((1 - 0.2 * self.SECOND) ** 7 * (self.WEIGHTS[0] - 1), rel=1e-12)

    def test_attacked_loss_is_the_formula(self):
        inputs = np.random.default_rng(0).normal(0.5, 1.2, 500)
        mean, second = inputs.mean(), np.square(inputs).mean()
        found = cf.attacked_loss(self.WEIGHTS, inputs, self.EPS).mean()
        assert found == pytest.approx(cf.robust_loss(self.WEIGHTS, mean, second, self.EPS), abs=1e-12)

    def test_expectations_over_the_start(self):
        assert cf.expected_squared_l1(50, 0.3) == pytest.approx(144.8747, abs=5e-5)
        assert cf.expected_attacked_loss(50, 0.3, 0.1) == pytest.approx(0.695848, abs=5e-7)
        starts = np.random.default_rng(0).normal(0, 0.3, (20_000, 50))
        squares = np.square(np.abs(starts).sum(1))
        assert abs(squares.mean() - cf.expected_squared_l1(50, 0.3)) < 4 * squares.std() / math.sqrt(len(squares))

    def test_ridge_and_lasso(self):
        assert cf.ridge_minimizer(4, 0.7) == pytest.approx(0.85106, abs=5e-6)
        grid = np.linspace(-1, 2, 300_001)
        for minimizer, penalty in ((cf.ridge_minimizer, grid**2 / 2), (cf.lasso_minimizer, np.abs(grid))):
            for second, weight in ((4.0, 0.7), (0.5, 0.7)):
                best = grid[np.argmin(second / 2 * (grid - 1) ** 2 + weight * penalty)]
                assert minimizer(second, weight) == pytest.approx(best, abs=1e-5)

    def test_the_attacked_loss_has_its_minimum_at_the_truth(self):
        true = np.eye(8)[0]
        assert cf.robust_loss(true, self.MEAN, self.SECOND, self.EPS) == 0
        rng = np.random.default_rng(1)
        for scale in (1e-6, 1e-3, 1.0):  # small steps in every direction go up: 0 is in the subdifferential
            for _ in range(50):
                assert cf.robust_loss(true + scale * rng.normal(size=8), self.MEAN, self.SECOND, self.EPS) > 0
        found = cf.minimize_robust_loss(self.WEIGHTS, self.MEAN, self.SECOND, self.EPS)
        np.testing.assert_allclose(found, true, atol=1e-9)

    def test_a_constant_input_has_many_minima(self):
        weights = np.array([1 - 0.3 * 2.0 / 0.5, 1.5, -0.5])  # c a + eps s = 0
        assert cf.robust_loss(weights, 0.5, 0.25, 0.3) == pytest.approx(0, abs=1e-15)

    def test_the_section_holds(self, tmp_path):
        with Run(tmp_path, {}) as run:
            section = linear.run(run)
        assert {claim.verdict for claim in section.claims} == {"holds"}
        assert (tmp_path / "figures" / "linear.png").stat().st_size > 1000


class TestMinimumNorm:
    """Check 7.6 of the specification."""

    STANDARD, EXTRA = np.array([[0.0, 0, 1]]), np.array([[1.0, 1, 0]])
    COVARIANCE = np.diag([1.0, 9, 5])

    @pytest.mark.parametrize(
        ("true", "augmented", "gain"), [((1, -0.5, 3), (0.25, 0.25, 3), -2.375), ((2, 1, 3), (1.5, 1.5, 3), 10.5)]
    )
    def test_examples(self, true, augmented, gain):
        true, both = np.array(true, float), np.concatenate([self.STANDARD, self.EXTRA])
        fits = cf.minimum_norm(self.STANDARD, self.STANDARD @ true), cf.minimum_norm(both, both @ true)
        np.testing.assert_allclose(fits[0], [0, 0, 3], atol=1e-12)
        np.testing.assert_allclose(fits[1], augmented, atol=1e-12)
        first, second = (cf.population_loss(fit, true, self.COVARIANCE) for fit in fits)
        assert first - second == pytest.approx(gain)
        assert cf.augmentation_gain(self.STANDARD, self.EXTRA, true, self.COVARIANCE) == pytest.approx(gain)

    def test_never_hurts_where_all_directions_count_alike(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            standard, extra, true = rng.normal(size=(2, 6)), rng.normal(size=(2, 6)), rng.normal(size=6)
            assert cf.augmentation_gain(standard, extra, true, np.eye(6)) >= -1e-12
            both = np.concatenate([standard, extra])
            fits = cf.minimum_norm(standard, standard @ true), cf.minimum_norm(both, both @ true)
            losses = [cf.population_loss(fit, true, np.eye(6)) for fit in fits]
            assert losses[0] - losses[1] == pytest.approx(
                cf.augmentation_gain(standard, extra, true, np.eye(6)), abs=1e-10
            )


class TestRecipes:
    def test_rows_that_minimise_the_same_share_one_objective(self):
        dataset = fake_dataset("digits", (8, 8, 1), 100)
        made = {row.name: recipes.recipe(DIGITS, row, dataset) for row in DIGITS.rows}
        assert made["soar_pgd1"].objective is made["soar_64"].objective is made["masked_pgd1"].objective
        assert made["soar_pgd1"].model is made["soar_zero"].model
        assert made["soar_pgd1"].optimizer is made["soar_zero"].optimizer
        assert made["soar_pgd1"].objective is not made["soar_exact"].objective
        assert made["standard"].objective is made["surrogate_w"].objective

    def test_the_learning_rate_drops_where_it_should(self):
        optimizer = recipes._optimizer(((0.4, 0.3), (0.6, 1 / 3), (0.8, 0.3)), 10, 0.0, 0.0)(0.3)
        params = jnp.zeros(())
        state, rates = optimizer.init(params), []
        for _ in range(10):
            update, state = optimizer.update(jnp.ones(()), state, params)
            rates.append(-float(update))
        assert rates == pytest.approx([0.3] * 4 + [0.09] * 2 + [0.03] * 2 + [0.009] * 2, rel=1e-5)

    def test_a_limit_on_the_mean_keeps_the_loss_and_limits_the_penalty(self):
        def apply(variables, images, train, key=None):
            return images.reshape(len(images), -1) @ variables["params"]["w"], {}

        variables = {"params": {"w": 20 * jax.random.normal(jax.random.key(0), (4, 3))}}
        batch = {"images": jnp.full((5, 2, 2, 1), 0.5), "labels": jnp.arange(5) % 3}
        plain = training.soar(Linf(0.5), clip=None, product="exact")

        def evaluated(objective):
            value, aux = jax.jit(lambda: objective(apply, variables, jax.random.key(1), batch))()
            return float(value), aux.metrics

        value, metrics = evaluated(plain)
        assert metrics["penalty"] > 10
        limited, found = evaluated(recipes._mean_clipped(plain, 10.0))
        assert limited == pytest.approx(value - float(metrics["penalty"]) + 10, rel=1e-5)
        assert found["loss"] == limited
        assert evaluated(recipes._mean_clipped(plain, 1e6))[0] == pytest.approx(value, rel=1e-5)


def outcome(row=None, **columns):
    return Outcome(row or DIGITS.row("soar_pgd1"), {n: np.asarray(c, bool) for n, c in columns.items()}, {})


class TestReport:
    def test_columns_are_compared_on_the_images_they_share(self):
        one = outcome(pgd20=[[1, 1, 0, 0], [1, 0, 0, 0]], autoattack=[[1, 0], [0, 0]])
        assert one.column("pgd20") == [50.0, 25.0]
        assert one.gap("pgd20", "autoattack") == [50.0, 50.0]

    def test_a_flag_is_raised_where_blind_attacks_win(self):
        rng = np.random.default_rng(0)
        white = rng.uniform(size=(3, 200)) < 0.8
        assert masking.flags(outcome(pgd20=white, simba=white)) == []
        worse = white & (rng.uniform(size=white.shape) < 0.8)
        found = masking.flags(outcome(pgd20=white, pgd20_r=worse, simba=white))
        assert len(found) == 1
        assert found[0].startswith("PGD20-R leaves ")
        # All PGD together, and the images of the blind attack: what restarts find is no sign of masking.
        assert masking.flags(outcome(pgd20=white, pgd20_50=worse[:, :100], square=worse[:, :100])) == []

    def test_published_rows_stand_below_ours(self):
        row = DIGITS.row("pgd10")
        ours = {"pgd10": outcome(row, simba=np.ones((2, 4)), square=np.zeros((2, 4)))}
        table = tables.beside("c", ("simba", "pgd20_r"), ours, ("pgd10", "mma"), published.BLACK_BOX, also=("square",))
        assert table.headers == ("method", "SimBA", "PGD20-R", "Square")
        assert table.rows == [
            ["PGD10", "100.00 ± 0.00", "", "0.00 ± 0.00"],
            ["PGD10 (published)", "47.27", "77.19", ""],
            ["MMA (published)", "43.53", "78.70", ""],
        ]

    def test_heads(self):
        assert [tables.head(name) for name in ("clean", "pgd1000", "pgd20_r", "pgd20_50", "apgd-t" + HALF)] == [
            "clean", "PGD1000", "PGD20-R", "PGD20-50", "APGD-T, ε/2",
        ]  # fmt: skip

    def test_claims_of_rows(self):
        strong, weak = outcome(pgd20=np.ones((3, 10))), outcome(DIGITS.row("foar_zero"), pgd20=np.zeros((3, 10)))
        (claim,) = comparisons.rows({"soar_pgd1": strong, "foar_zero": weak}, "pgd20", "soar_pgd1", "foar_zero", "3.8")
        assert (claim.text, claim.verdict, claim.published) == ("PGD20: SOAR above FOAR, zero", "holds", "not studied")
        assert comparisons.rows({"soar_pgd1": strong}, "pgd20", "soar_pgd1", "foar_zero", "3.8") == []


@pytest.fixture
def short(monkeypatch):
    """Attacks of a few steps, AutoAttack's among them, made anew."""
    pgd = attacks.pgd
    monkeypatch.setattr(attacks, "pgd", lambda threat, *, steps=20, **rest: pgd(threat, steps=min(steps, 2), **rest))
    monkeypatch.setattr("jaxrobust.attacks._auto_attack._stages.STEPS", 3)
    monkeypatch.setattr("jaxrobust.attacks._auto_attack._stages.QUERIES", 5)
    caches = (measures._attacks, measures._inputs, transfer._attack, recipes._objective)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def tiny(setting, **changes):
    """A setting with little of everything."""
    return replace(setting, tested=8, attacked=4, sampled=6, evaluation_batch=8, attack_batch=4, **changes)


@pytest.mark.slow
def test_the_paper_runs_on_a_few_random_images(short, tmp_path, monkeypatch):
    """Every row of CIFAR-10 with the engine that paper uses, selection included, but with small networks."""
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: fake_dataset(name, (8, 8, 3), 40))
    monkeypatch.setattr("experiments.soar.networks.HELD_OUT", 10)
    (setting,) = config.settings(Config(preset="paper", epochs=2))
    rows = tuple(replace(row, model="small_cnn") for row in setting.rows)
    setting = replace(tiny(setting, model="small_cnn", batch_size=8, rows=rows), attacked=None)
    with Run(tmp_path, {}) as run:
        networks = Networks(run)
        networks.prepare(setting)
        text = "\n".join(one.markdown() for one in section.run(networks, setting))
        chosen = networks.trained(setting, setting.row("pgd10"))
    for number in range(1, 11):
        assert f"Table 3.{number}" in text
    for row in setting.rows:
        if row.shown:
            assert f"| {row.label} |" in text
    assert len(chosen["history"]["eval/held_out"][0]) == 2
    assert not list((tmp_path / "checkpoints").glob("*"))


class _Killed(BaseException):
    """Ends a run without a chance to save anything, as SIGKILL does."""


@pytest.mark.slow
def test_killed_and_continued_equals_undisturbed(short, tmp_path, monkeypatch):
    (setting,) = config.settings(Config(rows=("pgd10", "soar_pgd1", "masked_zero"), seeds=(0, 1), epochs=1))
    setting = tiny(setting, options=(("widths", (8,)),))
    rows = tuple(replace(row, options=None) for row in setting.rows)
    setting = replace(setting, rows=rows)

    def whole(folder):
        with Run(folder, {}) as run:
            return [one.markdown() for one in section.run(Networks(run), setting)]

    expected = whole(tmp_path / "whole")
    cell, done = Run.cell, []

    def killed(self, name, compute):
        if len(done) == 15:
            raise _Killed
        done.append(name)
        return cell(self, name, compute)

    monkeypatch.setattr(Run, "cell", killed)
    with pytest.raises(_Killed):
        whole(tmp_path / "part")
    monkeypatch.setattr(Run, "cell", cell)
    assert whole(tmp_path / "part") == expected
    arrays = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name / "cells").glob("*.json"))}
        for name in ("whole", "part")
    ]
    assert arrays[0] == arrays[1]
