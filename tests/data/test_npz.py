import errno
import shutil
import struct
import zipfile

import numpy as np
import pytest

from jaxrobust import data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 50)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "generated.npz"


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("keys", [("image", "label"), ("images", "labels")])
def test_stored_members_are_mapped_in_place(path, dtype, keys):
    np.savez(path, **dict(zip(keys, (IMAGES.astype(dtype), LABELS), strict=True)), other=np.zeros(3))
    before = path.stat().st_mtime_ns
    images, labels = data.open_npz(path, num_classes=10)
    for found, expected in ((images, IMAGES.astype(dtype)), (labels, LABELS)):
        assert isinstance(found, np.memmap)
        assert found.filename == path
        assert found.dtype == expected.dtype
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, expected)
    raw = path.read_bytes()
    assert raw[images.offset : images.offset + images.nbytes] == IMAGES.astype(dtype).tobytes()
    assert names(path.parent) == ["generated.npz"]
    assert path.stat().st_mtime_ns == before


def test_a_write_to_the_file_shows_in_the_map(path):
    np.savez(path, image=IMAGES, label=LABELS)
    images, _ = data.open_npz(path)
    with path.open("r+b") as file:
        file.seek(images.offset + images[0].nbytes * 7)
        file.write(bytes([77]))
    assert images[7, 0, 0, 0] == 77


