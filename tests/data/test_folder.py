import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import data, evaluation

RNG = np.random.default_rng(0)


def save(path, height=12, width=8, mode="RGB", colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": (), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = RNG.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    if colour is not None:
        pixels[...] = colour
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(path)
    return pixels


def source(folder, **options):
    return data.ImageFolder(folder, **{"size": 4, "resize": 4, **options})


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images and one, each of one colour."""
    save(tmp_path / "dog" / "b.png", colour=20)
    save(tmp_path / "dog" / "a.JPEG", colour=10)
    save(tmp_path / "cat" / "z.webp", colour=30)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / "README").write_text("no folder")
    return tmp_path


def test_classes_and_files_are_sorted(folder):
    images = source(folder)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.labels.dtype == np.int32
    assert (len(images), images.shape, images.dtype) == (3, (3, 4, 4, 3), np.uint8)
    read = images[:]
    assert read.shape == (3, 4, 4, 3)
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read[:, 0, 0, 0], [30, 10, 20], atol=2)


def test_classes_in_another_order(folder):
    images = source(folder, classes=["dog", "cat"])
    assert images.labels.tolist() == [0, 0, 1]
    assert len(source(folder, classes=("cat",))) == 1
    with pytest.raises(ValueError, match="no folders of the classes horse; it has cat, dog"):
        source(folder, classes=["cat", "horse"])
    for classes in ([], ["cat", "cat"]):
        with pytest.raises(ValueError, match="at least one name and all different"):
            source(folder, classes=classes)


def test_indexed_like_an_array(folder):
    images = source(folder)
    whole = images[:]
    for index in (np.asarray([2, 0, 2]), slice(1, None), np.asarray([True, False, True]), -1, np.asarray([], int)):
        np.testing.assert_array_equal(images[index], whole[index])
    with pytest.raises(IndexError):
        images[np.asarray([3])]


@pytest.mark.parametrize(("height", "width"), [(40, 30), (30, 41), (30, 30), (16, 64)])
def test_resize_and_crop(tmp_path, height, width):
    """By PIL alone, image by image: the shorter side becomes 20, then the central 14x14 pixels."""
    pixels = save(tmp_path / "a" / "x.png", height, width)
    sides = (20, int(20 * height / width)) if width < height else (int(20 * width / height), 20)
    resized = np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.BILINEAR))
    top, left = (round((side - 14) / 2) for side in resized.shape[:2])
    (found,) = source(tmp_path, size=14, resize=20)[:]
    np.testing.assert_array_equal(found, resized[top : top + 14, left : left + 14])


def test_pixels_are_kept_where_nothing_is_to_be_resized(tmp_path):
    pixels = save(tmp_path / "a" / "x.png", 4, 4)
    np.testing.assert_array_equal(source(tmp_path)[0], pixels)


@pytest.mark.parametrize(("mode", "name"), [("L", "x.png"), ("RGBA", "x.png"), ("CMYK", "x.jpg"), ("L", "x.bmp")])
def test_every_mode_becomes_rgb(tmp_path, mode, name):
    save(tmp_path / "a" / name, mode=mode)
    assert source(tmp_path)[:].shape == (1, 4, 4, 3)


class TestErrors:
    def test_size(self, folder):
        for size, resize in ((0, 4), (5, 4)):
            with pytest.raises(ValueError, match=f"size={size}, resize={resize}"):
                data.ImageFolder(folder, size=size, resize=resize)

    def test_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
            source(tmp_path / "nowhere")

    def test_no_classes(self, tmp_path):
        (tmp_path / "x.png").touch()
        with pytest.raises(ValueError, match="has no subfolders"):
            source(tmp_path)

    def test_empty_class(self, folder):
        (folder / "bird").mkdir()
        (folder / "ant").mkdir()
        with pytest.raises(ValueError, match=r"no images \(\.jpg.*\) in class folders of .*: ant, bird"):
            source(folder)

    @pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
    def test_unreadable_image(self, folder, damage):
        path = folder / "dog" / "b.png"
        images = source(folder)
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}.get(damage, b""))
        if damage == "missing":
            path.unlink()
        np.testing.assert_allclose(images[np.asarray([0, 1])][:, 0, 0, 0], [30, 10], atol=2)
        for index in (2, slice(None)):
            with pytest.raises(ValueError, match=r"cannot read the image .*dog.b\.png"):
                images[index]
        with pytest.raises(ValueError, match=r"cannot read the image .*dog.b\.png"):
            list(data.batches(images, images.labels, 3, seed=0, epochs=1))


def test_feeds_the_stream(folder):
    images = source(folder)
    batches = list(data.batches(images, images.labels, 2, seed=0, epochs=2, drop_last=True))
    order = data.epoch_order(3, 0, 1)[:2]
    np.testing.assert_array_equal(batches[1]["images"], images[order])
    np.testing.assert_array_equal(batches[1]["labels"], images.labels[order])


class TestDataset:
    @pytest.fixture
    def root(self, tmp_path):
        for part, name, colour in (("train", "x", 0), ("train", "y", 250), ("val", "x", 0), ("val", "y", 250)):
            save(tmp_path / part / name / "1.png", colour=colour)
        return tmp_path

    def test_load(self, root):
        dataset = data.load(root)
        assert dataset.name == str(root)
        assert dataset.num_classes == 2
        assert dataset.image_shape == (224, 224, 3)
        assert dataset.test_labels.tolist() == [0, 1]
        np.testing.assert_array_equal(dataset.train_images[np.asarray([1])], np.full((1, 224, 224, 3), 250))

    def test_val_comes_before_test(self, root):
        """ImageNet's test folder has no labels."""
        (root / "test").mkdir()
        assert data.load(str(root)).test_images.folder == root / "val"
        (root / "test").rmdir()
        (root / "val").rename(root / "test")
        assert data.load(str(root)).test_images.folder == root / "test"

    def test_names_come_first(self, root, monkeypatch):
        (root / "digits").mkdir()
        monkeypatch.chdir(root)
        assert data.load("digits").image_shape == (8, 8, 1)

    def test_missing_parts(self, root):
        (root / "val").rename(root / "valid")
        with pytest.raises(ValueError, match=r"train/ and val/ or test/.*has train, valid"):
            data.load(root)
        (root / "empty").mkdir()
        with pytest.raises(ValueError, match="empty has nothing"):
            data.load(root / "empty")

    def test_classes_differ(self, root):
        save(root / "val" / "z" / "1.png")
        with pytest.raises(ValueError, match=r"classes of .*train and .*val differ; in one of them only: z"):
            data.load(root)

    def test_accuracy_reads_it(self, root):
        dataset = data.load(root)

        def logits_fn(images):
            bright = images.mean((1, 2, 3)) - 0.5
            return jnp.stack([-bright, bright], axis=-1)

        assert evaluation.accuracy(logits_fn, dataset.test_images, dataset.test_labels) == 100


def test_unknown_names_mention_folders_and_files():
    with pytest.raises(ValueError, match=r"unknown data set 'no/where'.*folder with train/.*\.npz file"):
        data.load("no/where")
