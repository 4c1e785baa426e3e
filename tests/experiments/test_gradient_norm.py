import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gradient_norm import config, networks, paper, presets, published, recipes, rows, study
from experiments.gradient_norm.config import Config
from experiments.gradient_norm.network import PlainCNN
from experiments.study import Run, together
from jaxrobust import Linf, edges, models, training
from jaxrobust.reporting import CommandError

ROOT = Path(__file__).parents[2]
DIGITS = presets.digits()
PAPER = paper.paper("imagenet")


# --- command line


def test_help_answers_at_once_and_imports_nothing_heavy():
    begin = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "experiments.gradient_norm", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 60  # a loaded machine; an idle one takes below 2 s
    assert "--weights NETWORK=FILE ..." in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"flax", "optax", "orbax", "matplotlib", "sklearn", "jaxrobust.training"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ("imagenet",)}, "the preset small has digits, mnist, cifar10"),
        ({"preset": "paper"}, "name its folder"),
        ({"preset": "paper", "datasets": ("a", "b")}, "name its folder"),
        ({"rows": ("swin_natural",)}, "unknown row 'swin_natural'; there are natural_gelu"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"seeds": ()}, "--seeds was given no value"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 2, "preset": "paper", "datasets": ("folder",)}, "belongs to --preset small"),
        ({"weights": ("a=b",)}, "belongs to --preset paper"),
        ({"accumulate": 2}, "belongs to --preset paper"),
        ({"data_dir": Path("/no/such/folder")}, "does not exist"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(CommandError, match=message):
        config.settings(Config(**options))


def test_unknown_parts_and_weights_are_told(tmp_path):
    with pytest.raises(CommandError, match="unknown part 'colour'; these data sets and rows have robustness"):
        config.parts(Config(parts=("colour",)), (DIGITS,))
    for text, message in (("swin_b", "takes NETWORK=FILE"), ("swin_b=none", "there is no file none")):
        with pytest.raises(CommandError, match=message):
            config.weights(Config(weights=(text,)))
    file = tmp_path / "weights.npz"
    file.touch()
    assert config.weights(Config(weights=(f"swin_b={file}",))) == {"swin_b": file}
    with pytest.raises(CommandError, match="two files for swin_b"):
        config.weights(Config(weights=(f"swin_b={file}", f"swin_b={file}")))


def test_rows_bring_along_what_they_start_from():
    options = Config(preset="paper", datasets=("folder",), rows=("resnet_gradient_norm_gelu",), epochs=2)
    (setting,) = config.settings(options)
    assert [row.name for row in setting.all_rows()] == ["resnet_swap_gelu", "resnet_gradient_norm_gelu"]
    assert {row.epochs for row in setting.all_rows()} == {2}
    assert setting.parts == ("robustness",)


def test_the_folder_belongs_to_rows_and_seeds_but_not_to_parts_and_workers():
    def identity(**options):
        return json.dumps(config.identity(Config(**options), config.settings(Config(**options))))

    assert identity() == identity(parts=("edges",), workers=3, output=Path("elsewhere"))
    assert identity() != identity(seeds=(7,))
    assert identity() != identity(rows=("natural_gelu",))


# --- presets


def test_published_hyper_parameters_of_swin():
    norm, attack, edge = (PAPER.row(f"swin_{name}") for name in ("gradient_norm", "adversarial", "edges"))
    assert (norm.epochs, norm.batch_size, norm.learning_rate) == (100, 532, pytest.approx(6.494e-4, rel=1e-4))
    assert (attack.epochs, attack.batch_size, attack.learning_rate) == (100, 512, 1.25e-3)
    assert (norm.loss_weight, norm.penalty_weight, norm.warmup_rate, attack.warmup_rate) == (0.8, 1.2, 1e-5, 1e-6)
    assert (norm.clip, attack.clip, edge.clip, edge.epochs) == (1.0, None, 1.0, 128)
    assert {row.decay for row in (norm, attack, edge)} == {0.9998}
    assert paper.paper("imagenet", "text").row("swin_gradient_norm").clip is None
    assert PAPER.eps == 4 / 255
    assert 2 * PAPER.eps / recipes.TRAINING_STEPS == pytest.approx(8 / 765)


def test_published_hyper_parameters_of_resnet():
    for activation in ("relu", "gelu", "silu"):
        swap, norm, attack = (
            PAPER.row(f"resnet_{name}_{activation}") for name in ("swap", "gradient_norm", "adversarial")
        )
        assert (swap.epochs, swap.start, swap.decay) == (3, "weights", None)
        assert (norm.start, attack.start) == (swap.name, swap.name)
        for row in (norm, attack):
            assert (row.epochs, row.batch_size, row.learning_rate) == (50, 256, 6.25e-4)
        assert (norm.loss_weight, norm.penalty_weight) == (0.5, 0.5)


@pytest.mark.parametrize("name", [pytest.param("swin_edges", marks=pytest.mark.slow), "resnet_adversarial_silu"])
def test_published_networks_exist(name):
    row = PAPER.row(name)
    model = models.create(row.model, 1000, (224, 224, 3), activation=row.activation, **dict(row.options))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert size == {"swin_b": 87_768_224, "resnet50": 25_557_032}[row.model]
    assert ("batch_stats" in variables) == (row.model == "resnet50")


def learning_rates(row, epochs):
    """Rate in each of these epochs, by the updates of an optimizer without momentum."""
    factory = recipes.optimizer(replace(row, optimizer="sgd", clip=None), 10, False)
    rates = []
    for epoch in epochs:
        optimizer = factory(row.learning_rate)
        state = optimizer.init({"w": jnp.ones(())})
        state = jax.tree.map(
            lambda leaf, step=10 * epoch: jnp.full_like(leaf, step) if leaf.dtype == jnp.int32 else leaf, state
        )
        rates.append(-float(optimizer.update({"w": jnp.ones(())}, state, {"w": jnp.ones(())})[0]["w"]))
    return rates


def test_schedules_have_the_published_values():
    found = learning_rates(PAPER.row("swin_gradient_norm"), (0, 1, 4, 5, 50, 99))
    np.testing.assert_allclose(found, [1e-5, 1.37883e-4, 5.21531e-4, 6.45478e-4, 3.29707e-4, 1.01578e-5], rtol=1e-5)
    found = learning_rates(PAPER.row("resnet_gradient_norm_gelu"), (0, 1, 5, 25, 49))
    np.testing.assert_allclose(found, [1e-6, 1.258e-4, 6.0995e-4, 3.175e-4, 1.06068e-5], rtol=1e-5)
    rising = learning_rates(PAPER.row("resnet_swap_relu"), (0, 1, 2))
    np.testing.assert_allclose(np.diff(rising), 1.248e-4, rtol=1e-4)  # nothing but warm-up


def test_a_run_that_is_shorter_than_its_warmup_is_possible():
    row = replace(DIGITS.row("align_edges"), epochs=2)
    assert learning_rates(row, (1,))[0] == pytest.approx(row.learning_rate, rel=0.6)


def test_digits_is_the_small_scale_setting():
    norm = DIGITS.row("gradient_norm_gelu")
    assert (norm.epochs, norm.batch_size, norm.learning_rate, norm.schedule) == (25, 64, 5e-3, "constant")
    assert {row.activation for row in DIGITS.of("robustness") if row.method == "gradient_norm"} == {
        "gelu",
        "silu",
        "relu",
    }
    assert min(len(row.seeds) for row in DIGITS.all_rows()) == 3
    assert {row.target for row in DIGITS.of("edges") if row.method == "edges"} == set(presets.TARGETS)
    assert len({row.name for row in DIGITS.all_rows()}) == len(DIGITS.all_rows())
    assert DIGITS.parts == ("robustness", "training", "geometry", "edges")


def test_every_row_is_planned_once_and_neighbours_differ_in_their_network():
    plan = study.plan(DIGITS, DIGITS.parts)
    assert sorted(row.name for row, _ in plan) == sorted(row.name for row in DIGITS.all_rows())
    assert plan[0][0].activation != plan[1][0].activation
    measured = {row.name: [measure.__name__ for measure in chosen] for row, chosen in plan}
    assert measured["gradient_norm_relu"] == ["accuracies", "auto_attack", "norms", "masking"]
    assert "auto_attack" not in measured["warmup_sgd_gelu_0"]
    everything = {"accuracies", "auto_attack", "norms", "curve", "masking", "geometry", "profile", "edge_agreement"}
    assert set(measured["gradient_norm_gelu"]) == everything


# --- published tables


@pytest.mark.parametrize("table", [published.TABLE_4_1, published.TABLE_4_1_CORRECTED])
def test_table_4_1_satisfies_the_total_expectation(table):
    for row in table:
        share = row.pgd10 / 100
        total = share * row.attack_fails + (1 - share) * row.attack_succeeds
        assert total == pytest.approx(row.mean, rel=1e-4 if table is published.TABLE_4_1 else 2e-2)


def test_printed_norms_of_robust_rows_are_too_small_by_the_evaluation_batch():
    for printed, corrected in zip(published.TABLE_4_1, published.TABLE_4_1_CORRECTED, strict=True):
        if printed.training.startswith("adversarial"):
            for a, b in zip(printed[5:], corrected[5:], strict=True):
                assert a * published.EVALUATION_BATCH[printed.network] == pytest.approx(b, rel=4e-3)


def test_gaps_of_the_published_tables():
    norm, attack = (published.TABLE_4_2[name].auto_attack for name in ("gradient_norm", "adversarial"))
    np.testing.assert_allclose(np.subtract(attack, norm), [0.42, 1.18, 4.54], atol=1e-9)
    assert norm[2] / attack[2] == pytest.approx(0.919, abs=5e-4)
    gains = {
        method: published.TABLE_4_4[method, "gelu"][1] - published.TABLE_4_4[method, "relu"][1]
        for method in ("adversarial", "gradient_norm")
    }
    assert gains == pytest.approx({"adversarial": 1.04, "gradient_norm": 23.18})
    assert gains["gradient_norm"] / gains["adversarial"] > 20
    assert published.TABLE_5_1["edges"].auto_attack / attack[2] == pytest.approx(0.624, abs=5e-4)
    assert max(row.auto_attack for row in published.SECONDARY_SWEEP.values()) == 52.52
    assert published.TABLE_4_3["gradient_norm"] == pytest.approx(2.35, abs=2e-3)
    for name, curve in published.FIGURE_4_1.items():
        assert len(curve) == 10
        assert list(curve) == sorted(curve, reverse=name != "radius")


# --- network and recipes


def test_the_network_has_the_published_shapes():
    model = PlainCNN(10, activation="gelu", mean=(0.3,), std=(0.4,))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    assert shapes == {"conv_0": (3, 3, 1, 16), "conv_1": (3, 3, 16, 32), "dense": (512, 64), "head": (64, 10)}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 38_282
    kernel = np.asarray(variables["params"]["dense"]["kernel"])
    assert kernel.std() == pytest.approx(np.sqrt(2 / 512), rel=0.02)
    mean_image = jnp.full((2, 8, 8, 1), 0.3)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, mean_image), 0, atol=1e-6)  # all biases are 0


