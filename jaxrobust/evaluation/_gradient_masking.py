"""Is a robust accuracy real, or do the gradients hide what would break the classifier?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust import attacks, losses
from jaxrobust.attacks import Attack, LogitsFn, Loss
from jaxrobust.batching import check_classes, check_images
from jaxrobust.curvature import input_gradient, local_linearity_error, normalized_curvature
from jaxrobust.threat import Linf, ThreatModel

from ._accuracy import correct
from ._batched import map_batches

TINY = 1e-6
"""l1 norm of the loss's gradient, per unit of pixel range, below which an attack on it has nothing to follow."""


@dataclass(frozen=True)
class GradientMasking:
    """What :func:`gradient_masking` found. Per cent are of all images.

    Attributes:
        accuracy: run to accuracy in per cent, see :func:`gradient_masking` for the runs.
        correct: run to ``[n]`` bool, classified correctly on the clean image and after this run.
        passed: check to whether nothing was noticed.
        tiny_gradients: per cent of the clean images where the l1 norm of the cross-entropy's gradient is below 1e-6.
        confidence: mean probability of the predicted class on clean images, from 0 to 1.
        linearity_error: mean local linearity error in the ball, one draw for each image.
        curvature: mean normalised curvature on clean images, 20 power iterations.
        warnings: for every check that was not passed, what was noticed and what to do.
    """

    accuracy: dict[str, float]
    correct: dict[str, np.ndarray]
    passed: dict[str, bool]
    tiny_gradients: float
    confidence: float
    linearity_error: float
    curvature: float
    warnings: tuple[str, ...]


