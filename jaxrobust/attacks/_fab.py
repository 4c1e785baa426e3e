"""Fast adaptive boundary attack (FAB), as in AutoAttack.

Source: Croce and Hein, 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", in the
form of AutoAttack's reference implementation (``fra31/auto-attack``, commit a392200), which leaves out the article's
final search.

Departures from the reference implementation:

1. Random starts come from one key per example.
2. Targets are chosen among the classes other than the label; there are at most ``classes - 1`` of them.
3. In the form that looks for the nearest adversarial image all restarts and targets are tried for every example. The
   reference tries them on the examples that are not broken within the radius; the verdicts are the same.
4. Entries of the gradient below 1e-8 move their pixels like others (the reference holds them in l2 and l1), so that a
   scale of the logits changes nothing.
5. The hyperplane is put beyond the boundary by twice the rounding of the logits. Else an iterate whose two logits are
   equal to the last bit, which is still classified correctly if the label comes first, does not move any more. The
   reference happens to escape by the rounding of the hyperplane's offset, which is not computed here.
6. In l1, pixels with equal slopes share the last part of a move.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, fold_in_each, normal, typed_key, uniform
from jaxrobust.threat import Linf, ThreatModel
from jaxrobust.threat._base import flatten, per_example

from ._loop import misclassified
from ._minimum_norm import MinimumNormAttack
from ._targets import highest_wrong_classes

SMALLEST = 1e-8
"""Least length of a move when two moves are weighed against each other."""

BEYOND = 2
"""How far beyond the boundary a hyperplane is put, in units of the logits' rounding."""


class _Constants(NamedTuple):
    threat: ThreatModel
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array
    targets: jax.Array | None
    alpha_max: Any
    eta: Any
    beta: Any


class _State(NamedTuple):
    """The iterate and the nearest adversarial image so far, flat, and its distance (infinite while there is none)."""

    current: jax.Array
    nearest: jax.Array
    distance: jax.Array


def _excess(values: jax.Array, logits: jax.Array, dtype: Any) -> jax.Array:
    """How far beyond the hyperplane an iterate lies, for logit differences ``values``."""
    rounding = BEYOND * float(jnp.finfo(logits.dtype).eps) * jnp.abs(logits).max(-1)
    return (values - rounding).astype(dtype)


