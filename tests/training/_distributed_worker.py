"""Trains two small networks for 20 steps on the devices of this process, or of several, and writes the parameters.

Run by test_distributed.py as a process of its own, because the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxrobust import Linf, attacks, batching, data, models, optimizers, training

STEPS, HALF, BATCH = 20, 10, 16


def train(batch_norm: bool, devices: int, folder: Path | None, steps: int) -> training.TrainState:
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(80, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 80)
    model, optimizer = models.SmallCNN(classes=3, batch_norm=batch_norm), optimizers.sgd(0.05, momentum=0.9)
    averaging = training.ema(0.9)
    objective = training.adversarial(attacks.pgd(Linf(0.05), steps=2))
    state = training.init_state(model, jax.random.key(0), images[:1], optimizer, averaging=averaging)
    step = training.make_train_step(training.linen_apply(model), objective, optimizer, averaging=averaging)
    shard = data.Shard(jax.process_index(), jax.process_count())

    def batches(start):
        return data.batches(images, labels, BATCH, seed=0, epochs=4, start_step=start, shard=shard)

    mesh = batching.data_mesh(jax.devices()[:devices])
    return training.fit(
        state, step, batches, steps=steps, directory=folder, checkpoint_every=HALF, mesh=mesh, progress=False
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, nargs="+", required=True, help="one run for each number of devices")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--port", type=int)
    parser.add_argument("--continue", dest="continued", action="store_true", help="finish the runs that were begun")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(arguments.devices) // arguments.processes)
    if arguments.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{arguments.port}", arguments.processes, arguments.index)
    for devices in arguments.devices:
        for batch_norm in (False, True):
            name = f"{arguments.processes}_processes_{devices}_devices_{'norm' if batch_norm else 'plain'}"
            begun = arguments.folder / f"half_{name}"
            if not arguments.continued:
                train(batch_norm, devices, begun, HALF)
            state = batching.local_copy(train(batch_norm, devices, begun if arguments.continued else None, STEPS))
            if arguments.index == 0:
                arrays = flatten_dict({**state.variables, "average": state.average.params}, sep="/")
                np.savez(arguments.folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
