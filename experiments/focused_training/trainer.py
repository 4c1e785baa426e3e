"""How one network is trained, and what is measured between its epochs.

What is measured, and what an emulated focus needs, is part of the training state (its ``memory``), and so of every
checkpoint: a run that was killed goes on with the same bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.study import logits_fn
from jaxrobust import attacks, data, evaluation, training
from jaxrobust.batching import to_float

from .presets import Setting
from .recipe import Focus, tracking_attack, training_step
from .setups import Setup

_TRAINING, _CRAFTING, _TRACKING, _TESTING = range(4)
"""Streams of random numbers of a seed. What is measured draws from streams of its own, so it cannot influence training."""


class Memory(NamedTuple):
    """What a run remembers beside its weights.

    Attributes:
        tracked: how many images of each monitored set withstand PGD-40 after each epoch, int32 ``[sets, epochs]``, -1
            where that is not measured yet.
        tested: correct test images, clean and under PGD-40, int32 ``[epochs, 2]``, -1 where not measured.
        best: for each monitored set the variables after its best epoch.
        focus: the focus set, unless it is only monitored.
    """

    tracked: jax.Array
    tested: jax.Array
    best: tuple[Any, ...]
    focus: Focus | None


class Trained(NamedTuple):
    """A trained network, as a study's cell stores it: values, and the weights after the last and the best epochs."""

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


def train(
    setting: Setting,
    setup: Setup,
    model: nn.Module,
    dataset: data.Dataset,
    members: Mapping[str, np.ndarray],
    monitored: tuple[str, ...],
    seed: int,
    *,
    generated: data.Generated | None = None,
    directory: Path | None = None,
) -> Trained:
    """Train one network, or continue.

    Args:
        setting: data set, threat model and hyper-parameters.
        setup: what is held out, focused on and how. Of a setup that only monitors, the focus plays no part.
        model: the network.
        dataset: the setting's images.
        members: name of a set to the numbers of its training images.
        monitored: the sets that PGD-40 attacks after every epoch.
        seed: of initialisation, data order and attacks.
        generated: images that fill a part of every batch.
        directory: where the progress is kept while the run goes on; removed at the end.

    Raises:
        RuntimeError: if the best and the last weights differ where the last epoch is the best.
    """
    step, optimizer, averaging = training_step(
        model, replace(setting, setups=()), setup.mode, setup.version, setup.epochs
    )
    epochs = _Epochs(setting, setup, model, dataset, members, monitored, seed)
    images = jnp.zeros((1, *dataset.image_shape))
    state = training.init_state(model, epochs.key(_TRAINING), images, optimizer, averaging=averaging)
    state = state._replace(memory=epochs.memory(state))
    rows = np.arange(len(dataset.train_labels))
    if setup.hold_out is not None:
        rows = np.setdiff1d(rows, members[setup.hold_out])
    focus = None if setup.mode == "monitor" else data.Focus(len(members[setup.focus or ""]), setup.focus_per_batch)
    train_images, train_labels = dataset.train_images[rows], dataset.train_labels[rows]

    def batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        return data.batches(
            train_images,
            train_labels,
            setup.ordinary,
            seed=seed,
            epochs=setup.epochs,
            start_step=start_step,
            generated=generated,
            epoch_steps=setting.epoch_steps,
            focus=focus,
        )

    state = training.fit(
        state,
        step,
        batches,
        steps=setup.epochs * setting.epoch_steps,
        directory=directory,
        checkpoint_every=setting.checkpoint_epochs * setting.epoch_steps,
        before_epoch=epochs,
        epoch_steps=setting.epoch_steps,
        progress=False,
    )
    trained = epochs.result(epochs.track(state, setup.epochs))
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
    return trained