def _boundary_to_target(constants: _Constants, targets: jax.Array, current: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The excess of ``z_t - z_y`` and its gradient, flat."""

    def total(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constants.logits_fn(flat.reshape(constants.images.shape))
        values = losses.logit_difference(logits, constants.labels, targets)
        return values.sum(), _excess(values, logits, current.dtype)

    gradient, excess = jax.grad(total, has_aux=True)(current)
    return excess, gradient


def _nearest_boundary(constants: _Constants, current: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The excess of ``z_s - z_y`` and its gradient, flat, for the class whose linearised boundary is nearest."""
    labels = constants.labels
    logits, pullback = jax.vjp(lambda flat: constants.logits_fn(flat.reshape(constants.images.shape)), current)
    batch, classes = logits.shape
    own = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    differences = jnp.eye(classes, dtype=logits.dtype)[:, None] - own
    (gradients,) = jax.vmap(pullback)(differences)  # [classes, batch, features]
    values = logits - jnp.take_along_axis(logits, labels[:, None], axis=1)
    slopes = jax.vmap(constants.threat.dual_norm)(gradients).T
    distances = jnp.where(own > 0, jnp.inf, jnp.abs(values).astype(slopes.dtype) / (slopes + 1e-12))
    chosen = distances.argmin(1)
    examples = jnp.arange(batch)
    return _excess(values[examples, chosen], logits, current.dtype), gradients[chosen, examples]


def _step(constants: _Constants, state: _State) -> _State:
    threat, clean, current = constants.threat, flatten(constants.images), state.current
    if constants.targets is None:
        excess, normal = _nearest_boundary(constants, current)
    else:
        excess, normal = _boundary_to_target(constants, constants.targets, current)
    clean_excess = excess + (normal * (clean - current)).sum(-1)
    move = threat.to_hyperplane(current, normal, excess)
    clean_move = threat.to_hyperplane(clean, normal, clean_excess)
    length = jnp.maximum(threat.norm(move), SMALLEST)
    clean_length = jnp.maximum(threat.norm(clean_move), SMALLEST)
    alpha = jnp.minimum(length / (length + clean_length), constants.alpha_max)[:, None]
    moved = (1 - alpha) * (current + constants.eta * move) + alpha * (clean + constants.eta * clean_move)
    # Not where logits or any entry of the gradient are not finite: there the iterate stays where it is.
    sound = jnp.isfinite(clean_excess + length + clean_length)
    moved = jnp.where(sound[:, None], threat.clip(moved), current)
    logits = constants.logits_fn(moved.reshape(constants.images.shape))
    wrong = misclassified(logits, constants.labels)
    distance = threat.norm(moved - clean)
    nearer = wrong & (distance < state.distance)
    return _State(
        jnp.where(wrong[:, None], clean + constants.beta * (moved - clean), moved),
        jnp.where(nearer[:, None], moved, state.nearest),
        jnp.where(nearer, distance, state.distance),
    )


@functools.partial(jax.jit, static_argnames="random_start")
def _start(
    threat: Any, keys: jax.Array, logits_fn: Closure, images: jax.Array, labels: jax.Array, random_start: bool
) -> _State:
    """What is misclassified as it is has distance 0, so that nothing nearer will be found."""
    flat = flatten(images)
    start = flat
    if random_start:
        draw = functools.partial(uniform, minval=-1, maxval=1) if isinstance(threat, Linf) else normal
        noise = jax.vmap(lambda key: draw(key, flat.shape[1:], flat.dtype))(keys)
        length = threat.norm(noise)[:, None]
        start = threat.clip(flat + threat.radius(flat) / 2 * noise / jnp.where(length > 0, length, 1))
    wrong = misclassified(logits_fn(images), labels)
    return _State(start, flat, jnp.where(wrong, 0, jnp.inf).astype(flat.dtype))


def fab_run(
    threat: ThreatModel,
    keys: jax.Array,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None = None,
    *,
    random_start: bool = False,
    steps: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> tuple[jax.Array, jax.Array]:
    """One run of FAB, towards one class per example ``[batch]``, or untargeted without ``targets``.

    Args:
        threat: norm and box; the radius enters into a random start only.
        keys: one per example, for the random start.
        logits_fn: the classifier.
        images: ``[batch, ...]``.
        labels: true classes.
        targets: the wrong class whose boundary is approached. Any misclassification counts as success.
        random_start: start at distance ``eps / 2`` from the image instead of at the image itself.
        steps: see :func:`fab`, as for the other arguments.
        alpha_max: see there.
        eta: see there.
        beta: see there.

    Returns:
        The nearest adversarial images found and their distances: the image itself at distance 0 where it is
        misclassified, at an infinite one where nothing was found.
    """
    closure = Closure(logits_fn)
    state = _start(threat, keys, closure, images, labels, random_start)
    factors = [jnp.asarray(factor, images.dtype) for factor in (alpha_max, eta, beta)]
    state = iterate(_step, _Constants(threat, closure, images, labels, targets, *factors), state, steps)
    return state.nearest.reshape(images.shape), state.distance


def fab_passes(*, steps: int = 100, runs: int = 1, classes: int | None = None) -> tuple[int, int]:
    """Forward and backward passes per example of so many runs; untargeted runs need the number of classes.

    Example:
        >>> fab_passes(), fab_passes(classes=10)
        ((201, 100), (201, 1000))
    """
    return runs * (2 * steps + 1), runs * steps * (1 if classes is None else classes)


@jax.jit
def _nearer(
    images: jax.Array, distance: jax.Array, candidates: jax.Array, norms: jax.Array
) -> tuple[jax.Array, jax.Array]:
    nearer = norms < distance
    return jnp.where(per_example(nearer, images), candidates, images), jnp.where(nearer, norms, distance)


@functools.partial(jax.jit, static_argnames="targets")
def _target_classes(logits_fn: Closure, images: jax.Array, labels: jax.Array, targets: int) -> jax.Array:
    return highest_wrong_classes(logits_fn(images), labels, targets)


def _attack(threat: ThreatModel, targets: int | None, restarts: int, **parameters: Any) -> MinimumNormAttack:
    if targets is not None and targets < 1:
        raise ValueError(f"targets must be at least 1, got {targets}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    if parameters["steps"] < 1:
        raise ValueError(f"steps must be at least 1, got {parameters['steps']}")
    if not 0 <= parameters["alpha_max"] <= 1:
        raise ValueError(f"alpha_max is a weight in [0, 1], got {parameters['alpha_max']}")
    if not 0 <= parameters["beta"] <= 1:
        raise ValueError(f"beta is a share of the way back to the image, in [0, 1]; got {parameters['beta']}")

    def search(
        threat: ThreatModel, key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        closure, keys = Closure(logits_fn), example_keys(typed_key(key), images.shape[0])
        classes: list[Any] = [None] if targets is None else [*_target_classes(closure, images, labels, targets).T]
        nearest, distance = images, jnp.full(labels.shape, jnp.inf, images.dtype)
        for number, (restart, target) in enumerate(itertools.product(range(restarts), classes)):
            candidates, norms = fab_run(
                threat,
                fold_in_each(keys, number),
                closure,
                images,
                labels,
                target,
                random_start=restart > 0,
                **parameters,
            )
            nearest, distance = _nearer(nearest, distance, candidates, norms)
        return nearest, jnp.isfinite(distance)

    return MinimumNormAttack(threat, search)


def fab(
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> MinimumNormAttack:
    """Fast adaptive boundary attack: looks for the nearest adversarial image in l-infinity, l2 or l1.

    Each step linearises the classifier at the iterate ``x`` and takes the class ``s`` whose linearised boundary
    ``z_s = z_y`` is nearest. With ``d`` and ``d_0`` the smallest moves inside the box from ``x`` and from the clean
    image ``x_0`` to that hyperplane (:meth:`~jaxrobust.threat.ThreatModel.to_hyperplane`),

        ``alpha = min(|d| / (|d| + |d_0|), alpha_max)``,
        ``x <- clip((1 - alpha) (x + eta d) + alpha (x_0 + eta d_0))``.

    Where the new ``x`` is misclassified it is kept if it is the nearest so far, and the search goes on from
    ``x_0 + beta (x - x_0)``. Source: Croce and Hein, 2020; departures from AutoAttack's implementation are listed in
    the module.

    Cost per restart: ``2 steps + 1`` forward and ``steps * classes`` backward passes. All classes' gradients are held
    at once, ``batch * classes * features`` numbers, as are their backward passes; :func:`fab_targeted` holds one.

    Args:
        threat: ``Linf``, ``L2`` or ``L1``; the radius enters into random starts and into the attack's verdict.
        steps: steps per restart.
        restarts: the first one starts at the image, the others at distance ``eps / 2`` from it in a random direction.
        alpha_max: largest weight of the move from the clean image.
        eta: how far beyond the hyperplane a move goes, 1 for onto it.
        beta: how far from the image a search goes on after a success, as a share of the distance.

    Returns:
        A :class:`MinimumNormAttack`: called, it returns what lies within the radius; ``.minimum_norm`` the nearest
        adversarial images.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import L2, attacks
        >>> attack = attacks.fab(L2(0.5), steps=10)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.8)
        >>> found = attack.minimum_norm(jax.random.key(0), logits_fn, images, jnp.array([0]))
        >>> found.distances.round(2).tolist()
        [0.21]
    """
    return _attack(threat, None, restarts, steps=steps, alpha_max=alpha_max, eta=eta, beta=beta)


def fab_targeted(
    threat: ThreatModel,
    *,
    targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> MinimumNormAttack:
    """FAB towards one wrong class after the other, those of highest clean logit first: FAB-T of AutoAttack.

    As :func:`fab`, but the hyperplane is always that of the target class, which needs one gradient per step. Any
    misclassification counts as success. Cost per target and restart: ``2 steps + 1`` forward and ``steps`` backward
    passes; and one forward pass.

    Args:
        threat: ``Linf``, ``L2`` or ``L1``.
        targets: how many wrong classes to try, at most all of them.
        steps: steps per target and restart.
        restarts: runs per target, see :func:`fab`.
        alpha_max: see :func:`fab`.
        eta: see :func:`fab`.
        beta: see :func:`fab`.

    Returns:
        A :class:`MinimumNormAttack`.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks
        >>> attack = attacks.fab_targeted(Linf(0.2), steps=10)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.8)
        >>> adversarial = attack(jax.random.key(0), logits_fn, images, jnp.array([0]))
        >>> int(logits_fn(adversarial).argmax())
        1
    """
    return _attack(threat, targets, restarts, steps=steps, alpha_max=alpha_max, eta=eta, beta=beta)