def test_large_offsets_and_unaligned_ones(path):
    """The map begins at a page, the array does not; a comment and extra fields move what comes behind."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("label", LABELS), ("image", IMAGES)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, array)
        archive.comment = b"comment"
    images, labels = data.open_npz(path)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_fortran_order(path):
    np.savez(path, image=np.asfortranarray(IMAGES), label=LABELS)
    np.testing.assert_array_equal(data.open_npz(path)[0], IMAGES)


class TestCompressed:
    def test_unpacked_once(self, path, capsys):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        images, labels = data.open_npz(path, num_classes=10)
        assert isinstance(images, np.memmap)
        assert images.filename.suffix == ".npy"
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
        assert capsys.readouterr().err.count("unpacking") == 2
        before = {name: (path.parent / name).stat().st_mtime_ns for name in names(path.parent)}
        assert len(before) == 3
        np.testing.assert_array_equal(data.open_npz(path)[0], IMAGES)
        assert capsys.readouterr().err == ""
        assert before == {name: (path.parent / name).stat().st_mtime_ns for name in names(path.parent)}

    def test_in_the_cache_folder(self, path, tmp_path):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        images, _ = data.open_npz(path, cache_dir=tmp_path / "cache" / "deep")
        np.testing.assert_array_equal(images, IMAGES)
        assert len(names(tmp_path / "cache" / "deep")) == 2
        assert names(tmp_path) == ["cache", "generated.npz"]

    def test_damaged_is_made_again(self, path, capsys):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        unpacked = data.open_npz(path)[0].filename
        whole = unpacked.read_bytes()
        unpacked.write_bytes(whole[:-1])
        np.testing.assert_array_equal(data.open_npz(path)[0], IMAGES)
        assert "damaged" in capsys.readouterr().err
        assert unpacked.read_bytes() == whole

    def test_another_file_of_the_same_name_is_another_array(self, path):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        data.open_npz(path)
        np.savez_compressed(path, image=IMAGES[::-1], label=LABELS)
        np.testing.assert_array_equal(data.open_npz(path)[0], IMAGES[::-1])

    def test_too_little_room(self, path, monkeypatch):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        usage = shutil.disk_usage(path.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10))
        with pytest.raises(OSError, match=r"cannot unpack 2\.53e-06 GB to .*No space left.*cache_dir") as error:
            data.open_npz(path)
        assert error.value.errno == errno.ENOSPC
        assert names(path.parent) == ["generated.npz"]

    def test_a_disk_that_fills_up_leaves_nothing(self, path, monkeypatch):
        np.savez_compressed(path, image=IMAGES, label=LABELS)

        def copy(packed, file, length):
            file.write(packed.read(100))
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfileobj", copy)
            with pytest.raises(OSError, match="cannot unpack"):
                data.open_npz(path)
        assert names(path.parent) == ["generated.npz"]
        np.testing.assert_array_equal(data.open_npz(path)[0], IMAGES)

    def test_wrong_checksum(self, path):
        np.savez_compressed(path, image=IMAGES, label=LABELS)
        raw = bytearray(path.read_bytes())
        at = raw.index(b"PK\x01\x02")  # the central directory's entry of the first member
        raw[at + 16 : at + 20] = struct.pack("<I", 1)
        path.write_bytes(raw)
        with pytest.raises(ValueError, match="damaged or not an npz file"):
            data.open_npz(path)
        assert names(path.parent) == ["generated.npz"]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"arr_0": IMAGES, "label": LABELS}, {}, r"no image or images; it holds arr_0, label"),
        ({"image": IMAGES}, {}, "no label or labels; it holds image"),
        ({}, {}, "no image or images, no label or labels; it holds nothing"),
        ({"image": IMAGES.astype(np.float64), "label": LABELS}, {}, "uint8 or float32.*holds float64"),
        ({"image": IMAGES[0], "label": LABELS}, {}, r"holds uint8 \(4, 4, 3\)"),
        ({"image": IMAGES.transpose(0, 3, 1, 2).repeat(2, -1), "label": LABELS}, {}, r"channels last.*\(50, 3, 4, 8\)"),
        ({"image": IMAGES, "label": LABELS[:9]}, {}, "differ in length: 50 and 9"),
        ({"image": IMAGES, "label": LABELS.astype(float)}, {}, "must be integers.*float64"),
        ({"image": IMAGES, "label": np.eye(50, dtype=int)}, {}, r"must be integers.*\(50, 50\)"),
        ({"image": IMAGES, "label": LABELS}, {"num_classes": 9}, r"in 0\.\.8; those of .* lie in 0\.\.9"),
        ({"image": IMAGES, "label": LABELS - 1}, {"num_classes": 10}, r"lie in -1\.\.8"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, {}, "image.npy .* is empty"),
        ({"image": IMAGES, "label": LABELS.astype(object)}, {}, "dtype object, which cannot be mapped"),
        ({"image": IMAGES, "label": LABELS.astype(">i4")}, {}, "dtype >i4, which cannot be mapped"),
    ],
)
def test_files_that_hold_something_else(path, arrays, options, message):
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        data.open_npz(path, **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0, 10, 500, -1, -200])
def test_cut_short(path, save, keep):
    save(path, image=IMAGES, label=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or not an npz file"):
        data.open_npz(path)
    assert names(path.parent) == ["generated.npz"]


def test_damaged_inside(path):
    np.savez(path, image=IMAGES, label=LABELS)
    raw = bytearray(path.read_bytes())
    raw[0] = 0  # the local header's signature
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged or not an npz file: no header of image\.npy"):
        data.open_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00nonsense")
        archive.writestr("label.npy", b"")
    with pytest.raises(ValueError, match=r"image\.npy in .* is no array"):
        data.open_npz(path)


def test_an_array_longer_than_its_member(path):
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("image.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 32, 32, 3)}
            )
        archive.writestr("label.npy", b"")
    with pytest.raises(ValueError, match=r"image\.npy is cut short"):
        data.open_npz(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.npz"):
        data.open_npz(tmp_path / "nothing.npz")


def test_feeds_the_stream(path):
    np.savez(path, image=IMAGES, label=LABELS)
    generated = data.Generated(*data.open_npz(path), fraction=0.5)
    batch = next(data.batches(IMAGES[:10], LABELS[:10], 8, seed=0, epochs=1, generated=generated))
    assert type(batch["images"]) is np.ndarray
    by_image = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    assert [by_image[image.tobytes()] for image in batch["images"]] == batch["labels"].tolist()


class TestDataset:
    ARRAYS = {  # noqa: RUF012
        "train_images": IMAGES[:40], "train_labels": LABELS[:40], "test_images": IMAGES[40:], "test_labels": LABELS[40:]
    }  # fmt: skip

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_load(self, path, save):
        save(path, **self.ARRAYS)
        for name in (path, str(path)):
            dataset = data.load(name)
            assert isinstance(dataset.train_images, np.memmap)
            assert dataset.image_shape == (4, 4, 3)
            assert dataset.num_classes == 10
            for field, expected in self.ARRAYS.items():
                np.testing.assert_array_equal(getattr(dataset, field), expected)
            assert dataset.test_labels.dtype == np.int32

    def test_holdout_reads_nothing(self, path):
        arrays = {**self.ARRAYS, "train_labels": np.arange(40) % 4}
        np.savez(path, **arrays)
        part = data.holdout(data.load(path), 0.25)
        assert isinstance(part.test_images, data.Rows)
        assert part.test_images.shape == (10, 4, 4, 3)
        in_memory = data.holdout(data.Dataset("x", **arrays, num_classes=10), 0.25)
        np.testing.assert_array_equal(part.train_images[:], in_memory.train_images)
        np.testing.assert_array_equal(part.test_images[np.asarray([3, 1])], in_memory.test_images[[3, 1]])
        assert part.train_images.dtype == np.uint8

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"test_images": IMAGES[40:, :2]}, r"differ in shape: \(4, 4, 3\), \(2, 4, 3\)"),
            ({"train_labels": LABELS[:40] - 5}, r"must lie in 0\.\."),
            ({"test_labels": LABELS[40:-1]}, "differ in length: 10 and 9"),
        ],
    )
    def test_errors(self, path, change, message):
        np.savez(path, **{**self.ARRAYS, **change})
        with pytest.raises(ValueError, match=message):
            data.load(path)

    def test_other_names(self, path):
        np.savez(path, image=IMAGES, label=LABELS)
        with pytest.raises(ValueError, match=r"no train_images, no train_labels.*it holds image, label"):
            data.load(path)
        with pytest.raises(ValueError, match="there is no file"):
            data.load("missing.npz")
