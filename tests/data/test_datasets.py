import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, frequency
from jaxrobust.data._cache import cached_array

FOLDER = Path(os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data" / "tfds")
needs_mnist = pytest.mark.skipif(not (FOLDER / "mnist").exists(), reason="needs MNIST prepared in TFDS_DATA_DIR")
needs_cifar = pytest.mark.skipif(not (FOLDER / "cifar10").exists(), reason="needs CIFAR-10 prepared in TFDS_DATA_DIR")


@pytest.mark.parametrize(("name", "size"), [("digits", 8), ("digits_dct16", 16), ("digits28", 28)])
def test_bundled(name, size):
    dataset = data.load(name)
    assert dataset.image_shape == (size, size, 1)
    assert (len(dataset.train_images), len(dataset.test_images)) == (1437, 360)
    assert dataset.num_classes == 10
    shares = np.bincount(dataset.test_labels) / 360 - np.bincount(dataset.train_labels) / 1437
    assert np.abs(shares).max() < 0.005  # stratified
    if dataset.bounds is not None:
        assert dataset.train_images.min() == 0.0
        assert dataset.train_images.max() <= 1.0
    np.testing.assert_array_equal(dataset.test_images, data.load(name).test_images)


def test_dct_upsampling_leaves_192_frequencies_empty_and_the_box():
    dataset = data.load("digits_dct16")
    assert dataset.bounds is None
    assert dataset.train_images.min() == pytest.approx(-0.40, abs=0.02)
    assert dataset.train_images.max() == pytest.approx(1.36, abs=0.02)
    empty = np.asarray(frequency.empty_frequencies(8, 16))
    spectrum = np.asarray(frequency.dct2(dataset.test_images))[..., 0]
    assert empty.sum() == 192
    assert np.abs(spectrum[:, empty]).max() < 1e-5


def test_holdout_is_stratified_and_disjoint():
    dataset = data.load("digits")
    part = data.holdout(dataset, 0.1, seed=0)
    assert len(part.train_images) + len(part.test_images) == 1437
    assert len(part.test_images) == 144
    whole = {image.tobytes() for image in dataset.test_images}
    assert not whole & {image.tobytes() for image in part.test_images}
    assert len(data.holdout(dataset, 100).test_images) == 100
    for size in (1.5, 1.0, 0, -0.1, 1437):
        with pytest.raises(ValueError, match="between 0 and 1"):
            data.holdout(dataset, size)


def test_to_float():
    np.testing.assert_allclose(data.to_float(np.asarray([0, 255], np.uint8)), [0.0, 1.0])
    assert data.to_float(jnp.ones(2)).dtype == jnp.float32
    with pytest.raises(TypeError, match="uint8 or floating"):
        data.to_float(np.asarray([1], np.int64))


def test_unknown_name_suggests_and_lists():
    with pytest.raises(ValueError, match=r"Did you mean 'mnist'\?.*digits_dct16.*cifar10"):
        data.load("mnits")


def test_missing_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(data.DatasetNotFoundError, match=r"(?s)is not prepared in .*array_record.*Bundled") as error:
        data.load("svhn", data_dir=tmp_path, cache_dir=tmp_path)
    assert str(tmp_path) in str(error.value)


@needs_mnist
@pytest.mark.slow
def test_real_mnist(tmp_path):
    mnist = data.load("mnist", data_dir=FOLDER, cache_dir=tmp_path)
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images.shape == (10_000, 28, 28, 1)
    assert mnist.train_images.dtype == np.uint8
    assert mnist.train_images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    again = data.load("mnist", data_dir=FOLDER, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.test_labels, mnist.test_labels)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@needs_cifar
@pytest.mark.slow
def test_real_cifar10(tmp_path):
    cifar = data.load("cifar10", data_dir=FOLDER, cache_dir=tmp_path)
    assert cifar.train_images.shape == (50_000, 32, 32, 3)
    assert cifar.flip
    np.testing.assert_array_equal(np.bincount(cifar.test_labels), [1000] * 10)


class TestCache:
    def test_made_once(self, tmp_path):
        calls = []

        def make():
            calls.append(1)
            return np.arange(6).reshape(2, 3)

        first, second = (cached_array(tmp_path / "x.npy", make) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert len(calls) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.npy"]

    @pytest.mark.parametrize("damage", ["truncate", "description", "other"])
    def test_damaged_is_made_again(self, tmp_path, damage, capsys):
        path = tmp_path / "x.npy"
        cached_array(path, lambda: np.arange(100))
        if damage == "truncate":
            path.write_bytes(path.read_bytes()[:-8])
        elif damage == "description":
            path.with_suffix(".json").write_text("[[")
        else:
            np.save(path, np.arange(7))
        np.testing.assert_array_equal(cached_array(path, lambda: np.arange(100)), np.arange(100))
        assert "damaged" in capsys.readouterr().err
        assert json.loads(path.with_suffix(".json").read_text())[0] == [100]

    def test_a_failure_leaves_nothing(self, tmp_path):
        def fail():
            raise RuntimeError("no data")

        with pytest.raises(RuntimeError):
            cached_array(tmp_path / "x.npy", fail)
        assert list(tmp_path.iterdir()) == []