class _Epochs:
    """What happens between epochs: measuring, and making the examples of an emulated focus; called before each epoch."""

    def __init__(
        self,
        setting: Setting,
        setup: Setup,
        model: nn.Module,
        dataset: data.Dataset,
        members: Mapping[str, np.ndarray],
        monitored: tuple[str, ...],
        seed: int,
    ) -> None:
        self._setting, self._setup, self._model, self._seed = setting, setup, model, seed
        tested = slice(setting.tested)
        self._test = dataset.test_images[tested], dataset.test_labels[tested]
        self._sets = {name: self._part(dataset, members[name]) for name in monitored}
        self._focus = None if setup.mode == "monitor" else self._part(dataset, members[setup.focus or ""])

    @staticmethod
    def _part(dataset: data.Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return to_float(dataset.train_images[rows]), dataset.train_labels[rows]

    def key(self, stream: int, epoch: int = 0) -> jax.Array:
        """The random key of a stream and an epoch."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), stream), epoch)

    def memory(self, state: training.TrainState) -> Memory:
        """Before the first epoch."""
        epochs, focus = self._setup.epochs, None
        if self._focus is not None:
            clean, labels = (jnp.asarray(array) for array in self._focus)
            focus = Focus(clean, clean, labels.astype(jnp.int32))
        return Memory(
            jnp.full((len(self._sets), epochs), -1, jnp.int32),
            jnp.full((epochs, 2), -1, jnp.int32),
            (state.averaged_variables,) * len(self._sets),
            focus,
        )

    def __call__(self, state: training.TrainState) -> training.TrainState:
        """Track what the last epoch has left, and attack the focus set for the next one."""
        epoch = int(state.step) // self._setting.epoch_steps
        if epoch:
            state = self.track(state, epoch)
        if self._setup.mode in ("emulate", "emulate_pair"):
            state = self.craft(state, epoch)
        return state

    def track(self, state: training.TrainState, epoch: int) -> training.TrainState:
        """Measure after an epoch, counted from 1; of equally good epochs the later is the best."""
        memory: Memory = state.memory
        variables = state.averaged_variables
        network = logits_fn(self._model, variables)
        tracked, tested, best = np.array(memory.tracked), np.array(memory.tested), list(memory.best)
        for number, part in enumerate(self._sets.values()):
            tracked[number, epoch - 1] = self._correct(network, part, self.key(_TRACKING, epoch))
            if tracked[number, epoch - 1] == tracked[number].max():
                best[number] = jax.tree.map(jnp.copy, variables)  # the next step donates both
        if epoch % self._setting.test_every == 0 or epoch == self._setup.epochs:
            tested[epoch - 1] = (
                self._correct(network, self._test),
                self._correct(network, self._test, self.key(_TESTING, epoch)),
            )
        memory = Memory(_like(tracked, memory.tracked), _like(tested, memory.tested), tuple(best), memory.focus)
        return state._replace(memory=memory)

    def _correct(
        self, network: attacks.LogitsFn, part: tuple[np.ndarray, np.ndarray], key: jax.Array | None = None
    ) -> int:
        """How many images are classified correctly, under PGD-40 if there is a key."""
        attack = None if key is None else tracking_attack(replace(self._setting, setups=()))
        batch_size = self._setting.evaluation_batch
        return int(evaluation.correct(network, *part, attack=attack, key=key, batch_size=batch_size).sum())

    def craft(self, state: training.TrainState, epoch: int) -> training.TrainState:
        """PGD-40 on the whole focus set, with the averaged weights in evaluation mode."""
        assert self._focus is not None
        attack = tracking_attack(replace(self._setting, setups=()))
        images = evaluation.map_batches(
            lambda logits_fn, keys, images, labels: attack(keys, logits_fn, images, labels),
            logits_fn(self._model, state.averaged_variables),
            *self._focus,
            key=self.key(_CRAFTING, epoch),
            batch_size=self._setting.evaluation_batch,
        )
        focus = state.memory.focus
        return state._replace(memory=state.memory._replace(focus=focus._replace(crafted=_like(images, focus.crafted))))

    def result(self, state: training.TrainState) -> Trained:
        """What is kept of a finished run."""
        memory: Memory = state.memory
        last = flatten_dict(jax.tree.map(np.asarray, dict(state.averaged_variables)), sep="/")
        epochs = self._setup.epochs
        arrays = {f"epoch_{epochs}/{name}": array for name, array in last.items()}
        sets: dict[str, Any] = {}
        for number, (name, part) in enumerate(self._sets.items()):
            history = np.asarray(memory.tracked)[number]
            best_epoch = epochs - int(np.argmax(history[::-1]))
            best = flatten_dict(jax.tree.map(np.asarray, dict(memory.best[number])), sep="/")
            if best_epoch == epochs and not all(np.array_equal(best[path], last[path]) for path in last):
                raise RuntimeError(f"the last epoch is the best on {name}, but the best weights are not the last ones")
            arrays |= {f"epoch_{best_epoch}/{path}": array for path, array in best.items()}
            sets[name] = {
                "size": len(part[1]),
                "correct": history.tolist(),
                "best_epoch": best_epoch,
            }
        tested = np.asarray(memory.tested)
        measured = np.flatnonzero(tested[:, 0] >= 0)
        test = {
            "images": len(self._test[1]),
            "epochs": (measured + 1).tolist(),
            "clean": tested[measured, 0].tolist(),
            "pgd": tested[measured, 1].tolist(),
        }
        return Trained({"epochs": epochs, "sets": sets, "test": test}, arrays)


def _like(value: np.ndarray, old: jax.Array) -> jax.Array:
    """A value in place of another, on the same devices."""
    return jax.device_put(jnp.asarray(value, old.dtype), old.sharding)
