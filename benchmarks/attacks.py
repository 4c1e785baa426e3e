"""Overhead of PGD over the bare input gradients it is made of.

For an MLP and a CNN it times, in one process and on the same batch:

* ``bare``: 20 calls of one jitted input gradient from Python;
* ``PGD-20``: the attack, whose loop the driver chooses;
* on CPU also the attack of the CNN inside ``lax.fori_loop``, which is why the driver does not choose it there.

The ratio PGD-20 / bare is to be at most 1.10. Rounds of both are interleaved and the median of their ratios is
reported, so that a change of the machine's speed does not decide; a network has its rounds for at least ``--seconds``.

    python benchmarks/attacks.py [--seconds 40] [--batch 128]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import Linf, attacks, losses, models

STEPS = 20
NETWORKS = {
    "mlp": (lambda: models.MLP(classes=10, widths=(256, 256)), (28, 28, 1)),
    "cnn4": (lambda: models.CNN4(classes=10), (28, 28, 1)),
}


def seconds(function: Callable[[], jax.Array]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


def measure(name: str, least_seconds: float, batch: int) -> dict[str, float | str]:
    make, shape = NETWORKS[name]
    model = make()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(batch, *shape)), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=batch), jnp.int32)
    variables = model.init(jax.random.key(0), images)
    logits_fn = functools.partial(model.apply, variables)
    key = jax.random.key(1)

    @jax.jit
    def gradient(variables, images, labels):
        return jax.grad(lambda x: losses.cross_entropy(model.apply(variables, x), labels).sum())(images)

    def bare():
        for _ in range(STEPS):
            result = gradient(variables, images, labels)
        return result

    attack = attacks.pgd(Linf(0.1), steps=STEPS)
    in_lax = attacks.pgd(Linf(0.1), steps=STEPS, mode="lax")
    runs = {"bare": bare, "pgd": lambda: attack(key, logits_fn, images, labels)}
    compiling = {run: seconds(function) for run, function in runs.items()}
    times: dict[str, list[float]] = {run: [] for run in runs}
    begin = time.perf_counter()
    while time.perf_counter() - begin < least_seconds:
        for run, function in runs.items():
            times[run].append(seconds(function))
    ratios = [a / b for a, b in zip(times["pgd"], times["bare"], strict=True)]
    result: dict[str, float | str] = {
        "network": name,
        "rounds": len(ratios),
        "bare_ms": 1e3 * statistics.median(times["bare"]),
        "pgd_ms": 1e3 * statistics.median(times["pgd"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "first_call_seconds": compiling["pgd"],
    }
    if jax.default_backend() == "cpu" and name == "cnn4":
        lax_run = lambda: in_lax(key, logits_fn, images, labels)  # noqa: E731
        seconds(lax_run)
        result["pgd_in_fori_loop_ms"] = 1e3 * min(seconds(lax_run) for _ in range(3))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    print(json.dumps({"backend": jax.default_backend(), "jax": jax.__version__, "batch": arguments.batch}))
    for name in NETWORKS:
        result = measure(name, arguments.seconds, arguments.batch)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
