from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from experiments.optimizer_robustness import bands, compare, config, frequencies, heads, lipschitz, networks
from experiments.optimizer_robustness.config import Config, Setting
from experiments.optimizer_robustness.study import _takes_part as takes_part
from experiments.study import Run
from jaxrobust import data, models
from jaxrobust.reporting import CommandError

VIT = {"patch_size": 8, "width": 8, "depth": 1, "heads": 2, "mlp_width": 16, "mean": None, "std": None}
SETTING = Setting(
    name="head",
    dataset="digits_dct16",
    model="vit_b16",
    options=VIT,
    rates={"sgd": (0.01, 0.1)},
    seeds=(0, 1),
    epochs=2,
    head_only=True,
)


def frozen(weights, model, image_shape):
    del weights
    return model.init(jax.random.key(7), np.zeros((1, *image_shape), np.float32))["params"]["encoder"]


@pytest.fixture
def study(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        yield run


class TestHeads:
    @pytest.mark.slow
    def test_views_are_the_image_and_its_mirror_image(self):
        model = models.create("vit_b16", classes=10, image_shape=(16, 16, 1), **VIT)
        images = np.random.default_rng(0).uniform(size=(5, 16, 16, 1)).astype(np.float32)
        variables = {"params": {"encoder": frozen(None, model, (16, 16, 1))}}
        found = heads.features(model, variables["params"], images, mirror=True)
        assert found.shape == (5, 1, 2, 8)
        for view, seen in enumerate((images, images[:, :, ::-1])):
            expected = model.apply(variables, seen, method="features")
            np.testing.assert_allclose(found[:, 0, view], expected, rtol=1e-4, atol=1e-5)
        flipped = np.asarray(data.random_flip(jax.random.key(0), jax.numpy.asarray(found)))
        swapped = (flipped[:, 0, 0] == found[:, 0, 1]).all(-1)
        assert 0 < swapped.sum() < 5
        np.testing.assert_array_equal(flipped[~swapped], found[~swapped])
        assert heads.features(model, variables["params"], images, mirror=False).shape == (5, 1, 1, 8)

    @pytest.mark.slow
    def test_only_the_head_is_trained_and_stored(self, study, monkeypatch):
        monkeypatch.setattr(heads, "encoder", frozen)
        trained = networks.Networks(study, vit_weights=study.folder)
        stored = trained.trained(SETTING, "sgd")["arrays"]
        assert set(stored) == {"params/head/linear/kernel", "params/head/linear/bias"}
        assert stored["params/head/linear/kernel"].shape == (2, 8, 10)
        first, second = trained.variables(SETTING, "sgd")
        expected = frozen(None, trained.model(SETTING), (16, 16, 1))
        for variables in (first, second):
            assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables["params"]["encoder"], expected))
        kernels = [flatten_dict(v["params"], sep="/")["head/linear/kernel"] for v in (first, second)]
        assert np.abs(kernels[0] - kernels[1]).max() > 0
        images = trained.dataset("digits_dct16").test_images[:3]
        logits = next(trained.logits_fns(SETTING, "sgd"))(images)
        features = heads.features(trained.model(SETTING), {"encoder": expected}, images, mirror=False)[:, 0, 0]
        np.testing.assert_allclose(logits, features @ kernels[0] + first["params"]["head"]["linear"]["bias"], rtol=1e-4)

    def test_a_checkpoint_that_does_not_fit_is_noticed_first(self, study, tmp_path):
        with pytest.raises(CommandError, match="--vit-weights"):
            networks.Networks(study).prepare(SETTING)
        (tmp_path / "vit.npz").write_text("<html>")
        with pytest.raises(CommandError, match=r"is not an \.npz file"):
            networks.Networks(study, vit_weights=tmp_path / "vit.npz").prepare(SETTING)


def test_a_negative_control_is_left_to_all(study):
    control = config.settings(Config())[-1]
    assert control.control
    assert takes_part(control, "compare", Config(part="all"), study)
    assert not takes_part(control, "compare", Config(part="compare"), study)
    assert not takes_part(control, "bands", Config(part="all"), study)
    assert takes_part(control, "compare", Config(part="compare", datasets=("digits",)), study)
    for optimizer in control.rates:  # what is finished stays in the report
        study.cell(f"compare/{control.name}/{optimizer}", dict)
    assert takes_part(control, "compare", Config(part="compare"), study)


def fake(name, data_dir=None):
    """A few random images, or waveforms, with the shape that matters."""
    del data_dir
    classes, shape, bounds = {
        "mnist": (10, (28, 28, 1), (0.0, 1.0)),
        "cifar100": (100, (32, 32, 3), (0.0, 1.0)),
        "speech_commands": (12, (8000, 1), (-1.0, 1.0)),
    }.get(name, (10, (32, 32, 3), (0.0, 1.0)))
    rng = np.random.default_rng(0)
    images = rng.uniform(*bounds, size=(32, *shape)).astype(np.float32)
    labels = rng.integers(classes, size=32).astype(np.int32)
    flip = name not in ("mnist", "speech_commands")
    return data.Dataset(name, images, labels, images, labels, classes, bounds=bounds, flip=flip)


@pytest.mark.slow
def test_every_kind_of_setting_of_the_paper_runs(study, tmp_path, monkeypatch):
    """All parts of the preset on random data, with small networks and little training."""
    monkeypatch.setattr(data, "load", fake)
    monkeypatch.setattr(heads, "encoder", frozen)
    weights = tmp_path / "vit.npz"
    weights.write_bytes(b"")
    paper = Config(
        preset="paper",
        datasets=("mnist", "cifar100", "imagenette", "speech_commands"),
        vit_weights=weights,
        seeds=(0, 1),
        epochs=1,
    )
    chosen = []
    for setting in config.settings(paper):
        rates = {name: setting.rates[name] for name in ("sgd", "adam")}
        setting = replace(setting, rates=rates, attack="pgd", attack_steps=1, batch_size=16)
        if setting.model in ("preact_resnet18", "cnn4"):
            setting = replace(setting, model="small_cnn")
        chosen.append(replace(setting, options=VIT) if setting.head_only else setting)
    trained = networks.Networks(study, vit_weights=weights)
    for part, run in {"compare": compare, "frequencies": frequencies, "bands": bands, "lipschitz": lipschitz}.items():
        taking_part = [setting for setting in chosen if part in setting.parts]
        section = run.run(trained, taking_part)
        assert section.claims
        for setting in taking_part:
            assert any(setting.name in claim.text for claim in section.claims)
        for path, _ in section.figures:
            assert (study.folder / f"{path}.png").stat().st_size > 1000
    table = next(table for table in compare.run(trained, chosen).tables if table.caption.startswith("cifar100_top5"))
    assert [row[0] for row in table.rows] == ["SGD", "SGD (published)", "Adam", "Adam (published)"]
