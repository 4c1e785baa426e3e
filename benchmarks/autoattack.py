"""What AutoAttack costs beside the bare forward and backward passes that it is made of.

For the reference folder's MLP and CNN, on one batch of 200 images, it times

* each run of each attack of the standard version (one target of APGD-T and FAB-T), without compilation;
* as many calls of one jitted forward pass, and of one jitted forward pass with input gradient, as the run needs by
  its published count, from Python on the same batch;
* the whole cascade, in batches of ``--batch-size``, against the bare passes of all batches that it ran. The last batch of a
  stage is filled up with copies: "filled" says how many times the passes are that the points alone would need;
* where PyTorch is installed, and with --torch, the same passes there, on the same weights.

The ratio is to be at most 1.25. Rounds of both are interleaved, and the median of their ratios is reported.

    python benchmarks/autoattack.py [--norm Linf] [--networks mlp_plain cnn_pgd] [--rounds 5] [--queries 500]
        [--batch-size 40] [--parts attacks cascade] [--torch]

Square is timed over a part of its queries, of which every one is alike: ``--queries``.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from reference_networks import Network, load, verdicts

import jaxrobust
from jaxrobust import attacks, losses
from jaxrobust.attacks._auto_attack import _run, _stages
from jaxrobust.batching import Batch
from jaxrobust.iteration import Closure
from jaxrobust.random import example_keys


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


@jax.jit
def forward(logits_fn: Closure, images: jax.Array) -> jax.Array:
    return logits_fn(images)


@jax.jit
def forward_and_backward(logits_fn: Closure, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(images)
        return losses.cross_entropy(logits, labels).sum(), logits

    return jax.grad(total, has_aux=True)(images)


def bare(logits_fn: Closure, images: jax.Array, labels: jax.Array, passes: tuple[int, int]) -> object:
    """``passes``: forward passes in all, and how many of them are followed by a backward pass."""
    result: object = None
    for _ in range(passes[1]):
        result = forward_and_backward(logits_fn, images, labels)
    for _ in range(passes[0] - passes[1]):
        result = forward(logits_fn, images)
    return result


def show(record: dict[str, object]) -> None:
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}), flush=True)


def torch_passes(network: Network, name: str, passes: tuple[int, int], threads: int) -> Callable[[], None]:
    import torch

    torch.set_num_threads(threads)
    images = torch.tensor(np.moveaxis(network.images, -1, 1).copy())
    labels = torch.tensor(network.labels.astype(np.int64))
    w = {k: torch.tensor(np.moveaxis(np.asarray(v), (-1, -2), (0, 1)).copy() if v.ndim > 1 else np.asarray(v).copy())
         for k, v in network.weights.items()}  # fmt: skip

    def logits_fn(x: torch.Tensor) -> torch.Tensor:
        relu, linear = torch.relu, torch.nn.functional.linear
        if name.startswith("cnn"):
            for layer in ("0", "2"):
                x = relu(torch.nn.functional.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], stride=2, padding=1))
            return linear(relu(linear(x.flatten(1), w["5.weight"], w["5.bias"])), w["7.weight"], w["7.bias"])
        for layer in ("1", "3"):
            x = relu(linear(x.flatten(1), w[f"{layer}.weight"], w[f"{layer}.bias"]))
        return linear(x, w["5.weight"], w["5.bias"])

    def run() -> None:
        for _ in range(passes[1]):
            x = images.clone().requires_grad_()
            torch.autograd.grad(torch.nn.functional.cross_entropy(logits_fn(x), labels, reduction="sum"), x)
        with torch.no_grad():
            for _ in range(passes[0] - passes[1]):
                logits_fn(images)

    return run


def measure(name: str, norm: str, rounds: int, queries: int, with_torch: bool) -> None:
    network, reference = load(name), verdicts(name, norm)
    threat = getattr(jaxrobust, norm)(float(reference["eps"]))
    correct = np.flatnonzero(reference["clean"])
    rows = np.resize(correct, 200)  # correctly classified points only, as the cascade attacks them
    images, labels = jnp.asarray(network.images[rows]), jnp.asarray(network.labels[rows])
    closure, keys = Closure(network.logits_fn), example_keys(jax.random.key(0), len(rows))
    _stages.QUERIES = queries
    chosen = _stages.settings(threat, "standard", None)
    plan, _ = _stages.stages(chosen, threat, 10, images.shape[1:])
    first = {stage.attack: stage for stage in reversed(plan)}
    targets = jnp.where(labels == 0, 1, 0)
    for stage in sorted(first.values(), key=plan.index):
        aim = targets if stage.target is not None else None
        run = functools.partial(stage.run, threat, closure, keys, images, labels, aim)
        needed = functools.partial(bare, closure, images, labels, stage.passes)
        compilation = seconds(run) - seconds(run)
        jax.block_until_ready(needed())
        peer = torch_passes(network, name, stage.passes, 2) if with_torch else None
        pairs = []
        for _ in range(rounds):
            ours, passes = seconds(run), seconds(needed)
            pairs.append((ours, passes, seconds(peer) if peer is not None else float("nan")))
        ours, passes, torch_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
        record = {
            "network": name,
            "norm": norm,
            "attack": stage.attack,
            "forward": stage.passes[0],
            "backward": stage.passes[1],
            "attack_ms": 1e3 * ours,
            "bare_ms": 1e3 * passes,
            "attack / bare": statistics.median(a / b for a, b, _ in pairs),
            "compile_s": compilation,
        }
        if with_torch:
            record["torch_passes_ms"] = 1e3 * torch_seconds
            record["attack / torch"] = statistics.median(a / c for a, _, c in pairs)
        show(record)


def cascade(name: str, norm: str, batch_size: int, rounds: int) -> None:
    """The whole standard version, compiled before, against the bare passes of the batches that it ran."""
    _stages.QUERIES = 5000
    network, reference = load(name), verdicts(name, norm)
    threat = getattr(jaxrobust, norm)(float(reference["eps"]))
    run: list[tuple[int, int]] = []  # the passes of every batch

    class Counted(_run._Evaluation):
        def _attack(self, stage: _stages.Stage, row: int, batch: Batch) -> None:
            run.append((stage.passes[0] + 1, stage.passes[1]))
            super()._attack(stage, row, batch)

    evaluate = attacks.auto_attack(threat, batch_size=batch_size)
    arguments = (jax.random.key(0), network.logits_fn, network.images, network.labels)
    begin = time.perf_counter()
    with mock.patch.object(_run, "_Evaluation", Counted):
        result = evaluate(*arguments)
    cold = time.perf_counter() - begin
    forward, backward = (sum(column) for column in zip(*run, strict=True))
    needed_by_points = result.passes.forward.sum() - len(network.images)  # without the clean images'
    images, labels = jnp.asarray(network.images[:batch_size]), jnp.asarray(network.labels[:batch_size])
    passes = functools.partial(bare, Closure(network.logits_fn), images, labels)
    jax.block_until_ready(passes((2, 1)))
    needed = functools.partial(passes, (forward, backward))
    pairs = [(seconds(lambda: evaluate(*arguments).robust), seconds(needed)) for _ in range(rounds)]
    warm, bare_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    record = {
        "network": name,
        "norm": norm,
        "attack": f"standard, batches of {batch_size}",
        "robust": result.robust_accuracy,
        "cascade_s": warm,
        "with_compilation_s": cold,
        "bare_s": bare_seconds,
        "filled": forward * batch_size / needed_by_points,
        "cascade / bare": statistics.median(a / b for a, b in pairs),
    }
    show(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mlp_plain", "cnn_pgd"])
    parser.add_argument("--norm", default="Linf", choices=["Linf", "L2", "L1"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=40, help="of the whole cascade")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["attacks", "cascade"], choices=["attacks", "cascade"])
    arguments = parser.parse_args()
    for name in arguments.networks:
        if "attacks" in arguments.parts:
            measure(name, arguments.norm, arguments.rounds, arguments.queries, arguments.torch)
        if "cascade" in arguments.parts:
            cascade(name, arguments.norm, arguments.batch_size, 3)


if __name__ == "__main__":
    main()
