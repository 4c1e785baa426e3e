"""Variables of a run, without its optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, models, optimizers, training

MODEL = models.SmallCNN(classes=3, features=(4,), batch_norm=True)
SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def run(blobs, tmp_path_factory):
    """A short run with checkpoints of steps 2 and 3, its directory and its last state."""
    images, labels = blobs
    directory, optimizer = tmp_path_factory.mktemp("run"), optimizers.adam(0.1)
    state = training.init_state(MODEL, jax.random.key(0), images[:1], optimizer)
    step = training.make_train_step(training.linen_apply(MODEL), training.standard(), optimizer)

    def batches(start):
        return data.batches(images, labels, 32, seed=0, epochs=2, start_step=start)

    return directory, training.fit(state, step, batches, steps=3, directory=directory, checkpoint_every=2)


@pytest.mark.parametrize("place", [".", "checkpoints", "checkpoints/state"])
def test_variables_of_the_last_step(run, place):
    directory, state = run
    variables = training.restore_variables(directory / place)
    models.check_variables(MODEL, variables, SHAPE)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    jax.tree.map(np.testing.assert_array_equal, variables, state.variables)
    logits = MODEL.apply(variables, jnp.full((2, *SHAPE), 0.5))
    np.testing.assert_array_equal(logits, MODEL.apply(state.variables, jnp.full((2, *SHAPE), 0.5)))


def test_a_relative_path(run, monkeypatch):
    directory, state = run
    monkeypatch.chdir(directory.parent)
    variables = training.restore_variables(directory.name)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.params)


def save(directory, step, tree, name="state"):
    with training.Checkpoints(directory) as checkpoints:
        checkpoints.save(name, step, tree)


def state_of(value):
    params = {"head": {"kernel": jnp.full((2, 3), value)}}
    return training.TrainState(jnp.int32(0), params, {}, (params, None), jax.random.key(0))


def test_without_model_state_and_the_latest_by_number(tmp_path):
    for step in (2, 9, 10):
        save(tmp_path, step, state_of(float(step)))
    # What a killed run leaves is not a checkpoint.
    (tmp_path / "state" / "11.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
    (tmp_path / "state" / "12").mkdir()
    variables = training.restore_variables(tmp_path)
    assert list(variables) == ["params"]
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], np.full((2, 3), 10.0))


def test_nothing_to_restore(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        training.restore_variables(tmp_path / "absent")
    (tmp_path / "checkpoints" / "state").mkdir(parents=True)
    for place in (".", "checkpoints", "checkpoints/state"):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; give the directory of a run of fit"):
            training.restore_variables(tmp_path / place)


def test_checkpoints_of_something_else(tmp_path):
    save(tmp_path, 1, (state_of(1.0), {"history": jnp.zeros(3)}), "population")
    with pytest.raises(
        ValueError, match=r"population/1 is not the state of one network's training; .*train_population"
    ):
        training.restore_variables(tmp_path)
    save(tmp_path, 1, state_of(1.0))
    with pytest.raises(ValueError, match=r"holds several series of checkpoints; give one: .*population, .*state"):
        training.restore_variables(tmp_path)
    assert training.restore_variables(tmp_path / "state")
