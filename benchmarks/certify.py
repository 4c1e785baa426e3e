"""Time and memory of certified margins beside auto_LiRPA 0.3, and how the cost of each method grows with the network.

First part: lower bounds of the ten margins of each image, within eps of the image and the box of pixels, for a fully connected
network (784-1024-10) and a convolutional one (two 4x4 convolutions with stride 2, 16 and 32 channels, and two dense layers,
100-10; 28x28 images), with the lines of Fast-Lin and of CROWN. Both programs have the same random weights. Networks with few
unstable units are what auto_LiRPA's sparse bounds are for: that is the second, small eps. By program:

* ``jaxrobust``: ``certify.margins``;
* ``auto_LiRPA lower``: its defaults (patches, sparse intermediate bounds), with lower bounds alone;
* ``auto_LiRPA``: its defaults, with both sides;
* ``auto_LiRPA dense``: lower bounds alone, every intermediate bound by CROWN (no sparse ones), as for jaxrobust;
* ``auto_LiRPA flat``: as the first, of the fully connected network alone, without the layer that flattens images. That layer, which
  users' modules have, takes auto_LiRPA most of its time.

``forward`` and ``gradient`` are jaxrobust's bare passes of the same network: logits, and the gradient of a loss by the images.

Second part: the methods of jaxrobust on deeper and wider networks, fully connected (784 inputs) and convolutional (3x3 on
28x28 images, the first with stride 2).

Each row is measured in a process of its own; ``--rounds`` times all programs of a case run in turn. Milliseconds are for one
batch, medians of the wall time, and in brackets the CPU time of all cores, which tells more on a busy machine. The first call
includes compilation, or the construction of auto_LiRPA's module. Peak is the largest resident set of the process, in brackets
what of it was there before: imports, weights and images. "Differs" is the largest difference from jaxrobust's bounds, relative
to the largest of them; sparse bounds differ by design.

    python benchmarks/certify.py [--parts peers growth] [--batches 10 100] [--rounds 2] [--seconds 5] [--quick]

Without auto_LiRPA (``pip install --no-deps auto_LiRPA==0.3``, beside PyTorch) its rows are left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
METHODS = {"fast-lin": "same-slope", "crown": "adaptive"}
"""Our name, and auto_LiRPA's of the lower slope of ReLU."""
FLAT = "auto_LiRPA flat"
PEERS: dict[str, tuple[dict[str, Any], bool]] = {
    "auto_LiRPA lower": ({}, False),
    "auto_LiRPA": ({}, True),
    "auto_LiRPA dense": ({"sparse_intermediate_bounds": False}, False),
    FLAT: ({}, False),
}
"""Options, and whether upper bounds are computed too."""
GROWTH = ("interval", "crown-interval", "fast-lin", "crown", "alpha-crown")

Layer = tuple[int, ...]
"""``(features,)`` of a dense layer, ``(channels, kernel, stride, padding)`` of a convolution."""


def layers_of(name: str) -> Sequence[Layer]:
    """``"fc1"``, ``"cnn"``, or hidden layers and their size: ``"mlp 3x256"``, ``"conv 3x16"``."""
    if name == "fc1":
        return [(1024,), (CLASSES,)]
    if name == "cnn":
        return [(16, 4, 2, 1), (32, 4, 2, 1), (100,), (CLASSES,)]
    kind, size = name.split()
    depth, width = map(int, size.split("x"))
    if kind == "mlp":
        return [*[(width,)] * depth, (CLASSES,)]
    return [(width, 3, 2, 1), *[(width, 3, 1, 1)] * (depth - 1), (CLASSES,)]


