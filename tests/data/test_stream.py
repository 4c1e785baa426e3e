import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import data
from jaxrobust.data._stream import _Batches

SIZE, SET = 20, 7


def source(size, first=0):
    """Images whose pixel is their number, and labels which are that too."""
    numbers = np.arange(first, first + size)
    return numbers.astype(np.uint8).reshape(-1, 1, 1, 1), numbers


GENERATED = data.Generated(*source(100, first=100), fraction=0.6)
FOCUS = data.Focus(SET, 3)


def stream(batch_size=5, *, seed=0, epochs=2, **options):
    return list(data.batches(*source(SIZE), batch_size, seed=seed, epochs=epochs, **options))


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


class TestGenerated:
    def test_original_rows_then_generated_ones(self):
        batches = stream(generated=GENERATED)
        assert len(batches) == 2 * 4  # ceil(20 / 5) steps
        for batch in batches:
            assert batch["images"].dtype == np.uint8
            assert batch["labels"].dtype == np.int32
            np.testing.assert_array_equal(batch["images"].ravel(), batch["labels"])
            assert (batch["labels"] < SIZE).tolist() == [True] * 2 + [False] * 3

    @pytest.mark.parametrize(("batch_size", "original", "new"), [(2048, 410, 1638), (2080, 416, 1664)])
    def test_published_counts(self, batch_size, original, new):
        images = np.zeros((50_000, 1), np.uint8)
        labels = np.zeros(50_000, int)
        generated = data.Generated(np.zeros((9, 1), np.uint8), np.ones(9, int), 0.8)
        batches = data.batches(images, labels, batch_size, seed=0, epochs=1, generated=generated)
        counts = [np.bincount(batch["labels"]).tolist() for batch in batches]
        assert counts == [[original, new]] * 25

    def test_originals_are_pieces_of_a_permutation(self):
        seen = [batch["labels"][:2] for batch in stream(epochs=3, generated=GENERATED)]
        epochs = np.concatenate(seen).reshape(3, 8)
        for epoch, found in enumerate(epochs):
            np.testing.assert_array_equal(found, data.epoch_order(SIZE, 0, epoch)[:8])

    def test_longer_epochs_go_on_with_further_permutations(self):
        seen = np.concatenate([batch["labels"][:2] for batch in stream(epochs=1, generated=GENERATED, epoch_steps=30)])
        parts = seen.reshape(3, SIZE)
        np.testing.assert_array_equal(parts[0], data.epoch_order(SIZE, 0, 0))
        for part in parts:
            assert sorted(part) == list(range(SIZE))
        assert (parts[1] != parts[0]).any()
        assert (parts[1] != parts[2]).any()
        other = np.concatenate([batch["labels"][:2] for batch in stream(epochs=2, generated=GENERATED, epoch_steps=30)])
        assert (other[60:].reshape(3, SIZE)[1] != parts[1]).any()  # of another epoch

    def test_generated_rows_are_uniform_with_replacement(self):
        drawn = np.concatenate([batch["labels"][2:] - 100 for batch in stream(epochs=500, generated=GENERATED)])
        counts = np.bincount(drawn, minlength=100)  # 6000 draws
        assert len(counts) == 100
        statistic = ((counts - 60) ** 2 / 60).sum()  # chi-squared with 99 degrees of freedom
        assert 50 < statistic < 160

    @pytest.mark.parametrize(("fraction", "original"), [(0.0, 5), (0.19, 5), (0.2, 4), (1.0, 0)])
    def test_fraction(self, fraction, original):
        generated = data.Generated(GENERATED.images, GENERATED.labels, fraction)
        for batch in stream(generated=generated):
            assert (batch["labels"] < SIZE).sum() == original
            assert len(batch["labels"]) == 5

    def test_of_fifty_million_only_the_rows_drawn_are_read(self):
        class Huge:
            shape, dtype = (50_000_000, 1, 1, 1), np.dtype(np.uint8)
            read = 0

            def __len__(self):
                return self.shape[0]

            def __getitem__(self, index):
                Huge.read += len(index)
                return np.zeros((len(index), 1, 1, 1), np.uint8)

        generated = data.Generated(Huge(), np.broadcast_to(np.int64(3), 50_000_000), 0.6)
        batches = _Batches(*source(SIZE), 5, 0, 10**6, False, generated, None, None, data.Shard(0, 1))
        assert batches[3_999_999]["labels"][2:].tolist() == [3, 3, 3]
        assert Huge.read == 3


def test_epoch_steps_without_generated_images_fill_every_batch():
    seen = stream(6, epochs=1, epoch_steps=5)
    assert [len(batch["labels"]) for batch in seen] == [6] * 5
    labels = np.concatenate([batch["labels"] for batch in seen])
    np.testing.assert_array_equal(labels[:SIZE], data.epoch_order(SIZE, 0, 0))
    assert len(set(labels[SIZE:])) == 10
    assert len(stream(6, epochs=1, epoch_steps=2)) == 2