def gradient_masking(
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    key: jax.Array,
    surrogate: LogitsFn | None = None,
    steps: int = 20,
    long_steps: int = 100,
    restarts: int = 5,
    targets: int = 9,
    queries: int = 1000,
    tolerance: float = 1.0,
    gap: float = 5.0,
    batch_size: int = 250,
    mesh: Mesh | None = None,
) -> GradientMasking:
    """A battery of attacks and checks for gradient masking, for defences that were judged by PGD on cross-entropy.

    A defence masks its gradients if they do not lead to the adversarial images that exist: it looks robust to attacks
    that follow them and is not. Runs, each on all images, an image counting only if it is classified correctly as it is:

    * ``clean``; ``noise``: one uniform draw from the ball;
    * ``fgsm``; ``pgd``: ``steps`` steps on cross-entropy from a random start; ``pgd_long``: ``long_steps``;
      ``pgd_restarts``: ``restarts`` times ``steps``;
    * ``pgd_margin``: ``pgd`` on the margin of the logits; ``targeted``: PGD towards each of the ``targets`` highest wrong
      classes, from the image itself;
    * ``square``: random search with ``queries`` queries, without gradients;
    * ``transfer``, given a ``surrogate``: PGD on cross-entropy against that network;
    * ``whole_box`` and ``whole_box_noise``, for data in a box: PGD on cross-entropy where every image of the box is
      allowed, from the image itself with steps made for that radius, and from a random start with the steps of ``pgd``.
      The second hardly moves beyond its start, so it is reported and not judged.

    Checks, of which a real robust accuracy passes all:

    * ``single_step``: FGSM breaks no more than PGD.
    * ``more_steps``: more steps do not help the classifier. ``converged``: more steps and restarts break at most ``gap``
      points more.
    * ``loss``: attacks on logits break at most ``gap`` points more than all runs of PGD on cross-entropy. Saturated
      probabilities make the difference large.
    * ``noise``: random noise takes no more than half the accuracy that PGD takes.
    * ``black_box`` and ``transfer``: an attack that sees no gradients of this classifier neither beats PGD on cross-entropy
      nor breaks images that withstand all attacks that do.
    * ``any_image``: where every image is allowed, the accuracy is at most that of chance (``whole_box``).
    * ``gradients``: the gradient is below 1e-6 on at most ``gap`` per cent of the images. A hint only: a classifier that is
      sure and right has tiny gradients without any defence.

    Inequalities are violated if the paired difference exceeds ``tolerance`` points (``gap`` where named) and two of its
    standard errors. Local linearity error, curvature and confidence are reported without a verdict: they say most beside
    those of an adversarially trained network (small) and of an undefended one (large).

    Passing is no proof. The number to report is that of :func:`attacks.auto_attack`, which should be close to
    ``pgd_long`` here, and that of an attack adapted to the defence.

    Sources: Athalye et al., 2018, and Carlini et al., 2019, for the symptoms; SOAR study, section 7.7, and gradient-norm
    study, section 7.6, for the battery. Tolerances are this library's own.

    Cost per image, with the defaults: about 460 forward and backward passes and 1,000 forward passes; less with fewer
    than ten classes.

    Args:
        logits_fn: the network, deterministic.
        images: ``[n, height, width, channels]``, uint8 or floating point within the threat model's bounds. Several
            hundred, for one image in a hundred is a whole point.
        labels: ``[n]`` class numbers.
        threat: the ball that robustness is claimed for: ``Linf``, ``L2`` or ``L1`` with a concrete radius.
        key: random key. Example ``i`` uses ``fold_in(key, i)``, in all runs.
        surrogate: another network for the same images, best trained without the defence.
        steps: see above.
        long_steps: see above, more than ``steps``.
        restarts: see above.
        targets: see above.
        queries: see above.
        tolerance: percentage points.
        gap: percentage points.
        batch_size: images per compiled batch.
        mesh: devices to use, all by default.

    Returns:
        See :class:`GradientMasking`.

    Raises:
        ValueError: for images, labels, networks or numbers that do not fit, or a radius that is not one positive number.

    Example:
        >>> import functools, jax, jax.numpy as jnp, numpy as np
        >>> from jaxrobust import Linf
        >>> network = lambda scale, images: scale * images.reshape(len(images), -1)[:, :3]
        >>> masked = functools.partial(network, jnp.array(1e4))  # its probabilities are 0 and 1
        >>> images = np.full((40, 3, 3, 1), 0.4, np.float32)
        >>> images[:, 0, 0] = 0.6
        >>> options = {"key": jax.random.key(0), "steps": 5, "long_steps": 10, "restarts": 1, "queries": 20}
        >>> found = gradient_masking(masked, images, np.zeros(40, int), Linf(0.12), **options)
        >>> found.accuracy["fgsm"], found.accuracy["targeted"], found.passed["loss"]
        (100.0, 0.0, False)
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images, threat.bounds)
    classes = check_classes(logits_fn, images[:2], labels)
    if np.ndim(threat.eps) or not float(threat.eps) > 0:
        raise ValueError(f"gradient_masking needs one positive radius eps for all images, got {threat.eps}")
    ball: Any = dataclasses.replace(cast(Any, threat), eps=float(threat.eps))
    if not long_steps > steps:
        raise ValueError(f"long_steps must be more than steps, got {long_steps} and {steps}")
    options: dict[str, Any] = {"key": key, "batch_size": batch_size, "mesh": mesh}
    robust = {"clean": correct(logits_fn, images, labels, bounds=threat.bounds, **options)}
    runs = _attacks(ball, images.shape[1:], steps, long_steps, restarts, targets, queries)
    for name, attack in runs.items():
        robust[name] = correct(logits_fn, images, labels, attack=attack, bounds=threat.bounds, **options)
    if surrogate is not None:
        check_classes(surrogate, images[:2], labels)
        made = map_batches(lambda f, keys, x, y: runs["pgd"](keys, f, x, y), surrogate, images, labels, **options)
        robust["transfer"] = robust["clean"] & correct(logits_fn, made, labels, bounds=threat.bounds, **options)

    def statistics(logits_fn: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        loss = losses.cross_entropy
        return (
            *_sure(loss, logits_fn, images, labels),
            local_linearity_error(keys, loss, logits_fn, images, labels, ball),
            normalized_curvature(keys, loss, logits_fn, images, labels),
        )

    tiny, confidence, error, curvature = map_batches(statistics, logits_fn, images, labels, **options)
    accuracy = {name: 100 * float(rows.mean()) for name, rows in robust.items()}
    found = _verdicts(robust, accuracy, 100 * float(tiny.mean()), classes, tolerance, gap)
    return GradientMasking(
        accuracy=accuracy,
        correct=robust,
        passed={name: text is None for name, text in found.items()},
        tiny_gradients=100 * float(tiny.mean()),
        confidence=float(confidence.mean()),
        linearity_error=float(error.mean()),
        curvature=float(curvature.mean()),
        warnings=tuple(text for text in found.values() if text is not None),
    )


@lru_cache(maxsize=16)  # what one network compiled serves the next
def _attacks(
    threat: Any,
    shape: tuple[int, ...],
    steps: int,
    long_steps: int,
    restarts: int,
    targets: int,
    queries: int,
) -> dict[str, Attack]:
    found: dict[str, Attack] = {
        "noise": attacks.uniform_noise(threat),
        "fgsm": attacks.fgsm(threat),
        "pgd": attacks.pgd(threat, steps=steps),
        "pgd_long": attacks.pgd(threat, steps=long_steps),
        "pgd_restarts": attacks.pgd(threat, steps=steps, restarts=restarts),
        "pgd_margin": attacks.pgd(threat, steps=steps, loss=losses.margin),
        "targeted": attacks.multi_targeted_pgd(threat, steps=steps, targets=targets),
        "square": attacks.square(threat, queries=queries),
    }
    if threat.bounds is not None:
        low, high = threat.bounds
        widest = float(threat.norm(jnp.full((1, *shape), high - low, jnp.float32))[0])
        wide = dataclasses.replace(cast(Any, threat), eps=widest)
        # The whole box is a ball of every norm; only l-infinity steps, which move all pixels, get across it in a few.
        found["whole_box"] = attacks.bim(Linf(high - low, threat.bounds), steps=steps)
        found["whole_box_noise"] = attacks.pgd(wide, steps=steps, step_size=2.5 * float(threat.eps) / steps)
    return found


@partial(jax.jit, static_argnums=0)
def _sure(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the gradient is tiny, and the probability of the predicted class, ``[batch]``."""
    gradient = input_gradient(loss, logits_fn, images, labels)
    return Linf(1.0).dual_norm(gradient) < TINY, jax.nn.softmax(logits_fn(images)).max(-1)