def maps_of(target, images):
    return recipes.target_maps(target, edges.oriented_energy, images.shape[1:])(jax.random.key(3), images)


def test_control_targets():
    images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
    energy = edges.oriented_energy(images)
    np.testing.assert_array_equal(maps_of("edges", images), energy)
    np.testing.assert_array_equal(maps_of("magnitude", images), energy)
    np.testing.assert_array_equal(maps_of("ones", images), jnp.ones_like(energy))
    np.testing.assert_array_equal(maps_of("image", images), images)
    signed, magnitude = maps_of("signed_noise", images), maps_of("noise", images)
    np.testing.assert_array_equal(jnp.abs(signed), magnitude)
    assert bool((signed == signed[0]).all())  # the same for every image
    assert float(signed.min()) < 0 < float(magnitude.min())


def test_other_edges_are_never_those_of_the_image_or_of_its_partner_in_mixup():
    images = jnp.zeros((64, 8, 8, 1)).at[:, 3:5, 3:5].set(jnp.arange(1.0, 65)[:, None, None, None] / 64)
    energy = maps_of("other_edges", images).max((1, 2))
    own = edges.oriented_energy(images).max((1, 2))
    source = np.abs(np.asarray(energy)[:, None] - np.asarray(own)).argmin(1)
    numbers = np.arange(64)
    assert sorted(source) == list(numbers)
    assert not set(zip(numbers, source, strict=True)) & ({(n, n) for n in numbers} | {(n, 63 - n) for n in numbers})


