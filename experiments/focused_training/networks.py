"""The study's cells: trained networks, what AutoAttack makes of them, and whether monitoring leaves them alone."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from experiments.study import Run, create_model, load_dataset, logits_fn
from jaxrobust import attacks, data, training
from jaxrobust.reporting import CommandError

from . import focus, recipe, trainer
from .presets import Setting
from .setups import Setup


class Networks:
    """Trains and attacks what is not on disk yet.

    Args:
        run: the study's folder.
        data_dir: TFDS folder, or ``None`` for the default.
        generated: a setting's file of generated images, or ``None``.
    """

    def __init__(
        self,
        run: Run,
        data_dir: Path | None = None,
        generated: Callable[[Setting], Path | None] = lambda setting: None,
    ) -> None:
        self.run, self._data_dir, self._generated = run, data_dir, generated

    def prepare(self, setting: Setting) -> None:
        """Load what the setting needs, so that what is missing or does not fit is noticed before any work.

        Raises:
            CommandError: for a data set or a file that cannot be read, or a batch that cannot be divided.
        """
        self.dataset(setting)
        self.model(setting)
        self.generated(setting)
        parts = jax.local_device_count() * setting.accumulate
        for setup in setting.setups:
            for rows in (setup.ordinary, setup.batch_size):
                if rows % parts:
                    raise CommandError(
                        f"{setting.name}, {setup}: {rows} images per batch cannot be divided among "
                        f"{jax.local_device_count()} devices in --accumulate {setting.accumulate} parts"
                    )
            if setup.focus_per_batch % jax.local_device_count():
                raise CommandError(
                    f"{setting.name}, {setup}: {setup.focus_per_batch} focus images per batch cannot be divided among "
                    f"{jax.local_device_count()} devices"
                )

    def dataset(self, setting: Setting) -> data.Dataset:
        """The setting's images, loaded once for all settings that share them."""
        return self._dataset(setting.dataset, setting.pooled_test, setting.subset)

    @functools.cache  # noqa: B019 - one object for the life of a study
    def _dataset(self, name: str, pooled_test: int | None, subset: int | None) -> data.Dataset:
        return load_dataset(name, self._data_dir, pooled_test=pooled_test, subset=subset)

    @functools.cache  # noqa: B019 - one object for the life of a study
    def generated(self, setting: Setting) -> data.Generated | None:
        """The setting's generated images, mapped from disk."""
        file = self._generated(setting)
        if file is None:
            return None
        dataset = self.dataset(setting)
        try:
            images, labels = data.open_npz(file, num_classes=dataset.num_classes)
        except (ValueError, OSError) as error:
            raise CommandError(f"--generated: {error}") from error
        if images.shape[1:] != dataset.image_shape or images.dtype != dataset.train_images.dtype:
            raise CommandError(
                f"--generated: the images of {file} are {images.dtype} {images.shape[1:]}, those of {setting.dataset} "
                f"{dataset.train_images.dtype} {dataset.image_shape}"
            )
        return data.Generated(images, labels, setting.fraction)

    def model(self, setting: Setting) -> nn.Module:
        """The setting's network, untrained."""
        dataset = self.dataset(setting)
        return create_model(setting.model, dataset.num_classes, dataset.image_shape, setting.options)

    def sets(self, setting: Setting) -> focus.Sets:
        """The setting's sets of training images."""
        return focus.sets(self.run, setting, self.dataset(setting))

    def trained(self, setting: Setting, setup: Setup, seed: int) -> dict[str, Any]:
        """The cell of one network, which may serve several rows; see :func:`trainer.train` for what it holds."""
        sharing = [other for other in setting.setups if other.run == setup.run]
        monitored = tuple(dict.fromkeys(other.focus for other in sharing if other.focus is not None))
        name = f"train/{setting.name}/{setup.run}/{seed}"

        def compute() -> trainer.Trained:
            return self._train(setting, setup, monitored, seed, self.run.checkpoints(name))

        return self.run.cell(name, compute)

    def _train(
        self, setting: Setting, setup: Setup, monitored: tuple[str, ...], seed: int, directory: Path
    ) -> trainer.Trained:
        try:
            return trainer.train(
                setting,
                setup,
                self.model(setting),
                self.dataset(setting),
                self.sets(setting).members,
                monitored,
                seed,
                generated=self.generated(setting),
                directory=directory,
            )
        except (training.NonFiniteLossError, training.CheckpointError) as error:
            raise CommandError(f"{setting.name}, {setup}, seed {seed}: {error}") from error

    def logits_fn(self, setting: Setting, setup: Setup, seed: int, epoch: int) -> attacks.LogitsFn:
        """The averaged network after an epoch that is kept: the last, or the best on a set."""
        prefix = f"epoch_{epoch}/"
        arrays = self.trained(setting, setup, seed)["arrays"]
        variables = unflatten_dict(
            {
                name.removeprefix(prefix): jnp.asarray(array)
                for name, array in arrays.items()
                if name.startswith(prefix)
            },
            sep="/",
        )
        return logits_fn(self.model(setting), variables)

    def attacked(self, setting: Setting, setup: Setup, seed: int, epoch: int) -> dict[str, Any]:
        """The cell of AutoAttack on the test images: accuracies in per cent, and which images withstood it."""
        name = f"attack/{setting.name}/{setup.run}/{seed}/epoch_{epoch}"

        def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            dataset, part = self.dataset(setting), slice(setting.attacked)
            progress = self.run.checkpoints(name)
            evaluate = attacks.auto_attack(
                recipe.threat(setting, dataset.bounds),
                batch_size=setting.attack_batch,
                # A minute of AutoAttack is cheaper done again than kept.
                state=progress if setting.attacked is None else None,
                progress=False,
            )
            found = evaluate(
                jax.random.key(0),
                self.logits_fn(setting, setup, seed, epoch),
                dataset.test_images[part],
                dataset.test_labels[part],
            )
            shutil.rmtree(progress, ignore_errors=True)
            values = {
                "clean": found.clean_accuracy,
                "robust": found.robust_accuracy,
                "after": found.after,
                "images": len(found.robust),
                "warnings": list(found.warnings),
            }
            return values, {"robust": found.robust}

        return self.run.cell(name, compute)

    def monitor_check(self, setting: Setting, setup: Setup) -> dict[str, Any]:
        """The cell of the same training with another monitored set: are the last weights the same bits?"""
        seed, name = setup.seeds[0], f"monitor/{setting.name}/{setup.run}/{setup.seeds[0]}"

        def compute() -> dict[str, Any]:
            before = self.trained(setting, setup, seed)
            again = self._train(setting, setup, ("2s",), seed, self.run.checkpoints(name))
            paths = [path for path in again.arrays if path.startswith(f"epoch_{setup.epochs}/")]
            pairs = [(again.arrays[path], before["arrays"][path]) for path in paths]
            return {
                "before": list(before["sets"]),
                "again": list(again.values["sets"]),
                "identical": all(np.array_equal(a, b) for a, b in pairs),
                "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
                "weights": sum(a.size for a, _ in pairs),
            }

        return self.run.cell(name, compute)
