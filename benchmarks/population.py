"""What a sweep of 8 learning rates x 3 seeds costs, trained as one population.

For an MLP and a small CNN on the bundled digits it times the sweep

* as one call of ``training.train_population`` in its automatic mode, and in the mode it did not choose;
* as 24 separate calls in the same process (each compiles its step anew, as 24 calls of a script's function would);
* as 24 processes, one after the other.

Times include compilation. Interpreter start and imports are part of the 24 processes alone.

    python benchmarks/population.py [--epochs 20] [--networks mlp small_cnn] [--skip-processes]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
import time

RATES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
SEEDS = (0, 1, 2)


def train(network: str, rates: list[float], seeds: list[int], epochs: int, mode: str) -> None:
    import jax

    from jaxrobust import data, models, optimizers, training

    digits = data.load("digits")
    model = models.create(network, classes=10, image_shape=digits.image_shape)
    population = training.train_population(
        model,
        digits.train_images,
        digits.train_labels,
        optimizer=functools.partial(optimizers.sgd),
        learning_rates=rates,
        seeds=seeds,
        epochs=epochs,
        mode=mode,
    )
    jax.block_until_ready(population.variables)


def seconds(function, *arguments) -> float:
    import jax

    jax.clear_caches()  # nothing is left to the second figure of what the first compiled
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--networks", nargs="+", default=["mlp", "small_cnn"])
    parser.add_argument("--skip-processes", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "RATE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        network, rate, seed = arguments.one
        train(network, [float(rate)], [int(seed)], arguments.epochs, "auto")
        return
    pairs = list(itertools.product(RATES, SEEDS))
    rates, seeds = (list(values) for values in zip(*pairs, strict=True))
    train("linear", [0.1], [0], 1, "auto")  # imports and first use are not part of any figure
    for network in arguments.networks:
        result: dict[str, float | str] = {
            "network": network,
            "epochs": arguments.epochs,
            "members": len(pairs),
        }
        for mode in ("auto", "together", "one_by_one"):
            result[f"{mode}_seconds"] = seconds(train, network, rates, seeds, arguments.epochs, mode)
        result["separate_seconds"] = seconds(
            lambda network=network: [train(network, [r], [s], arguments.epochs, "auto") for r, s in pairs]
        )
        result["separate / auto"] = result["separate_seconds"] / result["auto_seconds"]
        if not arguments.skip_processes:
            command = [sys.executable, __file__, "--epochs", str(arguments.epochs), "--one", network]
            result["processes_seconds"] = seconds(
                lambda command=command: [subprocess.run([*command, str(r), str(s)], check=True) for r, s in pairs]
            )
            result["processes / auto"] = result["processes_seconds"] / result["auto_seconds"]
        print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}), flush=True)


if __name__ == "__main__":
    main()
