"""How far from linear the loss is: between random points around an image, and along the direction of an attack."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import iterate
from jaxrobust.random import example_keys, fold_in_each
from jaxrobust.threat import L2, ThreatModel
from jaxrobust.threat._base import per_example

from ._derivatives import input_gradient
from ._hessian import Problem, curvature_ratio, make_problem, power_iteration


class AttackProfile(NamedTuple):
    """The loss along the line from images through adversarial images.

    Attributes:
        positions: ``[points]``, 0 at the image and 1 at the adversarial image.
        loss: ``[batch, points]``.
        gradient_norm: ``[batch, points]``, in the threat model's dual norm.
        curvature: ``[batch, points]``, see :func:`normalized_curvature`.
    """

    positions: jax.Array
    loss: jax.Array
    gradient_norm: jax.Array
    curvature: jax.Array


class _Ball(NamedTuple):
    problem: Problem
    threat: Any
    keys: jax.Array


def local_linearity_error(
    key: jax.Array,
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    draws: int = 1,
    clip: bool = False,
) -> jax.Array:
    """Mean squared error of linear interpolation between random points around each image, ``[batch]``.

    ``E (a L(x + n1) + (1 - a) L(x + n2) - L(x + a n1 + (1 - a) n2))^2`` with ``a`` uniform in [0, 1], one number for each
    image and draw, and ``n1``, ``n2`` uniform in the ball. It is zero for a loss that is affine in the image. Single
    errors span orders of magnitude: report the mean of ``log10(error + 1e-17)`` beside the mean, and note that rounding
    in single precision alone makes errors of about ``1e-14 L^2``.

    Source: gradient-norm study, eqs. A.1 and A.2, with l-infinity noise of radius 4/255 and one draw.

    Cost: ``3 * draws`` forward passes.

    Args:
        key: random key, one or one per example (``[batch]``).
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network.
        images: ``[batch, height, width, channels]``, floating point in [0, 1].
        labels: whatever the loss takes, usually class numbers ``[batch]``.
        threat: the ball that the noise is drawn from, e.g. ``Linf(4 / 255)``.
        draws: how many errors are averaged.
        clip: clip the noisy images to the threat model's bounds; published without.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for fewer than one draw, or a loss that does not return one value per example.

    Example:
        >>> from jaxrobust.threat import Linf
        >>> affine = lambda logits, labels: logits[:, 0] + labels
        >>> network = lambda images: images @ jnp.array([[2.0], [1.0]])
        >>> images = jnp.full((2, 2), 0.5)
        >>> error = local_linearity_error(jax.random.key(0), affine, network, images, jnp.ones(2), Linf(0.1), draws=3)
        >>> bool((error < 1e-12).all())
        True
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    problem = make_problem(loss, logits_fn, images, labels)
    ball: Any = threat if clip else dataclasses.replace(cast(Any, threat), bounds=None)
    keys = example_keys(key, problem.images.shape[0])
    total = jnp.zeros(problem.images.shape[:1], problem.images.dtype)
    state = (jnp.zeros((), jnp.int32), total)
    _, total = iterate(_linearity_step, _Ball(problem, ball, keys), state, draws)
    return total / draws