def linear_apply(variables, images, train=False, key=None):
    flat = images.reshape(len(images), -1)
    return flat @ variables["params"]["w"], {}


def test_the_attack_of_adversarial_training_warms_up():
    threat, images = Linf(0.1), jnp.full((8, 2, 2, 1), 0.5)
    variables = {"params": {"w": jax.random.normal(jax.random.key(0), (4, 3))}}
    made = recipes.adversarial(threat, 5, 10)

    @jax.jit
    def crafted(step):
        batch = {"images": images, "labels": jnp.zeros(8, jnp.int32), "step": step}
        return made.craft(linear_apply, variables, jax.random.key(1), batch)["adversarial"]

    start, first = crafted(9), crafted(10)  # epochs 0 and 1
    assert float(jnp.abs(start - images).max()) < 0.1
    inside = jnp.abs(first - images) < 0.0999
    moved = jnp.abs(first - start)[inside]
    np.testing.assert_allclose(moved, 3 * (2 * 0.1 / 3) / 5, rtol=1e-3)  # three steps of a fifth
    np.testing.assert_allclose(jnp.abs(crafted(50) - images), 0.1, atol=1e-6)  # full steps reach the corner
    np.testing.assert_array_equal(crafted(50), crafted(500))


def test_frozen_objectives_never_train_batch_norm():
    seen = []

    def apply(variables, images, train=False, key=None):
        seen.append(train)
        return linear_apply(variables, images)[0], {}

    variables = {"params": {"w": jnp.ones((4, 3))}}
    batch = {"images": jnp.full((2, 2, 2, 1), 0.5), "labels": jnp.zeros(2, jnp.int32), "step": jnp.zeros((), jnp.int32)}
    for made in (training.standard(), recipes.adversarial(Linf(0.1), 5, 10)):
        jax.eval_shape(partial(recipes.in_evaluation_mode(made), apply), variables, jax.random.key(0), batch)
    assert seen
    assert not any(seen)
    made = recipes.in_evaluation_mode(recipes.adversarial(Linf(0.1), 0, 10))
    assert isinstance(made, training.AdversarialObjective)  # so that a step does not differentiate the attack


