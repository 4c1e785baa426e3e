import json
import os
import signal
import time

import jax
import jax.numpy as jnp
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
        state, step, batches, steps=4, directory=tmp_path,
        network=counted,
        evaluation=training.Evaluation(lambda variables: {"seen": int(variables["counts"]["step"])}, every=2),
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


def stopping_at(batches, number, stop):
    """Batches during whose ``number``-th step ``stop`` is called."""

    def some(start):
        for position, batch in enumerate(batches(start), start + 1):
            if position == number:
                stop()
            yield batch

    return some


@pytest.mark.parametrize(("kind", "error"), [(signal.SIGTERM, training.Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(blobs, tmp_path, kind, error):
    state, step, batches = pieces(blobs)
    expected = training.fit(state, step, batches, steps=STEPS)
    stopped = stopping_at(batches, 4, lambda: os.kill(os.getpid(), kind))
    before = signal.getsignal(kind)
    with pytest.raises(error) as caught:
        training.fit(state, step, stopped, steps=STEPS, directory=tmp_path)
    assert signal.getsignal(kind) is before
    if kind is signal.SIGTERM:
        assert caught.value.code == training.EXIT_TERMINATED == 75
        assert "after step 4 of 7" in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints" / "state").iterdir()] == ["4"]
    assert_equal(training.fit(state, step, batches, steps=STEPS, directory=tmp_path), expected)


def test_a_batch_that_cannot_be_read_loses_nothing(blobs, tmp_path):
    state, step, batches = pieces(blobs)

    def broken():
        raise OSError("image 17 is damaged")

    with pytest.raises(OSError, match="image 17 is damaged"):
        training.fit(state, step, stopping_at(batches, 4, broken), steps=STEPS, directory=tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints" / "state").iterdir()] == ["3"]


def measured(scores):
    """An evaluation that finds these scores, by step."""
    return lambda variables: {"score": scores[int(variables["counts"]["step"])]}


def counted(state):
    """A network that knows its step."""
    return {**state.averaged_variables, "counts": {"step": state.step}}


def test_the_best_network_is_kept_and_the_latest_of_equals(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    scores = {1: 3.0, 2: 5.0, 3: 4.0, 4: 5.0, 5: float("nan"), 6: 2.0, 7: 1.0}
    evaluation = training.Evaluation(measured(scores), every=1, select="score")
    training.fit(state, step, batches, steps=STEPS, directory=tmp_path, evaluation=evaluation, network=counted)
    series = tmp_path / "checkpoints" / "best"
    assert [path.name for path in series.iterdir()] == ["4"]
    best = training.restore_variables(series)
    assert best.pop("counts")["step"] == 4
    assert_equal(best, training.fit(state, step, batches, steps=4).variables)
    last = training.restore_variables(tmp_path)
    assert last.pop("counts")["step"] == STEPS
    assert_equal(last, training.fit(state, step, batches, steps=STEPS).variables)


def test_early_stopping_is_the_same_with_and_without_interruption(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    scores = dict(enumerate((0, 1.0, 2.0, 1.5, 1.0, 9.0, 9.0, 9.0)))
    evaluation = training.Evaluation(measured(scores), every=1, select="score", patience=2)
    settings = {"steps": STEPS, "evaluation": evaluation, "network": counted}
    whole = training.fit(state, step, batches, directory=tmp_path / "whole", **settings)
    assert int(whole.step) == 4
    stopped = stopping_at(batches, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(training.Terminated):
        training.fit(state, step, stopped, directory=tmp_path / "part", **settings)
    assert_equal(training.fit(state, step, batches, directory=tmp_path / "part", **settings), whole)

    def never(start):
        raise AssertionError("no batch may be asked for")

    assert_equal(training.fit(state, step, never, directory=tmp_path / "part", **settings), whole)


def test_selection_needs_what_it_selects_by(blobs):
    state, step, batches = pieces(blobs)
    evaluation = training.Evaluation(measured({1: 1.0}), every=1, select="robustness")
    with pytest.raises(ValueError, match="select is 'robustness', but what was measured is score"):
        training.fit(state, step, batches, steps=1, evaluation=evaluation, network=counted)
    with pytest.raises(ValueError, match="patience counts measurements"):
        training.Evaluation(measured({}), patience=2)
    with pytest.raises(ValueError, match="every must be at least 1"):
        training.Evaluation(measured({}), every=0)


def test_what_happens_before_epochs_happens_again_after_a_resume(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    state = state._replace(memory=jnp.zeros(()))

    def remember(state):
        return state._replace(memory=state.memory + 1 + state.step.astype(jnp.float32))

    settings = {"steps": STEPS, "before_epoch": remember, "epoch_steps": 3}
    whole = training.fit(state, step, batches, **settings)
    assert float(whole.memory) == 3 + 0 + 3 + 6
    for stop in (3, 4):
        stopped = stopping_at(batches, stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(training.Terminated):
            training.fit(state, step, stopped, directory=tmp_path / str(stop), **settings)
        assert_equal(training.fit(state, step, batches, directory=tmp_path / str(stop), **settings), whole)
    with pytest.raises(ValueError, match="before_epoch needs epoch_steps"):
        training.fit(state, step, batches, steps=1, before_epoch=remember)


def test_observations_are_recorded_beside_the_metrics(blobs, tmp_path):
    state, step, batches = pieces(blobs)
    training.fit(
        state, step, batches, steps=4, directory=tmp_path, log_every=2,
        observe=lambda state, batch: {"seen": state.step, "mean": batch["images"].mean()},
    )  # fmt: skip
    records = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [record["seen"] for record in records] == [2.0, 4.0]
    assert all(0 < record["mean"] < 1 for record in records)
    timings = training.read_metrics(tmp_path / "timings.jsonl")
    assert [timing["step"] for timing in timings] == [2, 4]
    assert all(timing["images_per_second"] > 0 for timing in timings)


def test_a_gradient_that_is_not_finite_is_no_checkpoint(blobs, tmp_path):
    """The loss of step t says nothing about the parameters after it: a gradient that overflows does."""
    state, step, batches = pieces(blobs)

    def overflowing(state, batch):
        new, metrics = step(state, batch)
        return new, {**metrics, "gradient_norm": jnp.where(new.step == 3, jnp.inf, metrics["gradient_norm"])}

    with pytest.raises(training.NonFiniteLossError, match="gradient's norm inf at step 3"):
        training.fit(state, overflowing, batches, steps=STEPS, directory=tmp_path, checkpoint_every=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "state").iterdir()) == ["1", "2"]


# What Orbax's threads raise, it raises again; what they leave behind is not ours.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_error_that_leaves_earlier_checkpoints_intact(blobs, tmp_path):
    """A limit on the size of files stands for the full disk: both end in an error when a file is written."""
    resource = pytest.importorskip("resource")
    _, _, batches = pieces(blobs)
    big, optimizer = models.MLP(classes=3, widths=(4000,)), optimizers.sgd(0.1)
    state = training.init_state(big, jax.random.key(0), blobs[0][:1], optimizer)
    step = training.make_train_step(training.linen_apply(big), training.standard(), optimizer)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = {"steps": 4, "directory": tmp_path, "checkpoint_every": 2}

    def fill():
        while not (tmp_path / "checkpoints" / "state" / "2").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))

    full = stopping_at(batches, 3, fill)
    try:
        with pytest.raises(training.CheckpointError, match=r"cannot write a checkpoint in .*earlier ones are intact"):
            training.fit(state, step, full, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in (tmp_path / "checkpoints" / "state").iterdir() if path.name.isdigit()] == ["2"]
    assert int(training.fit(state, step, batches, **settings).step) == 4