def weights_of(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random weights and biases; kernels as ``[height, width, inputs, outputs]``, dense ones for flattened NHWC."""
    rng, found = np.random.default_rng(0), []
    shape: tuple[int, ...] = (28, 28, 1)
    for layer in layers_of(name):
        if len(layer) == 1:
            inputs = int(np.prod(shape))
            size: tuple[int, ...] = (inputs, layer[0])
            shape = (layer[0],)
        else:
            channels, kernel, stride, padding = layer
            inputs = kernel * kernel * shape[-1]
            size = (kernel, kernel, shape[-1], channels)
            shape = (*((n + 2 * padding - kernel) // stride + 1 for n in shape[:2]), channels)
        weights = rng.normal(size=size) * np.sqrt(2 / inputs)
        found.append((weights.astype(np.float32), 0.1 * rng.normal(size=size[-1]).astype(np.float32)))
    return found


def data(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.uniform(size=(batch, 28, 28, 1)).astype(np.float32), rng.integers(CLASSES, size=batch)


def jaxrobust(name: str, images: np.ndarray, labels: np.ndarray, eps: float, method: str) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    from jaxrobust import Linf, certify, losses

    def apply(weights, x):
        for index, (layer, (kernel, bias)) in enumerate(zip(layers_of(name), weights, strict=True)):
            if len(layer) == 1:
                x = x.reshape(len(x), -1) @ kernel + bias
            else:
                _, _, stride, padding = layer
                x = bias + jax.lax.conv_general_dilated(
                    x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            x = jax.nn.relu(x) if index < len(weights) - 1 else x
        return x

    logits_fn = functools.partial(apply, jax.tree.map(jnp.asarray, weights_of(name)))
    x, y = jnp.asarray(images), jnp.asarray(labels, jnp.int32)
    if method == "forward":
        forward = jax.jit(apply)
        return lambda: np.asarray(forward(*logits_fn.args, x))
    if method == "gradient":
        gradient = jax.jit(jax.grad(lambda x, weights: losses.cross_entropy(apply(weights, x), y).sum()))
        return lambda: np.asarray(gradient(x, *logits_fn.args))
    return lambda: np.asarray(certify.margins(logits_fn, x, y, Linf(eps), method=method))


def auto_lirpa(
    name: str, images: np.ndarray, labels: np.ndarray, eps: float, method: str, program: str
) -> Callable[[], np.ndarray]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
    import _auto_lirpa as lirpa
    import torch

    options, both = PEERS[program]
    defaults = {"conv_mode": "patches", "sparse_intermediate_bounds": True, "sparse_features_alpha": True}
    modules: list[Any] = []
    feature_map: tuple[int, ...] | None = (28, 28, 1)
    for layer, (kernel, bias) in zip(layers_of(name), weights_of(name), strict=True):
        if len(layer) == 1:
            if feature_map is not None:  # PyTorch flattens with the channels first
                if program == FLAT:
                    images = images.reshape(len(images), -1)
                else:
                    modules.append(torch.nn.Flatten())
                kernel = np.moveaxis(kernel.reshape(*feature_map, -1), 2, 0).reshape(kernel.shape)
                feature_map = None
            module: Any = torch.nn.Linear(*kernel.shape)
            kernel = kernel.T
        else:
            channels, size, stride, padding = layer
            module = torch.nn.Conv2d(kernel.shape[2], channels, size, stride, padding)
            kernel = kernel.transpose(3, 2, 0, 1)
            assert feature_map is not None
            feature_map = (*((n + 2 * padding - size) // stride + 1 for n in feature_map[:2]), channels)
        module.weight.data, module.bias.data = torch.tensor(kernel.copy()), torch.tensor(bias)
        modules += [module, torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1])
    rows = torch.eye(CLASSES)[torch.tensor(labels)][:, None] - torch.eye(CLASSES)
    x = lirpa.perturbed(images, np.inf, eps, 0.0, 1.0)
    bounded: list[Any] = []

    def compute() -> np.ndarray:
        if not bounded:
            bounded.append(lirpa.bounded_module(network, images, relu=METHODS[method], **{**defaults, **options}))
        with torch.no_grad():
            return bounded[0].compute_bounds(x=(x,), C=rows, method="CROWN", bound_upper=both)[0].numpy()

    return compute


def mebibytes() -> float:
    """The largest resident set since the program began. Linux; ``ru_maxrss`` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(program: str, name: str, batch: int, eps: float, method: str, seconds: float, output: str) -> None:
    """The measured process."""
    arguments = (name, *data(batch), eps, method)
    compute = jaxrobust(*arguments) if program == "jaxrobust" else auto_lirpa(*arguments, program)
    before, begin = mebibytes(), time.perf_counter()
    np.save(output, compute())
    first = time.perf_counter() - begin
    wall: list[float] = []
    cpu: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(wall) < 3:
        start = time.perf_counter(), time.process_time()
        compute()
        wall.append(1e3 * (time.perf_counter() - start[0]))
        cpu.append(1e3 * (time.process_time() - start[1]))
    result = {"wall": wall, "cpu": cpu, "first": first, "peak": mebibytes(), "before": before}
    print(json.dumps(result))


def run(folder: str, seconds: float, program: str, *case: str | int | float) -> tuple[dict[str, Any], np.ndarray]:
    output = str(Path(folder, "bounds.npy"))
    command = [sys.executable, __file__, "--one", program, *map(str, case), str(seconds), output]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), np.load(output)


