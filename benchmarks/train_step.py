"""Cost of an adversarial training step over the bare gradients that it is made of.

For each network and method, in one process and on the same batch:

* ``bare``: separately jitted calls from Python: as many input gradients as the attack makes, and one parameter gradient
  of the loss (for TRADES also the clean forward pass before the attack, and a loss on clean and adversarial images);
* ``step``: the jitted training step with augmentation left out: attack, gradient, Nesterov momentum with weight decay,
  averaging of the parameters.

The ratio step / bare is to be at most 1.05. Rounds of both are interleaved and the median of their ratios is reported.
``images_per_second`` and, with ``--peak-tflops``, the model FLOPs utilisation are those of the step: XLA counts the
FLOPs of the bare gradients. ``--torch`` adds the same PGD step in PyTorch (channels last; on GPU with autocast for
bfloat16 and torch.compile) on a network of the same structure.

    python benchmarks/train_step.py [--networks mlp small_cnn wrn_16_1] [--methods pgd trades] [--seconds 20]
    python benchmarks/train_step.py --networks wrn_28_10 --batch 512 --precision float32 bfloat16 --peak-tflops 989 --torch
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import Linf, attacks, losses, models, optimizers, training

STEPS, EPS, STEP_SIZE = 10, 8 / 255, 2 / 255
NETWORKS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "mlp": (functools.partial(models.MLP, widths=(512, 512)), (28, 28, 1)),
    "small_cnn": (functools.partial(models.SmallCNN, features=(32, 64), batch_norm=True), (32, 32, 3)),
    "wrn_16_1": (functools.partial(models.WideResNet, depth=16, width=1), (32, 32, 3)),
    "wrn_28_10": (models.WideResNet, (32, 32, 3)),
}


def seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


class Case:
    """One network and method: its step and its bare gradients."""

    def __init__(self, network: str, method: str, precision: str, batch: int) -> None:
        make, shape = NETWORKS[network]
        self.model = make(classes=10, dtype=jnp.dtype(precision))
        rng = np.random.default_rng(0)
        self.images = jnp.asarray(rng.uniform(size=(batch, *shape)), jnp.float32)
        self.labels = jnp.asarray(rng.integers(10, size=batch), jnp.int32)
        self.apply = training.linen_apply(self.model)
        threat, averaging = Linf(EPS), training.ema(0.995)
        rate = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "weight_decay_mask": models.decay_mask}
        optimizer = optimizers.sgd(1e-3, **rate)
        if method == "pgd":
            objective = training.adversarial(attacks.pgd(threat, steps=STEPS, step_size=STEP_SIZE))
        else:
            objective = training.trades(attacks.trades_pgd(threat, steps=STEPS, step_size=STEP_SIZE), beta=5.0)
        self.state = training.init_state(self.model, jax.random.key(0), self.images, optimizer, averaging=averaging)
        self.variables = jax.tree.map(jnp.copy, self.state.variables)  # the step donates its own
        step = training.make_train_step(self.apply, objective, optimizer, averaging=averaging)
        self._step = jax.jit(step, donate_argnums=0)
        self._parts = self._pgd_parts() if method == "pgd" else self._trades_parts()

    def step(self) -> Any:
        """One training step."""
        self.state, metrics = self._step(self.state, {"images": self.images, "labels": self.labels})
        return self.state, metrics

    def bare(self) -> Any:
        """The gradients of one step, without the step."""
        return [part(self.variables, self.images) for part, count in self._parts for _ in range(count)]

    def flops(self) -> float:
        """Of one step, by XLA's cost analysis of the bare gradients."""
        total = 0.0
        for part, count in self._parts:
            analysis = part.lower(self.variables, self.images).compile().cost_analysis()
            total += count * (analysis or {}).get("flops", float("nan"))
        return total

    def _logits(self, variables: Any, images: jax.Array, train: bool = False) -> Any:
        return self.apply(variables, images, train=train)

    def _pgd_parts(self) -> list[tuple[Any, int]]:
        def loss(variables: Any, images: jax.Array) -> jax.Array:
            return losses.cross_entropy(self._logits(variables, images)[0], self.labels).sum()

        def objective(params: Any, variables: Any, images: jax.Array) -> Any:
            logits, state = self._logits({**variables, "params": params}, images, train=True)
            return losses.cross_entropy(logits, self.labels).mean(), state

        return [(jax.jit(jax.grad(loss, 1)), STEPS), (_parameter_gradient(objective), 1)]

    def _trades_parts(self) -> list[tuple[Any, int]]:
        clean = jax.jit(lambda variables, images: self._logits(variables, images)[0])
        reference = clean(self.variables, self.images)

        def divergence(variables: Any, images: jax.Array) -> jax.Array:
            return losses.kl_divergence(reference, self._logits(variables, images)[0]).sum()

        def objective(params: Any, variables: Any, images: jax.Array) -> Any:
            logits, state = self._logits({**variables, "params": params}, images, train=True)
            moved, state = self._logits({"params": params, **state}, images + 0.01, train=True)
            value = losses.cross_entropy(logits, self.labels) + 5.0 * losses.kl_divergence(logits, moved)
            return value.mean(), state

        return [(clean, 1), (jax.jit(jax.grad(divergence, 1)), STEPS), (_parameter_gradient(objective), 1)]


