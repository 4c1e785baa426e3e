"""Certificates with a radius for each pixel: sets of perturbations of the largest volume."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust._types import LogitsFn
from jaxrobust.threat import ThreatModel
from jaxrobust.threat._base import flatten, per_example

from ._augmented_lagrangian import Penalty, search
from ._radii import geometric_mean, mean_log
from ._scaling import largest_scale, largest_uniform, scaled, shrunk
from ._slack import criterion_of, question_of

Shrink = Literal["bisection", "published"]


class NonUniformResult(NamedTuple):
    """What :func:`nonuniform` certified.

    Attributes:
        radii: of each pixel, ``[batch, *image]``, in the images' units: a map of how robust each pixel is. 0 where nothing
            is certified.
        mean_radius: their geometric mean, ``[batch]``.
        uniform: the largest radius that is the same for all pixels, ``[batch]``.
        certified: bool ``[batch]``; not where the image is misclassified, or its margin is below ``delta``.
    """

    radii: jax.Array
    mean_radius: jax.Array
    uniform: jax.Array
    certified: jax.Array


@jax.jit
def _along(initial: jax.Array, images: jax.Array) -> jax.Array:
    """Radii in the proportions of ``initial``, their geometric mean 1, shaped as the images."""
    radii = jnp.broadcast_to(initial.astype(images.dtype), images.shape)
    return radii / per_example(geometric_mean(radii), radii)


@jax.jit
def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """Of two sets of radii, for each image those of the larger volume."""
    return jnp.where(per_example(mean_log(first) > mean_log(second), first), first, second)


_scaled = jax.jit(scaled)


@jax.jit
def _result(radii: jax.Array, uniform: jax.Array) -> NonUniformResult:
    certified = (uniform > 0) & (flatten(radii) > 0).all(-1)
    radii = jnp.where(per_example(certified, radii), radii, 0)
    return NonUniformResult(radii, geometric_mean(radii), uniform, certified)


@functools.lru_cache
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


def nonuniform(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    method: str | Sequence[str] = "fast-lin",
    elide: bool = True,
    delta: float = 1e-4,
    steps: int = 1000,
    learning_rate: float = 0.02,
    optimizer: optax.GradientTransformation | None = None,
    dual_every: int = 20,
    rho: float = 1.0,
    rho_factor: float = 3.0,
    rho_every: int = 250,
    max_gradient_norm: float = 10.0,
    max_radius: float | None = None,
    initial: jax.Array | None = None,
    shrink: Shrink = "bisection",
    rows_at_once: int | None = None,
) -> NonUniformResult:
    """A radius for each pixel, so that the certified set is as large as possible: cuboids for ``Linf``, ellipsoids for ``L2``.

    Maximises ``sum_i log radii_i`` under the condition that all margins ``z_y - z_i`` are certified to be at least ``delta``, by
    an augmented Lagrangian in ``zeta``, ``radii = zeta^2``. Small radii are those of pixels on which the network relies.

    The search starts from the largest uniform radius, or from ``initial``, scaled to what is certified. Each step is one
    evaluation of the margins and one of their derivative, for all images at once; images do not influence each other.
    Bisections of a scale at the start and at the end take some 100 evaluations more. The result is the larger of two sets, the
    best certified one on the way and the last one, both scaled until they touch the margin: never smaller than the uniform one.

    For ``L1`` margins depend on one pixel at a time, and the search ends well below the optimum where there are many: by a third of
    the mean radius for a linear model of 784 pixels, against a thousandth for ``Linf`` and two for ``L2``.

    Departures from the source (Algorithm 3.3):
        1. It starts from a certified set, keeps the best one, and scales by bisection instead of by repeated factors of 0.99.
           ``shrink="published"`` ends as the source does: the last radii, times 0.99 until they are certified, which may be
           smaller than the uniform radius.
        2. Units of its own for each image, so that one setting suits them all, close to the boundary or not, and any number of
           pixels: ``zeta^2`` is in units of the geometric mean of the radii at the start, margins are in units of the image's own
           margin, and their part of the objective is multiplied by the number of pixels. A multiplier is -1 at the solution of a
           linear model of two classes.
        3. One step of Adam at a time, and a step of the multipliers after every ``dual_every``.
        4. In a step no ``zeta`` falls below half of itself, so none leaves the domain of the logarithm.
        5. ``delta`` is raised by the rounding that :func:`certified` allows for.

    Args:
        logits_fn: images ``[batch, ...]`` to logits, any JAX function of supported operations, see :func:`linear_bounds`.
        images: ``[batch, ...]``, floating point, in the threat model's box: [0, 1] unless it says otherwise.
        labels: int ``[batch]``.
        threat: :class:`~jaxrobust.threat.Linf`, :class:`~jaxrobust.threat.L2` or :class:`~jaxrobust.threat.L1`, for its norm and
            box. Its radius is the largest one at which the search may start; it does not limit the result. The study certifies
            without a box, ``bounds=None``.
        method: how margins are bounded, one or several of :data:`METHODS`; not ``"alpha-crown"``, whose bounds have no
            derivative.
        elide: whether margins are bounded as such, which is tighter, or as the difference of bounds of the logits, as in the
            study.
        delta: the smallest margin, in logits.
        steps: of the search; 400 of them give all but a few ten-thousandths of the volume on small networks.
        learning_rate: of Adam, relative to a ``zeta`` of about 1.
        optimizer: any Optax transformation, learning rate included, in place of Adam at ``learning_rate``. It runs for each
            image by itself. Give the same object every time, or each compiles anew.
        dual_every: steps between two updates of the multipliers.
        rho: the penalty's coefficient, in the units above.
        rho_factor, rho_every: it grows by this factor every so many steps.
        max_gradient_norm: gradients are scaled down to this l2 norm, divided by the root of the number of pixels.
        max_radius: no radius is larger; by default the width of the box, or nothing without one. Pixels that change no logit
            end there, or grow as long as the search goes on.
        initial: proportions to start from where they allow a larger volume than the uniform radius: positive, shaped as one
            image or ``[batch, *image]``, such as :func:`common_direction` of other images' radii.
        shrink: how the result is made to satisfy the condition, see above.
        rows_at_once: see :func:`linear_bounds`.

    Raises:
        UnsupportedOperation: naming what the network does that cannot be bounded, and in which layer.
        ValueError: for another threat model, numbers that make no sense, and what :func:`certified` refuses.

    Source:
        Liu et al., 2019, "On certifying non-uniform bounds against adversarial attacks"; the thesis of Liu, Algorithm 3.3.

    Example:
        >>> from jaxrobust import Linf
        >>> logits_fn = lambda x: x @ jnp.array([[2.0, 0.0], [1.0, 0.0]])  # a margin of 3, half of it for each pixel
        >>> found = nonuniform(logits_fn, jnp.ones((1, 2)), jnp.array([0]), Linf(4.0, bounds=None), steps=300)
        >>> found.radii.round(2).tolist(), found.uniform.round(2).tolist(), found.mean_radius.round(2).tolist()
        ([[0.75, 1.5]], [1.0], [1.06])
    """
    if shrink not in get_args(Shrink):
        raise ValueError(f"unknown shrink {shrink!r}; choose one of {', '.join(get_args(Shrink))}")
    if steps < 0 or dual_every < 1 or rho_every < 1:
        raise ValueError(
            f"steps must be at least 0, dual_every and rho_every at least 1, got {steps}, {dual_every} and {rho_every}"
        )
    if not (rho > 0 and rho_factor >= 1 and max_gradient_norm > 0 and learning_rate > 0):
        raise ValueError(
            "rho, max_gradient_norm and learning_rate must be positive and rho_factor at least 1, "
            f"got {rho}, {max_gradient_norm}, {learning_rate} and {rho_factor}"
        )
    criterion = criterion_of(method, elide, rows_at_once)
    question = question_of(logits_fn, images, labels, threat, delta, max_radius)
    images, optimizer = question.images, _adam(learning_rate) if optimizer is None else optimizer

    ones = jnp.ones_like(images)
    uniform = largest_uniform(criterion, question)
    start = _scaled(question, ones, uniform)
    if initial is not None:
        _check_initial(initial, images)
        direction = _along(initial, images)
        scale = largest_scale(criterion, question, direction, 0, threat.eps)
        start = _larger(_scaled(question, direction, scale), start)

    penalty = Penalty(dual_every, rho, rho_factor, rho_every, max_gradient_norm)
    last, best = search(criterion, question, penalty, optimizer, start, steps)
    if shrink == "published":
        return _result(shrunk(criterion, question, last), uniform)
    last = _scaled(question, last, largest_scale(criterion, question, last, 0, 2))
    best = _scaled(question, best, largest_scale(criterion, question, best, 1, 2))
    return _result(_larger(last, best), uniform)


def _check_initial(initial: jax.Array, images: jax.Array) -> None:
    if initial.shape not in (images.shape, images.shape[1:]):
        raise ValueError(f"initial must have the shape of one image or of all, {images.shape}, got {initial.shape}")
    if not isinstance(initial, jax.core.Tracer) and not (np.isfinite(initial) & (np.asarray(initial) > 0)).all():
        raise ValueError("initial must be positive and finite: a radius of 0 has no volume; add a small number to all")
