"""``jaxrobust certify``: what it writes, that it continues, and what it says to mistakes."""

import functools
import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import Linf, data, losses, models
from jaxrobust import certify as library
from jaxrobust.cli import _certify, _certify_report
from jaxrobust.cli._certify import certify
from jaxrobust.cli._config import Certify
from jaxrobust.reporting import CommandError

QUICK = {"model": "mlp", "options": ("widths=12,",), "eps": "1/20", "examples": 30, "batch_size": 8}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def model(digits):
    return models.create("mlp", 10, digits.image_shape, widths=(12,))


@pytest.fixture(scope="module")
def weights(digits, model, tmp_path_factory):
    """A file of an MLP trained on digits."""
    images, labels = digits.train_images, digits.train_labels
    optimizer = optax.sgd(0.3, 0.9)

    @jax.jit
    def trained(variables):
        def loss(variables):
            return losses.cross_entropy(model.apply(variables, images), labels).mean()

        def step(_, carry):
            variables, state = carry
            updates, state = optimizer.update(jax.grad(loss)(variables), state)
            return optax.apply_updates(variables, updates), state

        return jax.lax.fori_loop(0, 40, step, (variables, optimizer.init(variables)))[0]

    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    models.write_weights(path, trained(jax.jit(model.init)(jax.random.key(0), images[:1])))
    return path


def run(weights, output, **changes):
    certify(Certify(weights, **{**QUICK, "output": output, **changes}))
    with np.load(output / "certificates.npz") as archive:
        return dict(archive)


@pytest.fixture
def without_figures(monkeypatch):
    for name in ("save_histograms", "save_curves", "save_maps"):
        monkeypatch.setattr(_certify_report, name, lambda *arguments, **options: None)


WHOLE = {"methods": ("crown,envelope",), "search": True, "precision": 0.01, "maps": 2, "map_steps": 5}