def _parameter_gradient(objective: Callable[..., Any]) -> Any:
    return jax.jit(lambda variables, images: jax.grad(objective, has_aux=True)(variables["params"], variables, images))


def measure(network: str, method: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    case = Case(network, method, precision, arguments.batch)
    runs = {"bare": case.bare, "step": case.step}
    first = {name: seconds(function) for name, function in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    while time.perf_counter() - begin < arguments.seconds or len(times["step"]) < 5:
        for name, function in runs.items():
            times[name].append(seconds(function))
    ratios = [step / bare for step, bare in zip(times["step"], times["bare"], strict=True)]
    step = statistics.median(times["step"])
    result = {
        "network": network,
        "method": method,
        "precision": precision,
        "batch": arguments.batch,
        "rounds": len(ratios),
        "bare_ms": 1e3 * statistics.median(times["bare"]),
        "step_ms": 1e3 * step,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "images_per_second": arguments.batch / step,
        "first_step_seconds": first["step"],
    }
    if arguments.peak_tflops:
        result["flops_utilisation"] = case.flops() / step / (1e12 * arguments.peak_tflops)
    if arguments.torch and method == "pgd" and isinstance(case.model, models.WideResNet):
        torch_step = torch_pgd(case.model, precision, arguments.batch)
        for _ in range(3):
            torch_step()
        result["torch_step_ms"] = 1e3 * statistics.median(seconds(torch_step) for _ in range(10))
    return result


def torch_pgd(model: models.WideResNet, precision: str, batch: int) -> Callable[[], None]:
    """A PGD training step of a wide residual network in PyTorch; it returns when the device is done."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.norm_0, self.norm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            o = functional.silu(self.norm_0(x))
            y = self.conv_1(functional.silu(self.norm_1(self.conv_0(o))))
            return y + (x if self.shortcut is None else self.shortcut(o))

    blocks, channels = [], 16
    for group, width in enumerate((16, 32, 64)):
        for number in range((model.depth - 4) // 6):
            blocks.append(Block(channels, width * model.width, 2 if group and not number else 1))
            channels = width * model.width
    stem, head = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Linear(channels, 10)
    end = (nn.BatchNorm2d(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = nn.Sequential(stem, *blocks, *end).to(device, memory_format=torch.channels_last)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        network = torch.compile(network)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def step() -> None:
        network.eval()
        moved = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        for _ in range(STEPS):
            moved.requires_grad_(True)
            with half:
                loss = functional.cross_entropy(network(moved).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                moved = moved + STEP_SIZE * gradient.sign()
                moved = torch.max(torch.min(moved, images + EPS), images - EPS).clamp(0, 1)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = functional.cross_entropy(network(moved.detach()).float(), labels)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "small_cnn", "wrn_16_1"])
    parser.add_argument("--methods", nargs="+", choices=("pgd", "trades"), default=["pgd", "trades"])
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20, help="at least, for each network, method and precision")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision, for the utilisation")
    parser.add_argument("--torch", action="store_true", help="the same PGD step of wide residual networks in PyTorch")
    arguments = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(json.dumps({"backend": jax.default_backend(), "device": device, "jax": jax.__version__}))
    for network in arguments.networks:
        for method in arguments.methods:
            for precision in arguments.precision:
                result = measure(network, method, precision, arguments)
                shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
                print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