def test_weight_decay_on_imagenet_leaves_biases_and_norms():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    for imagenet, decayed in ((True, {"kernel": True, "bias": False}), (False, {"kernel": True, "bias": True})):
        optimizer = recipes.optimizer(replace(PAPER.row("swin_edges"), schedule="constant", clip=None), 10, imagenet)(
            1.0
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
            updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        assert {name: bool((update != 0).all()) for name, update in updates.items()} == decayed


def test_equal_labels_are_one_function():
    assert recipes.mix("hard", 10, False) is None
    assert recipes.mix("mixed", 10, False) is recipes.mix("mixed", 10, False)


@pytest.mark.slow
def test_labels_of_the_recipes():
    batch = {"images": jnp.linspace(0, 1, 4)[:, None, None, None] * jnp.ones((4, 2, 2, 1)), "labels": jnp.arange(4)}
    smoothed = jax.jit(recipes.mix("smoothed", 10, False))(jax.random.key(0), batch)
    np.testing.assert_array_equal(smoothed["images"], batch["images"])
    np.testing.assert_allclose(smoothed["labels"].max(1), 0.91, atol=1e-6)
    mixed = jax.jit(recipes.mix("mixed", 10, False))(jax.random.key(0), batch)
    assert float(mixed["labels"].max()) < 0.91


def test_equal_networks_are_one_object_and_missing_weights_are_told(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        found = networks.Networks(run)
        models_ = [
            found.model(DIGITS, DIGITS.row(name)) for name in ("natural_gelu", "align_edges", "gradient_norm_relu")
        ]
        assert models_[0] is models_[1]
        assert models_[0] is not models_[2]
        assert models_[0].std == pytest.approx((0.3757,), abs=0.01)
        starved = replace(DIGITS, rows=(("robustness", (replace(DIGITS.row("natural_gelu"), start="weights"),)),))
        with pytest.raises(CommandError, match="name their file with --weights cnn=FILE"):
            found.prepare(starved, starved.all_rows())
        huge = replace(DIGITS.row("natural_gelu"), batch_size=5000)
        with pytest.raises(CommandError, match="only 1437 training images"):
            found.prepare(DIGITS, (huge,))


# --- workers


class Recorder:
    """Networks that only remember what was asked of them."""

    def __init__(self, failing=None):
        self.trained_rows, self.measured, self.failing = [], [], failing

    def trained(self, setting, row):
        if row.name == self.failing:
            raise CommandError("full disk")
        self.trained_rows.append(row.name)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_compute_every_row_and_pass_errors_on(workers):
    def measure(networks, setting, row):
        networks.measured.append(row.name)

    def compute(networks):
        together([study.steps(networks, DIGITS, row, (measure, measure)) for row in chosen], workers)

    chosen = DIGITS.of("robustness")
    recorder = Recorder()
    compute(recorder)
    assert sorted(recorder.trained_rows) == sorted(row.name for row in chosen)
    assert sorted(recorder.measured) == sorted(2 * [row.name for row in chosen])
    with pytest.raises(CommandError, match="full disk"):
        compute(Recorder(chosen[0].name))


def test_threads_do_not_share_several_devices(tmp_path):
    assert jax.local_device_count() > 1  # forced by the tests' configuration
    with pytest.raises(CommandError, match="--workers must be 1 where there are several devices, here 2"):
        study.run(Config(workers=2, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- end to end


def tiny(setting, parts):
    """A setting that runs in a minute or two."""
    kept = tuple(
        (part, tuple(replace(row, epochs=2, seeds=(0, 1)) for row in all_rows))
        for part, all_rows in setting.rows
        if part in parts
    )
    sizes = dict.fromkeys(("geometry_images", "linearity_images", "profile_images", "edge_images", "evaluated"), 20)
    return replace(setting, rows=kept, attacked=6, attack_batch=6, evaluation_batch=20, radii=(1.0,), **sizes)


@pytest.mark.slow
def test_the_study_runs_and_continues(tmp_path, monkeypatch):
    setting = tiny(DIGITS, ("geometry", "edges"))
    monkeypatch.setitem(presets.SMALL, "digits", lambda: setting)
    options = {"rows": ("natural_gelu", "gradient_norm_gelu", "align_edges"), "output": tmp_path / "run"}
    study.run(Config(**options))
    report = (tmp_path / "run/report.md").read_text()
    assert "## digits: gradients and edges" in report
    cells = sorted((tmp_path / "run/cells").glob("*.json"))
    kept = {path: path.read_bytes() for path in cells}
    for path in cells[::3]:
        path.unlink()  # what says that a cell is whole
    study.run(Config(workers=1, **options))
    assert (tmp_path / "run/report.md").read_text() == report
    assert {path: path.read_bytes() for path in cells} == kept


@pytest.mark.slow
def test_the_paper_recipe_runs_on_a_folder_of_images(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label in ("cat", "dog"):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / label / f"{number}.png")
    full = paper.paper(str(tmp_path / "images"))

    def small(row):
        changes = {"model": "small_cnn", "batch_size": 8, "options": (("batch_norm", True), ("features", (4, 4)))}
        return replace(row, **changes, epochs=min(row.epochs, 2), schedule_epochs=None)

    kept = tuple((part, tuple(map(small, all_rows))) for part, all_rows in full.rows if part in ("robustness", "edges"))
    sizes = dict.fromkeys(("attacked", "evaluated", "edge_images", "attack_batch", "evaluation_batch"), 4)
    setting = replace(full, rows=kept, radii=(1.0,), pgd_steps=3, **sizes)
    monkeypatch.setattr(paper, "paper", lambda *_: setting)
    model = models.create("small_cnn", classes=2, image_shape=(224, 224, 3), batch_norm=True, features=(4, 4))
    models.write_weights(tmp_path / "w.safetensors", model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    chosen = ("swin_natural", "swin_gradient_norm", "swin_adversarial", "swin_edges", "resnet_gradient_norm_relu")
    options = {"preset": "paper", "datasets": (str(tmp_path / "images"),), "output": tmp_path / "run", "rows": chosen}
    study.run(Config(weights=(f"small_cnn={tmp_path / 'w.safetensors'}",), **options))
    report = (tmp_path / "run/report.md").read_text()
    assert "Swin-B, gradient norm" in report
    assert rows.find(setting.all_rows(), name="resnet_swap_relu").epochs == 2
    assert not (tmp_path / "run/checkpoints").exists() or not any((tmp_path / "run/checkpoints").iterdir())


@pytest.mark.slow
def test_the_command_tells_mistakes_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.gradient_norm",
        "--rows",
        "nothing",
        "--output",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("python -m experiments.gradient_norm: unknown row 'nothing'")
