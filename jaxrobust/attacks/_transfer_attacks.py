"""Attacks for transfer, as combinations of gradient estimators (model-alignment study, section 3.3)."""

from __future__ import annotations

from typing import Any

import jax

from jaxrobust import losses
from jaxrobust._types import Loss
from jaxrobust.threat import ThreatModel

from ._estimators import diverse_inputs, momentum, nesterov, scale_invariant, translation_invariant, variance_tuning
from ._gradients import GradientEstimator
from ._pgd import bim
from ._types import Attack


def _attack(
    threat: ThreatModel,
    gradient: GradientEstimator,
    steps: int,
    step_size: float | jax.Array,
    loss: Loss,
    targeted: bool,
) -> Attack:
    return bim(threat, steps=steps, step_size=step_size, loss=loss, gradient=gradient, targeted=targeted)  # type: ignore[arg-type]


def _step_size(threat: ThreatModel, steps: int, step_size: float | None) -> Any:
    return threat.eps / max(steps, 1) if step_size is None else step_size


def mi_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """MI-FGSM: :func:`bim` with :func:`momentum` (Dong et al., 2018).

    Args:
        threat: the norm ball; the published attacks are for ``Linf``.
        steps: gradient steps.
        step_size: ``eps / steps`` by default.
        decay: of the momentum.
        loss: what is maximised.
        targeted: ``labels`` are the classes to reach.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.mi_fgsm(Linf(8 / 255), steps=10)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    size = _step_size(threat, steps, step_size)
    return _attack(threat, momentum(decay=decay), steps, size, loss, targeted)


def ni_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """NI-FGSM: :func:`bim` with :func:`nesterov` (Lin et al., 2020). Arguments as for :func:`mi_fgsm`."""
    size = _step_size(threat, steps, step_size)
    return _attack(threat, nesterov(decay=decay, look_ahead=size), steps, size, loss, targeted)


def sini_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    copies: int = 5,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """SI-NI-FGSM: :func:`ni_fgsm` over :func:`scale_invariant` gradients (Lin et al., 2020)."""
    size = _step_size(threat, steps, step_size)
    gradient = nesterov(scale_invariant(copies=copies), decay=decay, look_ahead=size)
    return _attack(threat, gradient, steps, size, loss, targeted)


def vmi_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    samples: int = 5,
    beta: float = 1.5,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """VMI-FGSM: :func:`mi_fgsm` over :func:`variance_tuning` (Wang and He, 2021; ``samples=20`` there)."""
    size = _step_size(threat, steps, step_size)
    gradient = momentum(variance_tuning(threat=threat, samples=samples, beta=beta), decay=decay)
    return _attack(threat, gradient, steps, size, loss, targeted)


def vni_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    samples: int = 5,
    beta: float = 1.5,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """VNI-FGSM: :func:`ni_fgsm` over :func:`variance_tuning`, with the neighbours around the iterate."""
    size = _step_size(threat, steps, step_size)
    gradient = nesterov(variance_tuning(threat=threat, samples=samples, beta=beta), decay=decay, look_ahead=size)
    return _attack(threat, gradient, steps, size, loss, targeted)


def di_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 0.0,
    probability: float = 0.5,
    rate: float = 0.9,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """DI-FGSM: :func:`bim` through :func:`diverse_inputs` (Xie et al., 2019), with momentum where ``decay > 0``."""
    size = _step_size(threat, steps, step_size)
    gradient = momentum(diverse_inputs(probability=probability, rate=rate), decay=decay)
    return _attack(threat, gradient, steps, size, loss, targeted)


def ti_fgsm(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 0.0,
    probability: float = 0.5,
    rate: float = 0.9,
    kernel_size: int = 15,
    width: float = 3.0,
    loss: Loss = losses.cross_entropy,
    targeted: bool = False,
) -> Attack:
    """TI-FGSM: :func:`translation_invariant` gradients (Dong et al., 2019), through :func:`diverse_inputs`.

    The widespread implementations keep the input diversity on; ``probability=0`` is TI alone.
    """
    size = _step_size(threat, steps, step_size)
    smoothed = translation_invariant(
        diverse_inputs(probability=probability, rate=rate), kernel_size=kernel_size, width=width
    )
    return _attack(threat, momentum(smoothed, decay=decay), steps, size, loss, targeted)
