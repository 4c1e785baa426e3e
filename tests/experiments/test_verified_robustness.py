import json
import os
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.verified_robustness import (
    claims,
    config,
    measures,
    paper,
    presets,
    published,
    radius_claims,
    recipes,
    rows,
    section,
    study,
    tables,
    text,
)
from experiments.verified_robustness.config import Config
from experiments.verified_robustness.network import Network
from experiments.verified_robustness.networks import Networks
from experiments.verified_robustness.results import Results
from jaxrobust import L2, Linf, certify, data
from jaxrobust.certify import ExactStatus
from jaxrobust.reporting import CommandError

ROOT = Path(__file__).parents[2]
DIGITS = {setting.name: setting for setting in presets.digits()}
PAPER = {setting.name: setting for setting in paper.paper()}


# --- command line


def test_help_answers_at_once_and_imports_nothing_heavy():
    begin = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "experiments.verified_robustness", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 60  # a loaded machine; an idle one takes below 2 s
    assert "--exact-seconds SECONDS" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"flax", "optax", "orbax", "matplotlib", "sklearn", "jaxrobust.training", "jaxrobust.certify"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar10"}, "the preset small has digits and mnist"),
        ({"preset": "paper", "dataset": "digits"}, "the preset paper has mnist and cifar10"),
        (
            {"settings": ("mnist_fc1_linf",)},
            "unknown setting 'mnist_fc1_linf'; there are linf, deep, l2, sigmoid, tanh",
        ),
        ({"settings": ()}, "--settings was given no value"),
        ({"rows": ("trades",)}, "unknown row 'trades'; there are plain, at, kw"),
        ({"rows": ("kw",), "settings": ("tanh",)}, "unknown row 'kw'"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"tested": 0}, "tested must be at least 1"),
        ({"exact_images": -1}, "exact-images must be at least 0"),
        ({"exact_seconds": 0.0}, "exact-seconds must be above 0"),
        ({"workers": 2, "preset": "paper"}, "belongs to --preset small"),
        ({"data_dir": Path("/no/such/folder")}, "does not exist"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(CommandError, match=message):
        config.settings(Config(**options))


def test_unknown_parts_are_told():
    with pytest.raises(CommandError, match="unknown part 'search'; these settings have smooth"):
        config.parts(Config(parts=("search",)), (DIGITS["tanh"],))
    assert config.parts(Config(), tuple(DIGITS.values())) == rows.PARTS
    assert config.parts(Config(parts=("search", "relu")), tuple(DIGITS.values())) == ("relu", "search")


def test_rows_bring_along_what_they_start_from():
    chosen = config.settings(Config(dataset="mnist", rows=("l_per_at",), epochs=2, examples=500, tested=50))
    assert {setting.name: [row.name for row in setting.rows] for setting in chosen} == {
        "fc1": ["l_per_at"],
        "cnn": ["at", "l_per_at"],
    }
    assert {(setting.epochs, setting.examples, setting.tested) for setting in chosen} == {(2, 500, 50)}


def test_exact_answers_can_be_left_out():
    chosen = {setting.name: setting for setting in config.settings(Config(exact_images=0))}
    assert chosen["linf"].exact_images == 0
    given = {setting.name: setting.exact_images for setting in config.settings(Config(exact_images=7))}
    assert given == {"linf": 7, "deep": 7, "l2": 0, "sigmoid": 0, "tanh": 0}


def test_the_folder_belongs_to_rows_and_seeds_but_not_to_parts_and_workers():
    def identity(**options):
        return json.dumps(config.identity(Config(**options), config.settings(Config(**options))))

    assert identity() == identity(parts=("search",), workers=3, output=Path("elsewhere"))
    assert identity() != identity(seeds=(7,))
    assert identity() != identity(rows=("kw",))
    assert identity() != identity(settings=("l2",))


# --- presets


@pytest.mark.parametrize(
    ("name", "norm", "eps", "beta", "widths"),
    [
        ("linf", "linf", 0.1, 2.0, (256,)),
        ("deep", "linf", 0.05, 0.5, (64, 64)),
        ("l2", "l2", 0.3, 1.0, (128,)),
        ("tanh", "linf", 0.1, 2.0, (128,)),
        ("sigmoid", "linf", 0.1, 2.0, (128,)),
    ],
)
def test_digits_has_the_small_scale_settings(name, norm, eps, beta, widths):
    setting = DIGITS[name]
    assert (setting.norm, setting.eps, setting.widths, setting.pooled_test) == (norm, eps, widths, 397)
    assert (setting.epochs, setting.batch_size, setting.learning_rate, setting.restarts) == (80, 100, 1e-3, 3)
    per = [row for row in setting.rows if row.method in ("per", "per_at")]
    assert {(row.alpha, row.beta, row.first_eps) for row in per} == {(1.5 * eps, beta, eps / 16)}
    assert setting.ramp == (0.0, 0.6)


def test_i_per_is_there_where_it_differs_from_l_per():
    assert [name for name, setting in DIGITS.items() if setting.find("i_per")] == ["deep"]
    assert all(setting.one_hidden_layer != (setting.name == "deep") for setting in DIGITS.values())
    methods = {row.method for row in DIGITS["linf"].rows}
    assert methods == {"plain", "at", "kw", "ibp", "crown_ibp", "mmr", "mmr_at", "per", "per_at"}
    assert {row.method for row in DIGITS["tanh"].rows} == methods - {"kw", "mmr", "mmr_at"}
    for setting in (*DIGITS.values(), *PAPER.values(), *presets.mnist()):
        assert len({row.name for row in setting.rows}) == len(setting.rows)


@pytest.mark.parametrize("name", published.TABLE_3_5)
def test_the_paper_preset_has_the_values_of_table_3_5(name):
    setting, values = PAPER[name], published.TABLE_3_5[name]
    assert (setting.epochs, setting.batch_size, setting.learning_rate, setting.seeds) == (100, 100, 1e-3, (0,))
    assert (setting.norm, setting.eps) == (name.rpartition("_")[2], published.EPS[name])
    for row in setting.rows:
        if row.method in ("per", "per_at") and not row.name.endswith("_printed"):
            assert row.beta == (values.beta_at if row.method == "per_at" else values.beta)
            assert (row.first_eps if values.doubled else row.eps) == values.first_eps
            assert row.alpha == pytest.approx(values.alpha if name != "cifar10_cnn_linf" else 3 / 255)
    cnn = "cnn" in name
    assert setting.final_share == (0.1 if cnn else 0.0)
    per = setting.row("l_per")
    assert (per.start, per.subset) == (("at", 10 if "cifar10" in name else 20) if cnn else (None, None))


def test_alpha_of_cifar10_is_tried_both_ways():
    setting = PAPER["cifar10_cnn_linf"]
    printed = {row.name: row for row in setting.rows if row.name.endswith("_printed")}
    assert set(printed) == {f"{name}_printed" for name in ("l_per", "l_per_at", "i_per", "i_per_at")}
    assert {row.alpha for row in printed.values()} == {0.1}
    assert setting.row("l_per").alpha == pytest.approx(0.012, abs=3e-4)
    others = [row for name, one in PAPER.items() if name != setting.name for row in one.rows]
    assert not any(row.name.endswith("_printed") for row in others)


def test_the_paper_preset_has_every_published_row():
    assert set(PAPER) == set(published.BLOCKS)
    for name, block in published.BLOCKS.items():
        theirs = [row.theirs for row in PAPER[name].rows if row.theirs]
        assert set(block) <= set(theirs)
    assert "kw_at" in [row.name for row in PAPER["mnist_cnn_linf"].rows]
    assert {row.bounds for row in PAPER["mnist_fc1_l2"].rows if row.name.startswith("i_per")} == {"forward"}
    assert {row.bounds for row in PAPER["mnist_cnn_l2"].rows if row.name.startswith("i_per")} == {"fast-lin-interval"}


@pytest.mark.parametrize(
    ("name", "image", "size"),
    [
        ("mnist_fc1_linf", (28, 28, 1), 814_090),
        ("mnist_cnn_linf", (28, 28, 1), 166_406),
        ("cifar10_cnn_linf", (32, 32, 3), 214_918),
    ],
)
def test_networks_have_the_published_sizes(name, image, size):
    setting = PAPER[name]
    model = recipes.model(10, setting.channels, setting.widths, setting.activation)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == size


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_only_the_last_layer_has_no_activation(activation):
    model = Network(3, widths=(5,), activation=activation)
    variables = model.init(jax.random.key(0), jnp.ones((1, 2, 2, 1)))
    images = jax.random.uniform(jax.random.key(1), (4, 2, 2, 1))
    first, last = (variables["params"][f"dense_{number}"] for number in range(2))
    hidden = images.reshape(4, -1) @ first["kernel"] + first["bias"]
    of = {"relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}[activation]
    expected = of(np.asarray(hidden)) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-5, atol=1e-6)


# --- published tables


def test_average_bounds_follow_from_errors_but_for_seven_rows():
    broken = []
    for name, block in published.BLOCKS.items():
        for row, values in block.items():
            pairs = ((values.linear, values.bound_linear), (values.interval, values.bound_interval))
            if any(abs(published.EPS[name] * (1 - error / 100) - bound) > 6e-5 for error, bound in pairs):
                broken.append((name, row))
    assert broken == [
        ("mnist_fc1_linf", "i_per_at"),
        ("mnist_cnn_l2", "ibp"),
        ("cifar10_cnn_l2", "l_per"),
        ("cifar10_cnn_l2", "i_per_at"),
        ("mnist_fc1_sigmoid_l2", "at"),
        ("mnist_fc1_sigmoid_l2", "crown_ibp"),
        ("mnist_fc1_tanh_l2", "ibp"),
    ]


def test_order_of_the_published_errors_but_for_adversarial_training():
    assert sum(map(len, published.BLOCKS.values())) == 98
    above = []
    for name, block in published.BLOCKS.items():
        for row, values in block.items():
            assert values.clean <= values.pgd <= values.linear
            assert values.bound_linear <= values.bound_envelope
            if values.exact is not None:
                assert values.pgd <= values.exact
                above += [(name, row)] * (values.exact > min(values.linear, values.interval))
    assert above == [(name, "at") for name in ("mnist_fc1_linf", "mnist_cnn_linf", "cifar10_cnn_linf")]


def test_the_best_published_rows_are_variants_of_per():
    for name, block in published.BLOCKS.items():
        exact = name.endswith("linf") and "sigmoid" not in name and "tanh" not in name
        rows = {row: values for row, values in block.items() if row not in ("plain", "at")}
        best = min(rows, key=lambda row: rows[row].exact if exact else rows[row].linear)
        assert best in ("l_per", "l_per_at", "i_per", "i_per_at")


def test_evaluations_of_binary_search_follow_from_the_precision():
    for name, end in published.SEARCH_TO.items():
        steps = np.ceil(np.log2(end / published.PRECISION))
        for evaluations, ratio in published.SEARCH[name].values():
            assert evaluations / steps == pytest.approx(ratio, abs=9e-4)
    saved = [100 - 100 * np.mean([ratio for _, ratio in block.values()]) for block in published.SEARCH.values()]
    np.testing.assert_allclose(saved, [24.4, 6.7, 13.3, 36.3, 10.1, 13.3], atol=0.05)


# --- recipes


def test_the_radius_doubles_to_the_printed_ends():
    for name, end in (("mnist_fc1_linf", 0.1024), ("mnist_fc1_l2", 0.32)):
        schedule = recipes.radius(PAPER[name].row("l_per_at"), 100 * 600)
        first = published.TABLE_3_5[name].first_eps
        found = [float(schedule(600 * epoch)) for epoch in (0, 19, 20, 40, 60, 80, 99)]
        np.testing.assert_allclose(found, first * np.array([1, 1, 2, 4, 8, 16, 16]), rtol=1e-6)
        assert found[-1] == pytest.approx(end)
    assert recipes.radius(PAPER["cifar10_cnn_linf"].row("l_per"), 100) == 0.008
    assert recipes.radius(DIGITS["linf"].row("plain"), 100) is None
    assert float(recipes.radius(DIGITS["deep"].row("kw"), 7)(7)) == pytest.approx(0.05)  # in a very short run as well


def test_intervals_ramp():
    ramps = recipes._ramps(0.1, (0.05, 0.65), 1000)
    found = [(round(float(ramps["eps"](step)), 6), float(ramps["kappa"](step))) for step in (0, 50, 350, 650, 1000)]
    assert found == [(0.0, 1.0), (0.0, 1.0), (0.05, 0.75), (0.1, 0.5), (0.1, 0.5)]


def test_the_rate_falls_at_the_end_for_the_cnn_alone():
    def update(share, step):
        optimizer = recipes.optimizer(share, 100)(0.5)
        params = {"w": jnp.zeros(())}
        state = jax.tree.map(
            lambda leaf: jnp.full_like(leaf, step) if leaf.dtype == jnp.int32 else leaf, optimizer.init(params)
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            return float(optimizer.update({"w": jnp.ones(())}, state, params)[0]["w"])

    assert update(0.1, 90) == pytest.approx(0.1 * update(0.1, 89), rel=1e-2)
    assert update(0.0, 90) == pytest.approx(update(0.0, 89), rel=1e-2)


def test_equal_objectives_are_one_object():
    def objective(setting, row):
        return recipes.recipe(setting, row, SMALL_DATA).objective

    linf = DIGITS["linf"]
    row = linf.row("l_per_at")
    assert objective(linf, row) is objective(linf, replace(row, name="other", label="other"))
    assert objective(linf, row) is not objective(linf, linf.row("l_per"))
    assert recipes.threat(linf) == Linf(0.1)
    assert recipes.threat(DIGITS["l2"]) == L2(0.3)


def random_data(shape=(4, 4, 1), classes=10, size=40):
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(size, *shape)).astype(np.float32), rng.integers(classes, size=size)
    return data.Dataset("random", images, labels.astype(np.int32), images, labels.astype(np.int32), classes)


SMALL_DATA = random_data()


# --- the report from made-up cells

IMAGES, SEEDS, SEARCHED = 40, 3, 10
LEVELS = {
    "plain": (2.0, 55.0, 95.0, 100.0),
    "at": (1.0, 15.0, 70.0, 100.0),
    "kw": (4.0, 20.0, 25.0, 100.0),
    "ibp": (3.0, 20.0, 27.0, 30.0),
    "crown_ibp": (3.0, 20.0, 26.0, 31.0),
    "mmr": (3.0, 25.0, 50.0, 100.0),
    "mmr_at": (2.0, 18.0, 40.0, 100.0),
    "l_per": (3.0, 18.0, 30.0, 100.0),
    "l_per_at": (2.0, 15.0, 22.0, 100.0),
    "i_per": (3.0, 18.0, 31.0, 100.0),
    "i_per_at": (2.0, 15.0, 23.0, 100.0),
}
"""Clean error, PGD, and what Fast-Lin and IBP do not certify."""


class MadeUp:
    """Stands for a run: every cell has the errors of :data:`LEVELS`, the same images wrong in every network."""

    def __init__(self, folder, levels):
        self.folder, self.levels = folder, levels

    def cell(self, name, compute):
        kind, setting, row = name.split("/")
        eps = DIGITS[setting].eps
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        clean, pgd, linear, interval = (
            np.arange(1000) >= 10 * error + np.arange(SEEDS)[:, None] for error in self.levels[row]
        )
        if kind == "train":
            size = 0.1 if row == "l_per_at" else 0.05
            values = size * (np.linspace(-1, 1, 50) + 1e-3 * rng.standard_normal((SEEDS, 50))).astype(np.float32)
            return {"seeds": list(range(SEEDS)), "arrays": {"params/dense/kernel": values}}
        if kind == "errors":
            radius = np.where(linear, np.float32(eps), np.where(pgd, np.float32(eps / 2), 0))
            arrays = {"clean": clean, "pgd": pgd, "linear": linear, "interval": interval, "radius": radius}
            return {"arrays": arrays}
        if kind == "exact":
            status = np.where(pgd, ExactStatus.VERIFIED, ExactStatus.FALSIFIED)[:, :1000]
            undecided = pgd & ~linear & ~interval
            if row == "at":
                status[:, 300] = ExactStatus.TIMEOUT
            return {"arrays": {"status": status, "undecided": undecided, "binaries": 10 * undecided}}
        if kind == "search":
            evaluations = np.full((SEEDS, SEARCHED), 9 if setting == "linf" else 10)
            radius = np.full((SEEDS, SEARCHED), 2 * eps if row == "kw" else eps)
            return {
                "arrays": {
                    "envelope": radius,
                    "binary": radius - 5e-5,
                    "envelope_evaluations": evaluations,
                    "binary_evaluations": np.full_like(evaluations, 12),
                }
            }
        if kind == "curve":
            grid = np.linspace(0.01, 0.4, 40, dtype=np.float32)
            linear = np.where(grid <= 0.1, grid, 0)
            envelope = np.where(grid <= 0.1, grid, np.maximum(0.2 - grid, 0)).astype(np.float32)
            return {"arrays": {"eps": grid, "linear": linear[None], "envelope": envelope[None]}}
        assert kind == "agreement"
        return {"difference": [0.0] * SEEDS}


def results(name, folder=None, levels=LEVELS):
    return Results(Networks(MadeUp(folder, levels)), DIGITS[name])


def verdicts(found):
    return {claim.text: claim.verdict for claim in found}


def test_claims_of_relu_follow_the_numbers():
    found = {claim.text: claim for claim in claims.relu(results("linf"))}
    assert {text: claim.verdict for text, claim in found.items() if claim.verdict != "holds"} == {}
    best = found["CRE MIP: the best is a variant of PER (ours: L-PER+at against MMR+at)"]
    assert best.published == "+3.21 (table 3.6)"
    assert best.ours.startswith("+3.0")
    assert found["CTE: KW above L-PER+at"].published == "+0.45 (table 3.6)"
    assert found["CRE Lin: AT above all that train for certificates (nearest: MMR)"].published == "+10.67 (table 3.6)"
    ibp = found["CRE IBP: all others above those trained by IBP (nearest: plain and CROWN-IBP)"]
    assert ibp.published == "+54.00 (table 3.6)"
    assert found["CTE ≤ PGD ≤ CRE MIP ≤ CRE Lin, CRE IBP, image by image"].published == "broken by CRE MIP of AT"


def test_claims_are_refuted_where_the_numbers_say_otherwise():
    weak = (5.0, 30.0, 40.0, 100.0)
    levels = {**LEVELS, "l_per": (3.0, 25.0, 30.0, 100.0), "l_per_at": weak, "at": (1.0, 15.0, 20.0, 10.0)}
    found = verdicts(claims.relu(results("linf", levels=levels)))
    for start in (
        "CRE MIP: the best",
        "CTE: KW above",
        "PGD: KW above",
        "CRE Lin: L-PER+at at most",
        "CRE Lin: AT above",
    ):
        assert next(verdict for text, verdict in found.items() if text.startswith(start)) == "does not hold"
    assert found["PGD: L-PER above L-PER+at"] == "does not hold"
    assert found["CRE IBP: all others above those trained by IBP (nearest: AT and CROWN-IBP)"] == "does not hold"
    assert found["what is certified survives PGD"] == "does not hold"  # made-up IBP certifies 90 % of AT, PGD leaves 85


def test_i_per_is_compared_where_there_is_more_than_one_hidden_layer():
    found = verdicts(claims.relu(results("deep")))
    assert found["CRE Lin: I-PER+at within 3 points of L-PER+at"] == "holds"
    assert not any("half-spaces" in text for text in found)
    assert "one hidden layer: L-PER and I-PER have the same half-spaces" in verdicts(claims.relu(results("l2")))
    found = verdicts(claims.relu(results("l2")))
    assert found["CTE ≤ PGD, image by image"] == found["PEC certifies all that Fast-Lin certifies"] == "holds"


def test_claims_of_smooth_networks_follow_the_numbers():
    found = {claim.text: claim for claim in claims.smooth(results("sigmoid"))}
    assert {text for text, claim in found.items() if claim.verdict != "holds"} == set()
    near = found["L-PER+at, CRE CRO, at most 5 points above IBP by its better bounds"]
    assert near.published == "+1.78 (table 3.8)"
    assert near.ours.startswith("+5.0")
    assert found["PGD: IBP above L-PER+at"].published == "+3.46 (table 3.8)"
    assert "MMR" not in " ".join(found)


def test_time_outs_make_a_range_and_count_against_per():
    found = results("linf")
    least, most = found.exact(DIGITS["linf"].row("at"))
    np.testing.assert_allclose(np.subtract(most, least), 0.1)
    assert tables.exact_error(found, DIGITS["linf"].row("at")) == "15.10 ± 0.06 to 15.20 ± 0.06"
    assert tables.exact_error(found, DIGITS["linf"].row("kw")) == "20.10 ± 0.06"
    assert found.judged(DIGITS["linf"].row("at")) == most


def test_radii_of_smooth_networks_are_the_better_of_two_certificates():
    smooth, sharp = results("tanh"), results("linf")
    row = DIGITS["tanh"].row("l_per_at")
    np.testing.assert_array_equal(smooth.radii(row), sharp.radii(DIGITS["linf"].row("l_per_at")))
    levels = {**LEVELS, "l_per_at": (2.0, 15.0, 15.0, 100.0)}
    assert smooth.analytic_error(row) == pytest.approx([22.0, 22.1, 22.2])
    assert results("tanh", levels=levels).envelope(row)[0] == pytest.approx(0.085)


def test_claims_of_the_search_follow_the_numbers():
    found = {claim.text: claim for claim in radius_claims.search([results("linf"), results("deep"), results("l2")])}
    assert {claim.verdict for claim in found.values()} == {"holds"}
    assert found["linf: PEC saves bound calculations (per cent, mean over methods)"].published == "+24.36 (table 3.9)"
    assert found["deep: PEC saves bound calculations (per cent, mean over methods)"].published == "not studied"
    assert "linf: both find the same radius within 0.0002" in found
    assert "l2: both find the same radius within 0.0002" not in found  # the box lets PEC certify more
    depth = found["T_PEC / T_Lin (per cent): deep above linf, depth saves less"]
    assert depth.ours.startswith("+8.33")
    assert depth.published.startswith("+17.6")
    assert found["l2: T_PEC / T_Lin below 0.95 for every network"].ours == "at most 0.833 (plain)"


def test_claims_of_the_figures_follow_the_numbers():
    found = verdicts(radius_claims.figures([results("linf")]))
    assert found["linf, MMR+at: ε at first, then 0 by Fast-Lin and above 0 by PEC"] == "holds"
    assert found["linf: mean |w| in hundredths, L-PER+at above KW"] == "holds"
    assert found["linf: share of small parameters, MMR+at above L-PER+at"] == "holds"
    assert found["linf: share of radii above 1.5 ε, KW above L-PER+at"] == "holds"


@pytest.mark.parametrize(
    ("envelope", "linear", "expected"),
    [
        ([1, 2, 2.5, 1], [1, 2, 0, 0], True),
        ([1, 2, 3, 1], [1, 2, 0, 0], True),  # PEC certifies further, as it does in l2
        ([1, 2, 3, 4], [1, 2, 3, 4], False),  # never anything but the budget
        ([1, 2, 3, 4], [1, 2, 0, 0], False),  # nothing partial
        ([1, 2, 0, 0], [1, 2, 0, 0], False),
        ([0.5, 0, 0, 0], [0, 0, 0, 0], False),  # never the budget
    ],
)
def test_two_phases_of_the_certified_radius(envelope, linear, expected):
    assert radius_claims.two_phases(*(np.array(x, float) for x in (envelope, linear, [1, 2, 3, 4]))) is expected


def test_published_rows_stand_beside():
    found = tables.methods(results("linf"))
    rows_ = {row[0]: row for row in found.rows}
    assert len(found.rows) == 18
    assert rows_["KW (published)"][1:] == ["2.26", "8.59", "12.91", "69.20", "10.90", "0.0871", "0.0308", "0.0928", ""]
    assert rows_["KW"][3] == "25.10 ± 0.06"
    assert all(len(row) == len(found.headers) for row in found.rows)
    smooth = tables.methods(results("tanh"))
    assert all(len(row) == len(smooth.headers) for row in smooth.rows)
    assert smooth.headers[5] == "CRE analytic"
    assert len(tables.methods(results("deep")).rows) == 8


def test_a_setting_with_few_rows_still_reports(tmp_path):
    alone = replace(DIGITS["linf"], rows=(DIGITS["linf"].row("kw"),))
    networks = Networks(MadeUp(tmp_path, LEVELS))
    found = Results(networks, alone)
    assert {claim.verdict for claim in claims.relu(found)} == {"holds"}
    assert len(radius_claims.search([found])) == 5
    plain = Results(networks, replace(alone, rows=(alone.rows[0], DIGITS["linf"].row("plain"))))
    assert len(claims.relu(plain)) == 4
    assert radius_claims.figures([Results(networks, replace(alone, rows=(DIGITS["linf"].row("plain"),)))]) == []


def test_the_text_names_radii_and_weights():
    found = text.setting(results("linf"))
    assert "1400 training and 397 test images" in found
    assert "from 0.00625, each fifth of training" in found
    assert "L-PER+at: α = 0.15, β = 2" in found
    assert "MMR+at: γ = 0.1, λ = 1" in found


@pytest.mark.parametrize(
    "part", ["search", *(pytest.param(part, marks=pytest.mark.slow) for part in ("relu", "smooth", "figures"))]
)
def test_sections_have_their_tables_and_figures(part, tmp_path):
    chosen = [setting for setting in DIGITS.values() if part in setting.parts]
    found = section.PARTS[part](Networks(MadeUp(tmp_path, LEVELS)), chosen)
    assert len(found) == {"relu": 3, "smooth": 2}.get(part, 1)
    assert sum(len(one.figures) for one in found) == {"relu": 3, "smooth": 2, "search": 0, "figures": 3}[part]
    for one in found:
        assert one.claims
        assert one.tables
        assert all((tmp_path / f"{path}.png").exists() for path, _ in one.figures)
        assert "|---|" in one.markdown()
        assert max(len(claim.text) for claim in one.claims) < 90  # or the terminal has no room for numbers


# --- what is computed


def test_the_plan_measures_what_the_parts_need():
    networks = Networks(None)

    def names(setting, *wanted):
        found = {}
        for row, measured in study.plan(networks, DIGITS[setting], wanted, 1):
            found[row.name] = [getattr(measure, "func", measure).__name__ for measure in measured]
        return found

    everything = names("linf", *rows.PARTS)
    assert everything["plain"] == ["errors", "exact", "search"]
    assert everything["mmr_at"] == ["errors", "exact", "search", "curve"]
    assert everything["l_per_at"] == ["errors", "exact", "agreement", "search"]
    assert names("deep", "figures") == {"kw": ["search", "errors", "curve"], "l_per_at": ["search"]}
    assert names("linf", "figures") == {
        "kw": ["search"],
        "mmr_at": ["search", "errors", "curve"],
        "l_per_at": ["search"],
    }
    assert names("tanh", "smooth")["l_per"] == ["errors"]
    assert names("tanh", "relu", "search") == {}
    assert set(map(tuple, names("l2", "search").values())) == {("search",)}


class OneNetwork(Networks):
    """Untrained networks, the same for every row."""

    def __init__(self, run, setting):
        super().__init__(run)
        self._setting = setting

    def trained(self, setting, row):
        model = self.model(setting)
        image = jnp.zeros((1, *self.dataset(setting).image_shape))
        variables = [model.init(jax.random.key(seed), image) for seed in setting.seeds]
        stacked = jax.tree.map(lambda *leaves: 3 * np.stack(leaves), *variables)
        arrays = {
            f"params/{name}/{leaf}": stacked["params"][name][leaf]
            for name in stacked["params"]
            for leaf in stacked["params"][name]
        }
        return {"seeds": list(setting.seeds), "arrays": arrays}

    def test(self, setting, count=None):
        """Labels are what the network says, but for every fourth image."""
        images, labels = super().test(setting, count)
        network = next(iter(self.members(setting, setting.rows[0])))
        says = np.asarray(network(jnp.asarray(images)).argmax(-1), labels.dtype)
        return images, np.where(np.arange(len(labels)) % 4 == 3, (says + 1) % 10, says)


class Memory:
    """A run that keeps nothing on disk."""

    def __init__(self):
        self.cells = {}

    def cell(self, name, compute):
        if name not in self.cells:
            made = compute()
            values, arrays = made if isinstance(made, tuple) else (made, {})
            self.cells[name] = {**values, "arrays": arrays}
        return self.cells[name]


@pytest.fixture(scope="module")
def untrained():
    setting = replace(
        DIGITS["linf"],
        eps=0.02,
        widths=(6,),
        seeds=(0,),
        tested=12,
        exact_images=8,
        search_images=4,
        restarts=1,
        batch=12,
    )
    return OneNetwork(Memory(), setting), setting, setting.row("l_per_at")


def test_errors_are_what_attacks_and_bounds_say(untrained):
    networks, setting, row = untrained
    found = measures.errors(networks, setting, row)["arrays"]
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys(
        ("clean", "pgd", "linear", "interval", "radius"), (1, 12)
    )
    images, labels = networks.test(setting)
    network = next(iter(networks.members(setting, row)))
    logits = np.asarray(network(jnp.asarray(images)))
    np.testing.assert_array_equal(found["clean"][0], logits.argmax(1) == labels)
    linear = certify.certified(network, jnp.asarray(images), jnp.asarray(labels), Linf(0.02), method="fast-lin")
    np.testing.assert_array_equal(found["linear"][0], linear)
    assert not (found["linear"] & ~found["pgd"]).any()
    np.testing.assert_array_equal(found["linear"], found["radius"] >= np.float32(0.02))
    assert not (found["pgd"] & ~found["clean"]).any()


def test_exact_answers_lie_between(untrained):
    networks, setting, row = untrained
    errors = {name: array[:, :8] for name, array in measures.errors(networks, setting, row)["arrays"].items()}
    found = measures.exact(networks, setting, row)["arrays"]
    assert found["status"].shape == (1, 8)
    assert ((found["status"] == ExactStatus.FALSIFIED) | errors["pgd"]).all()
    assert (found["status"][errors["linear"]] == ExactStatus.VERIFIED).all()
    undecided = errors["pgd"] & ~errors["linear"] & ~errors["interval"]
    np.testing.assert_array_equal(found["undecided"], undecided)


def test_l_per_and_i_per_have_the_same_half_spaces(untrained):
    networks, setting, row = untrained
    assert measures.agreement(networks, setting, row)["difference"][0] < 1e-6
    deep = replace(setting, widths=(6, 6))
    assert measures.agreement(OneNetwork(Memory(), deep), deep, row)["difference"][0] > 1e-3


@pytest.mark.slow
def test_search_and_curve_agree(untrained):
    networks, setting, row = untrained
    found = measures.search(networks, setting, row)["arrays"]
    assert set(found["binary_evaluations"].ravel()) == {12}
    assert (found["envelope_evaluations"] <= 12).all()
    curve = measures.curve(networks, setting, row)["arrays"]
    assert curve["envelope"].shape[1] == measures.CURVE_POINTS
    assert (curve["envelope"] >= curve["linear"]).all()
    # The largest radius of the curve is that of the search, to the grid; images 0 to 2 are classified correctly.
    step = curve["eps"][1] - curve["eps"][0]
    for image in range(3):
        assert abs(curve["linear"][image].max() - found["binary"][0, image]) <= step + 1e-4


# --- end to end


@pytest.mark.slow
def test_the_study_runs_and_continues(tmp_path, monkeypatch):
    def tiny():
        chosen = [DIGITS[name] for name in ("linf", "deep", "tanh")]
        return tuple(
            replace(
                setting,
                widths=(8,) * len(setting.widths),
                seeds=(0, 1),
                epochs=2,
                tested=40,
                restarts=1,
                exact_images=8 if setting.exact_images else 0,
                search_images=4,
                batch=40,
                examples=200,
            )
            for setting in chosen
        )

    monkeypatch.setitem(presets.SMALL, "digits", tiny)
    options = {"output": tmp_path / "run", "rows": ("plain", "kw", "mmr_at", "l_per_at", "i_per_at")}
    study.run(Config(**options))
    report = (tmp_path / "run/report.md").read_text()
    assert "does the claim hold?" in report
    assert not (tmp_path / "run/checkpoints").exists() or not any((tmp_path / "run/checkpoints").iterdir())
    cells = sorted((tmp_path / "run/cells").glob("*.json"))
    kept = {path: path.read_bytes() for path in cells}
    for path in cells[::3]:
        path.unlink()  # what says that a cell is whole
    study.run(Config(workers=1, **options))
    assert (tmp_path / "run/report.md").read_text() == report
    assert {path: path.read_bytes() for path in cells} == kept
    with pytest.raises(CommandError, match="another configuration"):
        study.run(Config(**options, epochs=3))


@pytest.mark.slow
def test_every_row_of_the_paper_preset_trains(tmp_path, monkeypatch):
    """All methods on random data, with small networks and little training."""
    shapes = {"mnist": (8, 8, 1), "cifar10": (8, 8, 3)}
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: random_data(shapes[name], size=20))
    names = ("cifar10_cnn_linf", "mnist_cnn_linf", "mnist_fc1_l2", "mnist_fc1_sigmoid_l2")
    chosen = tuple(
        replace(
            PAPER[name],
            channels=(2, 2) if PAPER[name].channels else (),
            widths=(6,),
            epochs=1,
            batch_size=10,
            restarts=1,
            exact_images=2 if PAPER[name].exact_images else 0,
            search_images=2,
            batch=20,
            rows=tuple(replace(row, subset=row.subset and 4) for row in PAPER[name].rows),
        )
        for name in names
    )
    monkeypatch.setattr(paper, "paper", lambda: chosen)
    study.run(Config(preset="paper", output=tmp_path / "run"))
    report = (tmp_path / "run/report.md").read_text()
    assert "L-PER+at, α = 0.1" in report
    assert "CRE Lin: KW + PGD above KW" in report
    assert "I-PER, forward" in report


@pytest.mark.slow
def test_the_command_tells_mistakes_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.verified_robustness",
        "--rows",
        "nothing",
        "--output",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("python -m experiments.verified_robustness: unknown row 'nothing'")