def _linearity_step(constants: _Ball, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """One more draw, added to the sum of squared errors."""
    problem, threat, keys = constants
    images, (draw, total) = problem.images, state
    keys = fold_in_each(keys, draw)
    weight = jax.vmap(lambda key: jax.random.uniform(key, (), images.dtype))(fold_in_each(keys, 0))
    first, second = (threat.sample(fold_in_each(keys, number), images) for number in (1, 2))
    return draw + 1, total + jnp.square(interpolation_error(problem, weight, first, second)).astype(total.dtype)


def interpolation_error(problem: Problem, weight: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Interpolated loss between two perturbed images minus the loss in between, ``[batch]``, as is the weight."""
    images, share = problem.images, per_example(weight, problem.images)
    ends = weight * _losses(problem, images + first) + (1 - weight) * _losses(problem, images + second)
    return ends - _losses(problem, images + share * first + (1 - share) * second)


def _losses(problem: Problem, images: jax.Array) -> jax.Array:
    values = problem.loss(problem.logits_fn(images), problem.labels)
    if values.shape != images.shape[:1]:
        raise ValueError(
            f"the loss must return one value per example, shape {images.shape[:1]}, got shape {values.shape}; pass the "
            "loss before any mean over the batch"
        )
    return values


class _Line(NamedTuple):
    problem: Problem
    threat: Any
    adversarial: jax.Array
    positions: jax.Array


class _ProfileState(NamedTuple):
    point: jax.Array
    loss: jax.Array
    gradient_norm: jax.Array
    curvature: jax.Array


def attack_profile(
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    adversarial: jax.Array,
    threat: ThreatModel,
    *,
    points: int = 16,
    reach: float = 2.0,
    curvature_steps: int = 2,
) -> AttackProfile:
    """Loss, gradient norm and curvature along the direction of an attack, at ``x + t (x_adv - x)``.

    ``t`` goes from 0 to ``reach`` in equal steps, beyond the adversarial image if it is above 1, where images are
    extrapolated without clipping. Curvature is that of :func:`normalized_curvature` by power iteration from the gradient.
    Its few steps make it a coarse lower bound, not comparable with values of more steps.

    Source: gradient-norm study, eq. A.3 and its figure: PGD of 5 steps at 4/255, 16 points up to twice its perturbation,
    l1 norm of the gradient, two power iterations.

    Cost per point: one forward pass, one gradient and ``curvature_steps + 1`` Hessian-vector products.

    Args:
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, height, width, channels]``, floating point in [0, 1].
        labels: whatever the loss takes, usually class numbers ``[batch]``.
        adversarial: what an attack made of the images, in their shape and dtype.
        threat: its dual norm measures the gradients: ``Linf`` for l1.
        points: how many, at least 2.
        reach: last position, in units of the perturbation.
        curvature_steps: power iterations; in one compiled step, so not for dozens of them on a CPU with convolutions.

    Raises:
        TypeError: if the images are not floating point or the adversarial ones have another dtype.
        ValueError: for adversarial images of another shape, fewer than two points, negative ``reach`` or
            ``curvature_steps``, or a loss that does not return one value per example.

    Example:
        >>> from jaxrobust.threat import Linf
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> network = lambda images: images @ jnp.array([[3.0], [4.0]])
        >>> images, adversarial = jnp.array([[0.0, 0.0]]), jnp.array([[0.5, 0.5]])
        >>> profile = attack_profile(squared, network, images, jnp.array([-1.0]), adversarial, Linf(0.5), points=3)
        >>> profile.positions.tolist(), profile.loss.round(2).tolist(), profile.gradient_norm.round(2).tolist()
        ([0.0, 1.0, 2.0], [[0.5, 10.12, 32.0]], [[7.0, 31.5, 56.0]])
    """
    problem, adversarial = make_problem(loss, logits_fn, images, labels), jnp.asarray(adversarial)
    images = problem.images
    if adversarial.shape != images.shape:
        raise ValueError(f"adversarial images must have the images' shape {images.shape}, got {adversarial.shape}")
    if adversarial.dtype != images.dtype:
        raise TypeError(f"adversarial images must have the images' dtype {images.dtype}, got {adversarial.dtype}")
    if points < 2 or reach < 0 or curvature_steps < 0:
        raise ValueError(
            f"points must be at least 2, reach and curvature_steps at least 0; got {points}, {reach}, {curvature_steps}"
        )
    positions = jnp.linspace(0, reach, points, dtype=images.dtype)
    empty = jnp.zeros((images.shape[0], points), images.dtype)
    state = _ProfileState(jnp.zeros((), jnp.int32), empty, empty, empty)
    line = _Line(problem, threat, adversarial, positions)
    _, *columns = iterate(_profile_step(curvature_steps), line, state, points)
    return AttackProfile(positions, *columns)


@functools.lru_cache
def _profile_step(curvature_steps: int) -> Callable[[_Line, _ProfileState], _ProfileState]:
    def step(line: _Line, state: _ProfileState) -> _ProfileState:
        images, point = line.problem.images, state.point
        moved = line.problem._replace(images=images + line.positions[point] * (line.adversarial - images))
        direction = L2(1.0).steepest(input_gradient(*moved))
        gradient, norm = power_iteration(moved, direction, curvature_steps)
        return _ProfileState(
            point + 1,
            state.loss.at[:, point].set(_losses(moved, moved.images)),
            state.gradient_norm.at[:, point].set(line.threat.dual_norm(gradient)),
            state.curvature.at[:, point].set(curvature_ratio(norm, gradient)),
        )

    return step
