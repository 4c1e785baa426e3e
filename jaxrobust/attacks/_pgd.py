"""Gradient attacks on the common loop: FGSM, BIM, PGD and multi-targeted PGD."""

from __future__ import annotations

import jax

from jaxrobust import losses
from jaxrobust._types import Loss
from jaxrobust.iteration import Mode
from jaxrobust.threat import ThreatModel

from ._gradients import GradientEstimator, plain
from ._loop import iterative, misclassified, search
from ._targets import highest_wrong_classes
from ._types import Attack
from ._updates import steepest_ascent


def _step_size(threat: ThreatModel, steps: int, step_size: float | None) -> float | jax.Array:
    return 2.5 * threat.eps / max(steps, 1) if step_size is None else step_size


def fgsm(
    threat: ThreatModel,
    *,
    loss: Loss = losses.cross_entropy,
    gradient: GradientEstimator | None = None,
    step_size: float | None = None,
    random_start: bool = False,
    targeted: bool = False,
) -> Attack:
    """Fast gradient sign method, and its analogue in other norms: one steepest step of length ``eps``.

    Source: Goodfellow et al., 2015. With ``random_start`` and ``step_size=1.25 * eps`` it is the FGSM of "Fast is
    better than free" (Wong et al., 2020). Cost: one forward and one backward pass.
    """
    return pgd(
        threat,
        steps=1,
        step_size=threat.eps if step_size is None else step_size,
        loss=loss,
        gradient=gradient,
        random_start=random_start,
        targeted=targeted,
    )


def bim(
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    loss: Loss = losses.cross_entropy,
    gradient: GradientEstimator | None = None,
    targeted: bool = False,
    keep_best: bool = False,
) -> Attack:
    """Basic iterative method: :func:`pgd` from the image itself (Kurakin et al., 2017)."""
    return pgd(
        threat,
        steps=steps,
        step_size=step_size,
        loss=loss,
        gradient=gradient,
        random_start=False,
        targeted=targeted,
        keep_best=keep_best,
    )


def pgd(
    threat: ThreatModel,
    *,
    steps: int = 20,
    step_size: float | None = None,
    loss: Loss = losses.cross_entropy,
    gradient: GradientEstimator | None = None,
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    keep_best: bool = False,
    mode: Mode = "auto",
) -> Attack:
    """Projected gradient descent: steepest ascent on the loss inside ball and box.

    ``x <- project(x + step_size * steepest(grad loss))``, Madry et al., 2018. Cost: ``steps`` forward and backward
    passes for each restart, plus one forward pass for each restart when ``restarts > 1`` or ``keep_best``.

    Args:
        threat: the norm ball, e.g. ``Linf(8 / 255)``.
        steps: gradient steps per restart.
        step_size: in the threat model's norm and the images' units; ``2.5 * eps / steps`` by default.
        loss: what is maximised; see :mod:`jaxrobust.losses`. Cross-entropy alone overestimates robustness even on
            linear models; ``losses.margin``, ``losses.dlr`` or :func:`multi_targeted_pgd` find more.
        gradient: gradient estimator, :func:`plain` by default.
        random_start: start uniformly in the ball.
        restarts: independent runs; per example the best result is kept.
        targeted: ``labels`` are the classes to reach and the loss is minimised.
        keep_best: return the best iterate instead of the last one, see :func:`iterative`.
        mode: how the loop runs, see :mod:`jaxrobust.iteration`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.pgd(Linf(8 / 255), steps=10, step_size=2 / 255)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> images = jnp.full((2, 2, 2, 1), 0.5)
        >>> adversarial = attack(jax.random.key(0), logits_fn, images, jnp.array([0, 1]))
        >>> bool(jnp.abs(adversarial - images).max() <= 8 / 255 + 1e-6)
        True
    """
    return iterative(
        threat,
        loss=loss,
        update=steepest_ascent(threat, _step_size(threat, steps, step_size)),
        steps=steps,
        gradient=gradient,
        random_start=random_start,
        restarts=restarts,
        targeted=targeted,
        keep_best=keep_best,
        mode=mode,
    )


def multi_targeted_pgd(
    threat: ThreatModel,
    *,
    steps: int = 20,
    step_size: float | None = None,
    targets: int | None = None,
    gradient: GradientEstimator | None = None,
    random_start: bool = False,
    mode: Mode = "auto",
) -> Attack:
    """PGD on the logit difference towards one wrong class after the other, keeping the best result per example.

    Restart ``k`` maximises ``z_t - z_y`` for the wrong class ``t`` of ``k``-th highest clean logit. On a linear
    model it is exact, where cross-entropy PGD is far from it (optimizer-robustness study, check 7.9-2). Source:
    Gowal et al., 2019 (MultiTargeted). Cost: ``targets * steps`` forward and backward and ``targets + 1`` forward
    passes.

    Args:
        threat: the norm ball.
        steps: gradient steps per target.
        step_size: ``2.5 * eps / steps`` by default.
        targets: how many wrong classes to try, all of them by default.
        gradient: gradient estimator, :func:`plain` by default.
        random_start: start uniformly in the ball instead of from the image itself.
        mode: how the loop runs, see :mod:`jaxrobust.iteration`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2, attacks
        >>> attack = attacks.multi_targeted_pgd(L2(0.5), steps=5)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    if targets is not None and targets < 1:
        raise ValueError(f"targets must be at least 1, got {targets}")

    def choose_targets(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return highest_wrong_classes(logits, labels, logits.shape[-1] - 1 if targets is None else targets)

    return search(
        threat,
        loss=losses.logit_difference,
        success=misclassified,
        update=steepest_ascent(threat, _step_size(threat, steps, step_size)),
        gradient=gradient if gradient is not None else plain(),
        steps=steps,
        random_start=random_start,
        choose_targets=choose_targets,
        mode=mode,
    )