def _beats(first: np.ndarray, second: np.ndarray, points: float) -> bool:
    """Whether fewer examples are robust to the first attack, by more than so many points and two standard errors."""
    difference = second.astype(float) - first
    excess, error = difference.mean(), difference.std() / np.sqrt(len(difference))
    return bool(100 * excess > points and excess > 2 * error)


def _verdicts(
    robust: Mapping[str, np.ndarray],
    accuracy: Mapping[str, float],
    tiny: float,
    classes: int,
    tolerance: float,
    gap: float,
) -> dict[str, str | None]:
    """Check to what was noticed, ``None`` for nothing."""
    clean, pgd = robust["clean"], robust["pgd"]
    cross_entropy = pgd & robust["pgd_long"] & robust["pgd_restarts"]
    logits = robust["pgd_margin"] & robust["targeted"]
    white_box = cross_entropy & logits & robust["fgsm"]
    found: dict[str, str | None] = {}

    def check(name: str, noticed: bool, text: str) -> None:
        found[name] = text if noticed else None

    def per_cent(rows: np.ndarray) -> str:
        return f"{100 * rows.mean():.1f} per cent"

    check(
        "single_step",
        _beats(robust["fgsm"], pgd, tolerance),
        f"FGSM leaves {per_cent(robust['fgsm'])} and PGD, which makes more of the same steps, {per_cent(pgd)}: the gradients "
        "mislead after the first step. Judge the classifier by attacks without gradients and by attacks.auto_attack.",
    )
    check(
        "more_steps",
        _beats(pgd, robust["pgd_long"], tolerance),
        f"More steps of PGD raise the accuracy from {per_cent(pgd)} to {per_cent(robust['pgd_long'])}: what is found is found "
        "by chance, by random starts and large steps. Use several restarts, a smaller step size, and attacks.apgd.",
    )
    check(
        "converged",
        _beats(cross_entropy, pgd, gap),
        f"More steps and restarts lower the accuracy under PGD from {per_cent(pgd)} to {per_cent(cross_entropy)}: the short "
        "attack is not converged, and the long one may not be either. Raise steps and restarts until nothing changes.",
    )
    check(
        "loss",
        _beats(logits, cross_entropy, gap),
        f"PGD on the logits (margin and targeted) leaves {per_cent(logits)} and PGD on cross-entropy {per_cent(cross_entropy)}"
        ": cross-entropy hides the way, as it does where probabilities saturate. Do not report PGD on cross-entropy; use "
        "losses that do not depend on the logits' scale (losses.dlr, attacks.apgd_targeted) and attacks.auto_attack.",
    )
    check(
        "noise",
        _beats(robust["noise"], clean, tolerance) and 2 * robust["noise"].mean() < clean.mean() + pgd.mean(),
        f"Uniform noise in the ball alone lowers the accuracy from {per_cent(clean)} to {per_cent(robust['noise'])}, more than "
        f"half of what PGD does ({per_cent(pgd)}): the gradients hardly help. Judge by many random starts and by Square.",
    )
    for name, check_name, text, advice in (
        ("square", "black_box", "Square, which sees no gradients", "Give it more queries"),
        (
            "transfer",
            "transfer",
            "Images made against the surrogate",
            "Try more surrogates and attacks.mi_fgsm on them",
        ),
    ):
        if name in robust:
            left = white_box & robust[name]
            check(
                check_name,
                _beats(robust[name], cross_entropy, tolerance) or _beats(left, white_box, tolerance),
                f"{text}, leave {per_cent(robust[name])}, PGD on cross-entropy {per_cent(cross_entropy)}, and all attacks that "
                f"follow gradients together {per_cent(white_box)}, with these {per_cent(left)}: the gradients are probably "
                f"masked. {advice}, and an attack adapted to the defence.",
            )
    if "whole_box" in robust:
        check(
            "any_image",
            accuracy["whole_box"] > 100 / classes,
            f"Where every image of the box is allowed, PGD still leaves {per_cent(robust['whole_box'])}, more than chance: it "
            "follows gradients that lead nowhere, and leaves images unbroken at smaller radii for the same reason.",
        )
    check(
        "gradients",
        tiny > gap,
        f"The gradient of cross-entropy is below {TINY:g} (l1 norm) on {tiny:.1f} per cent of the clean images, where attacks "
        "on it cannot start. A classifier that is sure and right does that as well as a masked one: compare pgd_margin, "
        "targeted and transfer before you judge.",
    )
    return found