@pytest.fixture(scope="module")
def whole(weights, tmp_path_factory):
    """A folder with everything, and its arrays."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, run(weights, folder, **WHOLE)


def test_arrays_are_those_of_the_library(whole, digits, model, weights):
    _, arrays = whole
    images, labels = jnp.asarray(digits.test_images[:30]), jnp.asarray(digits.test_labels[:30])
    logits_fn = functools.partial(model.apply, models.load_variables(weights, model, digits.image_shape))
    np.testing.assert_array_equal(arrays["labels"], labels)
    np.testing.assert_array_equal(arrays["predictions"], logits_fn(images).argmax(-1))
    crown = np.asarray(library.certified(logits_fn, images, labels, Linf(0.05), method="crown"))
    assert 0 < crown.sum() < (arrays["predictions"] == arrays["labels"]).sum() < 30
    np.testing.assert_array_equal(arrays["certified_by_crown"], crown)
    np.testing.assert_allclose(arrays["radius_by_crown"], 0.05 * crown, rtol=1e-6)
    envelope = library.radius(logits_fn, images, labels, Linf(0.05), method="envelope")
    np.testing.assert_allclose(arrays["radius_by_envelope"], envelope, rtol=1e-3, atol=1e-5)
    assert (arrays["radius_by_envelope"] > 0).sum() > arrays["certified_by_envelope"].sum()


def test_arrays_fit_together(whole):
    _, arrays = whole
    names = ("crown", "envelope")
    for whole_name, name in (("radius", "radius"), ("searched_radius", "searched_radius")):
        parts = [arrays[f"{name}_by_{method}"] for method in names]
        np.testing.assert_array_equal(arrays[whole_name], np.max(parts, axis=0))
    np.testing.assert_array_equal(arrays["certified"], np.any([arrays[f"certified_by_{name}"] for name in names], 0))
    correct = arrays["predictions"] == arrays["labels"]
    for name in names:
        assert not arrays[f"radius_by_{name}"][~correct].any()
        assert not arrays[f"evaluations_by_{name}"][~correct].any()
    # From 0 to four times eps: five halvings bring 0.2 below 0.01.
    assert set(arrays["evaluations_by_crown"][correct]) == {5}
    assert (arrays["evaluations_by_envelope"] <= arrays["evaluations_by_crown"]).all()
    assert 0.05 < arrays["searched_radius_by_crown"].max() < 0.2
    rows = arrays["map_rows"]
    np.testing.assert_array_equal(rows, np.flatnonzero(correct)[:2])
    assert arrays["map_radii"].shape == (2, 8, 8, 1)
    assert (arrays["map_mean_radius"] >= arrays["map_uniform"] * (1 - 1e-5)).all()
    # Both are the largest radius that fast-lin certifies, found to different precisions.
    np.testing.assert_allclose(arrays["map_uniform"], arrays["searched_radius_by_envelope"][rows], atol=0.0101)


def test_report_and_figures(whole):
    folder, arrays = whole
    report = (folder / "report.md").read_text()
    share = 100 * arrays["certified_by_crown"].mean()
    for text in (
        "mlp on digits",
        "all methods together",
        f"| crown | {share:.2f} [",
        "| envelope |",
        "Halving alone takes 5",
    ):
        assert text in report
    assert f"{arrays['searched_radius_by_crown'].mean(dtype=np.float64):#.4g}" in report
    for name in ("radii", "certified_accuracy", "maps"):
        assert f"figures/{name}.png" in report
        for suffix in (".png", ".pdf"):
            assert (folder / "figures" / f"{name}{suffix}").stat().st_size > 5000
    times = json.loads((folder / "timings.json").read_text())
    assert times["crown"]["seconds"] > 8 * times["crown"]["seconds_per_image"] > 0
    assert "second" not in report
    assert json.loads((folder / "config.json").read_text())["eps"] == 0.05


def test_a_finished_run_is_only_reported(whole, weights, without_figures, monkeypatch):
    folder, arrays = whole
    before = (folder / "report.md").read_text()

    def fail(*arguments, **options):
        raise AssertionError

    for name in ("radius", "search_radius", "nonuniform", "_compiled_predictions"):
        monkeypatch.setattr(_certify, name, fail)
    again = run(weights, folder, **WHOLE)
    assert (folder / "report.md").read_text() == before
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    # Fewer things are reported from the same folder, and another configuration is refused.
    few = run(weights, folder, methods=("crown",), maps=1, map_steps=5)
    np.testing.assert_array_equal(few["certified"], arrays["certified_by_crown"])
    np.testing.assert_array_equal(few["map_radii"], arrays["map_radii"][:1])
    assert "all methods together" not in (folder / "report.md").read_text()
    with pytest.raises(CommandError, match=r"another configuration \(eps: 0.05 there, 0.1 now\)"):
        run(weights, folder, eps="0.1")


def test_an_interrupted_run_continues_and_gives_the_same(whole, weights, without_figures, tmp_path, monkeypatch):
    _, arrays = whole
    calls, original = [], _certify.radius

    def counted(*arguments, **options):
        calls.append(options["method"])
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(_certify, "radius", counted)
    with pytest.raises(KeyboardInterrupt):
        run(weights, tmp_path / "out", methods=("envelope", "crown"))
    assert not (tmp_path / "out" / "report.md").exists()
    continued = run(weights, tmp_path / "out", methods=("envelope", "crown"))
    batches = calls.count("envelope")
    assert calls[:6] == ["envelope"] * batches + ["crown"] * (6 - batches)
    assert calls.count("crown") == batches + 1  # the batch that was lost is done again, and no other
    for name in ("radius_by_envelope", "radius_by_crown"):
        np.testing.assert_array_equal(continued[name], arrays[name])


def test_results_do_not_depend_on_the_batch_size(whole, weights, without_figures, tmp_path):
    _, arrays = whole
    other = run(weights, tmp_path / "out", batch_size=30, methods=("envelope", "interval"))
    np.testing.assert_array_equal(other["certified_by_envelope"], arrays["certified_by_envelope"])
    assert (other["certified_by_interval"] <= other["certified_by_envelope"]).all()
    np.testing.assert_allclose(other["radius_by_envelope"], arrays["radius_by_envelope"], rtol=1e-3, atol=1e-5)


def test_nothing_classified_correctly(digits, model, weights, tmp_path):
    variables = models.load_variables(weights, model, digits.image_shape)
    absent = next(number for number in range(10) if number not in digits.test_labels[:4])
    wrong = jax.tree.map(
        lambda leaf: 0 * leaf + (10 * jax.nn.one_hot(absent, 10) if leaf.shape == (10,) else 0), variables
    )
    models.write_weights(tmp_path / "wrong.safetensors", wrong)
    arrays = run(tmp_path / "wrong.safetensors", tmp_path / "out", examples=4, search=True, maps=2)
    assert not arrays["certified"].any()
    assert not arrays["searched_radius"].any()
    assert "| clean | 0.00 [" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": "eight"}, "--eps must be a number or a fraction such as 8/255, got 'eight'"),
        ({"eps": "-1"}, "--eps must be above 0, got -1"),
        (
            {"methods": ("crown,crwon",)},
            "unknown method 'crwon'; --methods takes one or several of interval, fast-lin,",
        ),
        ({"methods": (",",)}, "unknown method ''"),
        ({"search_to": "0"}, "--search-to must be above 0"),
        ({"precision": 0.2, "search": True}, "--precision must be below --search-to, 0.2 here"),
        ({"rows_at_once": 0}, "--rows-at-once must be above 0"),
        ({"maps": -1}, "--maps must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"model": "resnet"}, "unknown network 'resnet'; choose one of"),
        ({"dataset": "digit"}, "unknown data set 'digit'. Did you mean 'digits'"),
        ({"dataset": "digits28"}, "Of another shape"),
        ({"examples": 2000, "split": "train"}, "--examples must lie between 1 and 1437, the train images"),
        ({"options": ("widths=16,",)}, "Of another shape"),
    ],
)
def test_mistakes_end_in_a_message(weights, tmp_path, changes, message):
    with pytest.raises(CommandError) as error:
        run(weights, tmp_path / "out", **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_that_have_no_bounds_or_do_not_fit(weights, digits, tmp_path, monkeypatch):
    with pytest.raises(CommandError, match="there are no weights at"):
        run(tmp_path / "nothing.npz", tmp_path / "out")
    sizes = {"patch_size": 4, "width": 4, "depth": 1, "heads": 1, "mlp_width": 4}
    vit = models.create("vit_small", 10, digits.image_shape, **sizes)
    models.write_weights(tmp_path / "vit.safetensors", jax.jit(vit.init)(jax.random.key(0), digits.test_images[:1]))
    options = tuple(f"{name}={value}" for name, value in sizes.items())
    with pytest.raises(CommandError, match="layer norm has no linear bounds") as error:
        run(tmp_path / "vit.safetensors", tmp_path / "out", model="vit_small", options=options)
    assert "\n" not in str(error.value)

    def too_large(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 44502248704 bytes.")

    monkeypatch.setattr(_certify, "radius", too_large)
    with pytest.raises(CommandError, match=r"out of memory with --batch-size 8: .* --rows-at-once 256"):
        run(weights, tmp_path / "out")


def test_command_line(tmp_path):
    begin = time.perf_counter()
    shown = subprocess.run([sys.executable, "-m", "jaxrobust", "certify", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    words = {word.strip(",.:") for word in shown.stdout.split()}
    assert {*library.METHODS, "envelope"} <= words
    assert time.perf_counter() - begin < 10  # generous: imports that take seconds on an idle machine fail
    missing = [sys.executable, "-m", "jaxrobust", "certify", str(tmp_path / "x.npz"), "--model", "mlp", "--eps", "0.1"]
    failed = subprocess.run(missing, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == f"jaxrobust: there are no weights at {tmp_path / 'x.npz'}\n"


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_part_and_all_methods(weights, tmp_path, norm):
    changes = {"norm": norm, "eps": "0.2", "split": "train", "methods": (*library.METHODS, "envelope")}
    arrays = run(weights, tmp_path / "out", search=True, maps=2, **changes)
    certified = {name: arrays[f"certified_by_{name}"] for name in library.METHODS}
    assert certified["crown"].any()
    assert (certified["alpha-crown"] >= certified["crown"]).all()
    # More for these norms: distances take ball and box together, bounds one of the two.
    assert (arrays["certified_by_envelope"] >= certified["fast-lin"]).all()
    assert "the first 30 train images" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_colour_images_in_bytes(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), rng.integers(0, 2, 20)
    parts = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "bytes.npz", **parts)
    model = models.create("small_cnn", 2, (8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    models.write_weights(tmp_path / "cnn.safetensors", variables)
    arrays = run(
        tmp_path / "cnn.safetensors", tmp_path / "out", model="small_cnn", options=(), eps="1/255", maps=1, examples=None,
        dataset=str(tmp_path / "bytes.npz"), rows_at_once=10,
    )  # fmt: skip
    pixels = jnp.asarray(images, jnp.float32) / 255
    expected = library.certified(functools.partial(model.apply, variables), pixels, jnp.asarray(labels), Linf(1 / 255))
    np.testing.assert_array_equal(arrays["certified_by_crown"], expected)
    assert arrays["map_radii"].shape == (1, 8, 8, 3)


@pytest.mark.slow
def test_killed_run_continues_and_gives_the_same(weights, tmp_path):
    def start(output):
        options = ["--model", "mlp", "--options", "widths=12,", "--eps", "1/20", "--batch-size", "4", "--search"]
        line = (sys.executable, "-m", "jaxrobust", "certify", weights, *options, "--output", output)
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole = start(undisturbed)
    for name in ("crown", "envelope", "search-crown-0.2-0.0001"):
        process = start(killed)
        while process.poll() is None and not (killed / "state" / f"{name}.npz").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.communicate()[0] == ""  # nothing was reported
        assert process.returncode == -signal.SIGKILL
    continued = start(killed)
    for process in (whole, continued):
        printed, complaint = process.communicate()
        assert process.returncode == 0, complaint
        assert "all methods together" in printed
    assert (killed / "report.md").read_text() == (undisturbed / "report.md").read_text()
    with np.load(killed / "certificates.npz") as ours, np.load(undisturbed / "certificates.npz") as expected:
        assert ours.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(ours[name], expected[name])


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "jaxrobust", "certify", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