def peers(arguments: argparse.Namespace, folder: str, programs: list[str]) -> None:
    print(
        "| network | eps | batch | method | program | ms (CPU) | / ours | peak, MiB (before) | first call, s | differs |"
    )
    print("|---|---:|---:|---|---|---:|---:|---:|---:|---:|", flush=True)
    for name in arguments.networks:
        known = [program for program in programs if program != FLAT or name == "fc1"]
        for eps in (0.1, 0.01):
            for batch in arguments.batches:
                for method in ("forward", "gradient") if eps == 0.1 else ():
                    result, _ = run(folder, arguments.seconds, "jaxrobust", name, batch, eps, method)
                    print(f"| {name} | | {batch} | {method} | jaxrobust | {times(result)} | | | |", flush=True)
                for method in METHODS:
                    in_turn(arguments, folder, known, (name, batch, eps, method))


def in_turn(arguments: argparse.Namespace, folder: str, programs: list[str], case: tuple[str, int, float, str]) -> None:
    found: dict[str, list[tuple[dict[str, Any], np.ndarray]]] = {program: [] for program in programs}
    for _ in range(arguments.rounds):
        for program in programs:
            found[program].append(run(folder, arguments.seconds, program, *case))
    name, batch, eps, method = case
    own = median(found["jaxrobust"], "wall"), found["jaxrobust"][0][1]
    for program, rounds in found.items():
        merged = {key: [x for result, _ in rounds for x in result[key]] for key in ("wall", "cpu")}
        peak, first = max(result["peak"] for result, _ in rounds), min(result["first"] for result, _ in rounds)
        differs = np.abs(rounds[0][1] - own[1]).max() / np.abs(own[1]).max()
        print(
            f"| {name} | {eps} | {batch} | {method} | {program} | {times(merged)} | {median(rounds, 'wall') / own[0]:.2f} "
            f"| {peak:.0f} ({rounds[0][0]['before']:.0f}) | {first:.1f} | {differs:.0e} |",
            flush=True,
        )


def median(rounds: list[tuple[dict[str, Any], np.ndarray]], key: str) -> float:
    return statistics.median(x for result, _ in rounds for x in result[key])


def times(result: dict[str, Any]) -> str:
    wall, cpu = statistics.median(result["wall"]), statistics.median(result["cpu"])
    return f"{wall:.1f} ({cpu:.1f})" if wall < 100 else f"{wall:.0f} ({cpu:.0f})"


def growth(arguments: argparse.Namespace, folder: str) -> None:
    kinds = {
        "mlp": [(depth, 256) for depth in (1, 2, 3, 4, 6)] + [(3, width) for width in (64, 128, 512, 1024)],
        "conv": [(depth, 8) for depth in (1, 2, 3, 4)] + [(2, channels) for channels in (16, 32)],
    }
    if arguments.quick:
        kinds = {"mlp": [(1, 64), (2, 64)], "conv": [(1, 4)]}
    batch = 10
    print(f"ms for a batch of {batch} (CPU ms); peak MiB; seconds of the first call\n")
    print(f"| network | forward | {' | '.join(GROWTH)} |")
    print(f"|---|---:|{'---:|' * len(GROWTH)}", flush=True)
    for kind, sizes in kinds.items():
        for depth, width in sizes:
            name = f"{kind} {depth}x{width}"
            cells = []
            for method in ("forward", *GROWTH):
                result, _ = run(folder, arguments.seconds / 2, "jaxrobust", name, batch, 0.1, method)
                cell = times(result)
                cells.append(cell if method == "forward" else f"{cell}; {result['peak']:.0f}; {result['first']:.1f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["peers", "growth"], choices=["peers", "growth"])
    parser.add_argument("--networks", nargs="+", default=["fc1", "cnn"], choices=["fc1", "cnn"])
    parser.add_argument("--programs", nargs="+", default=list(PEERS), choices=PEERS, help="beside jaxrobust")
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="least time for each row and round")
    parser.add_argument("--quick", action="store_true", help="small batches and networks, a minute or two")
    parser.add_argument("--one", nargs=7, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        program, name, batch, eps, method, seconds, output = arguments.one
        measure(program, name, int(batch), float(eps), method, float(seconds), output)
        return
    if arguments.quick:
        arguments.batches, arguments.rounds, arguments.seconds = [2], 1, 0.2
    programs = ["jaxrobust"]
    if all(importlib.util.find_spec(package) for package in ("torch", "auto_LiRPA")):
        programs += arguments.programs
    else:
        print("PyTorch and auto_LiRPA 0.3 are not installed: jaxrobust alone\n")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the beginning\n")
    with tempfile.TemporaryDirectory() as folder:
        if "peers" in arguments.parts:
            peers(arguments, folder, programs)
        if "growth" in arguments.parts:
            print()
            growth(arguments, folder)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