def test_the_order_is_kept_between_versions():
    """Or a run that was begun before would continue with other batches."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([3, 1])))
    (_, batch) = stream(SIZE, seed=3)
    np.testing.assert_array_equal(batch["labels"], generator.permutation(SIZE))


def test_extra_streams_leave_the_plain_one_alone():
    plain = stream(6)
    with_focus = stream(6, focus=FOCUS)
    for one, other in zip(plain, with_focus, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
    assert [len(batch["labels"]) for batch in plain] == [6, 6, 6, 2] * 2


class TestFocus:
    def test_pieces_of_permutations_new_in_every_epoch(self):
        rows = np.stack(
            [batch["focus"] for batch in stream(epochs=2, generated=GENERATED, epoch_steps=14, focus=FOCUS)]
        )
        assert rows.dtype == np.int32
        parts = rows.reshape(2, 6, SET)
        np.testing.assert_array_equal(np.sort(parts), np.broadcast_to(np.arange(SET), parts.shape))
        assert len({tuple(part) for part in parts.reshape(12, SET)}) > 9

    def test_more_per_batch_than_members(self):
        (batch,) = stream(SIZE, epochs=1, focus=data.Focus(2, 5))
        assert sorted(batch["focus"][:4]) == [0, 0, 1, 1]

    def test_published_count(self):
        batches = stream(epochs=1, epoch_steps=25, focus=data.Focus(1024, 32))
        rows = np.concatenate([batch["focus"] for batch in batches])
        assert len(rows) == len(set(rows)) == 800


class TestShards:
    @given(
        batch=st.integers(1, 4),
        count=st.sampled_from([1, 2, 3]),
        fraction=st.one_of(st.none(), st.floats(0, 1)),
        steps=st.integers(1, 9),
        seed=st.integers(0, 2**40),
        start=st.integers(0, 8),
    )
    @settings(max_examples=25, deadline=None)
    def test_union_is_the_whole_batch_wherever_it_starts(self, batch, count, fraction, steps, seed, start):
        generated = None if fraction is None else data.Generated(GENERATED.images, GENERATED.labels, fraction)
        options = {
            "seed": seed, "generated": generated, "epoch_steps": steps, "focus": data.Focus(SET, 2 * count)
        }  # fmt: skip
        whole = stream(batch * count, **options)
        shards = [stream(batch * count, shard=data.Shard(i, count), start_step=start, **options) for i in range(count)]
        union = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                 for parts in zip(*shards, strict=True)]  # fmt: skip
        assert_equal(union, whole[start:])

    def test_only_their_rows_are_read(self):
        class Counted:
            def __init__(self, images):
                self.images, self.shape, self.dtype, self.read = images, images.shape, images.dtype, 0

            def __len__(self):
                return len(self.images)

            def __getitem__(self, index):
                self.read += len(index)
                return self.images[index]

        images, labels = source(SIZE)
        original, new = Counted(images), Counted(GENERATED.images)
        options = {
            "generated": data.Generated(new, GENERATED.labels, 0.5),
            "seed": 0, "epochs": 1, "epoch_steps": 1,
        }  # fmt: skip
        list(data.batches(original, labels, 8, shard=data.Shard(0, 4), **options))
        assert (original.read, new.read) == (2, 0)
        list(data.batches(original, labels, 8, shard=data.Shard(3, 4), **options))
        assert (original.read, new.read) == (2, 2)

    def test_errors(self):
        with pytest.raises(ValueError, match="2 shards do not divide a batch of 5"):
            stream(shard=data.Shard(0, 2))
        with pytest.raises(ValueError, match=r"2 shards do not divide a batch of 3.*drop_last"):
            data.batches(*source(7), 4, seed=0, epochs=1, shard=data.Shard(0, 2))
        assert len(list(data.batches(*source(7), 4, seed=0, epochs=1, drop_last=True, shard=data.Shard(0, 2)))) == 1
        with pytest.raises(ValueError, match="2 shards do not divide a batch of 3"):
            stream(4, shard=data.Shard(0, 2), focus=FOCUS)
        with pytest.raises(ValueError, match=r"index must lie in 0\.\.count - 1"):
            data.Shard(2, 2)


@pytest.mark.parametrize("workers", [1, 7])
def test_order_does_not_depend_on_the_threads(workers):
    options = {"generated": GENERATED, "focus": FOCUS, "epochs": 20}
    assert_equal(stream(workers=workers, **options), stream(**options))


def test_a_source_that_fails_stops_the_stream():
    class Broken:
        shape, dtype = (SIZE, 1, 1, 1), np.dtype(np.uint8)

        def __len__(self):
            return SIZE

        def __getitem__(self, index):
            raise ValueError("cannot read the image x.png")

    with pytest.raises(ValueError, match=r"cannot read the image x\.png"):
        next(data.batches(Broken(), np.zeros(SIZE, int), 5, seed=0, epochs=1))


IMAGES, LABELS = source(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated": data.Generated(IMAGES, LABELS, 1.2)}, r"must lie in \[0, 1\], got 1.2"),
        ({"generated": data.Generated(IMAGES, LABELS[:3])}, "same length, at least 1: got 5 and 3"),
        ({"generated": data.Generated(IMAGES[:0], LABELS[:0])}, "at least 1: got 0 and 0"),
        ({"generated": data.Generated(IMAGES.astype(np.float32), LABELS)}, r"uint8 \(1, 1, 1\); they are float32"),
        ({"generated": data.Generated(IMAGES.repeat(2, 1), LABELS)}, r"they are uint8 \(2, 1, 1\)"),
        ({"epoch_steps": 0}, "epoch_steps must be at least 1"),
        ({"focus": data.Focus(0, 2)}, "at least one member"),
        ({"focus": data.Focus(2, 0)}, "at least one member"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"epochs": 0}, "no batch of 5"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)


def test_no_images():
    with pytest.raises(ValueError, match="no batch of 5 in 0 images"):
        data.batches(IMAGES[:0], LABELS[:0], 5, seed=0, epochs=1, epoch_steps=3)
