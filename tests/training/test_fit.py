import json

import jax
import numpy as np
import pytest

from jaxrobust import data, models, optimizers, training

STEPS = 7


def pieces(blobs, learning_rate=0.1):
    images, labels = blobs
    model, optimizer = models.MLP(classes=3, widths=(8,)), optimizers.adam(learning_rate)
    state = training.init_state(model, jax.random.key(0), images[:1], optimizer)
    step = training.make_train_step(training.linen_apply(model), training.standard(), optimizer)

    def batches(start):
        return data.batches(images, labels, 32, seed=0, epochs=3, start_step=start)

    return state, step, batches


def assert_equal(first, second):
    def compare(a, b):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, first, second)


def test_counts_steps_and_lowers_the_loss(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    final = training.fit(state, step, batches, steps=9, directory=tmp_path, log_every=1)
    records = training.read_metrics(tmp_path / "metrics.jsonl")
    assert int(final.step) == 9
    assert [record["step"] for record in records] == list(range(1, 10))
    assert records[-1]["loss"] < records[0]["loss"]


def test_the_callers_state_survives_donation(blobs):
    state, step, batches = pieces(blobs)
    training.fit(state, step, batches, steps=2)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))


def test_a_resumed_run_equals_an_undisturbed_one(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    expected = training.fit(state, step, batches, steps=STEPS, directory=tmp_path / "whole", log_every=2)
    part = {"directory": tmp_path / "part", "log_every": 2, "checkpoint_every": 2}

    def interrupted(start):
        for number, batch in enumerate(batches(start), start + 1):
            if number == 6:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        training.fit(state, step, interrupted, steps=STEPS, **part)
    resumed = training.fit(state, step, batches, steps=STEPS, **part)
    assert_equal(resumed, expected)
    first, second = (training.read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "part"))
    assert first == second


def test_a_finished_run_is_not_run_again(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    first = training.fit(state, step, batches, steps=STEPS, directory=tmp_path)

    def never(start):
        raise AssertionError("no batch may be asked for")

    assert_equal(training.fit(state, step, never, steps=STEPS, directory=tmp_path), first)


def test_non_finite_loss_stops_with_the_last_checkpoint_intact(blobs, tmp_path):
    state, step, batches = pieces(blobs)

    def poisoned(start):
        for number, batch in enumerate(batches(start), start):
            yield batch if number < 5 else {**batch, "images": np.full_like(batch["images"], np.nan)}

    with pytest.raises(training.NonFiniteLossError, match="at step 6; the last checkpoint"):
        training.fit(state, step, poisoned, steps=STEPS, directory=tmp_path, checkpoint_every=2, log_every=1)
    resumed = training.fit(state, step, batches, steps=STEPS, directory=tmp_path)
    assert int(resumed.step) == STEPS


def test_evaluation_is_recorded(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    training.fit(
        state, step, batches, steps=4, directory=tmp_path, evaluate=lambda state: {"seen": int(state.step)},
        evaluate_every=2,
    )  # fmt: skip
    records = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [record["eval/seen"] for record in records if "eval/seen" in record] == [2.0, 4.0]


def test_tensorboard(blobs, tmp_path):
    pytest.importorskip("tensorboardX")
    state, step, batches = pieces(blobs)
    training.fit(state, step, batches, steps=2, directory=tmp_path, log_every=1, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_too_few_batches(blobs):
    state, step, batches = pieces(blobs)
    with pytest.raises(ValueError, match="ended after step 9; 12 steps"):
        training.fit(state, step, batches, steps=12)


def test_checkpoint_of_another_network_is_refused(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    training.fit(state, step, batches, steps=2, directory=tmp_path)
    other = training.init_state(
        models.MLP(classes=3, widths=(9,)), jax.random.key(0), blobs[0][:1], optimizers.adam(0.1)
    )
    with pytest.raises(ValueError, match="does not fit"):
        training.fit(other, step, batches, steps=4, directory=tmp_path)


def test_metrics_cut_short_by_a_kill_are_read_up_to_the_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n" + '{"step": 2, "lo')
    assert training.read_metrics(path) == [{"step": 1, "loss": 2.0}]
    assert training.read_metrics(tmp_path / "missing.jsonl") == []
