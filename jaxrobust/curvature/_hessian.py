"""Eigenvalues of each example's input Hessian, from Hessian-vector products alone."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn, Loss
from jaxrobust.iteration import Closure, iterate
from jaxrobust.random import example_keys, fold_in_each, normal
from jaxrobust.threat import L2
from jaxrobust.threat._base import flatten, per_example

from ._derivatives import _check_images, input_gradient, input_gradient_and_hvp, input_hvp

Start = Literal["random", "gradient"]

DAMPING = 1e-6
"""Added to the gradient's length by :func:`normalized_curvature`, per unit of pixel range."""
_EUCLIDEAN = L2(1.0)


class Problem(NamedTuple):
    """What loops over Hessian-vector products keep constant."""

    loss: Closure
    logits_fn: Closure
    images: jax.Array
    labels: jax.Array


class Eigenpairs(NamedTuple):
    """The largest eigenvalues of each example's input Hessian.

    Attributes:
        eigenvalues: ``[batch, k]``, with their signs, by descending magnitude.
        eigenvectors: ``[batch, k, ...]``, of length one and shaped as the images, orthogonal within an example.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array


def make_problem(loss: Loss, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> Problem:
    """The arguments of this package's functions as one pytree."""
    images = jnp.asarray(images)
    _check_images(images)
    return Problem(Closure(loss), Closure(logits_fn), images, jnp.asarray(labels))


def hessian_spectral_norm(
    key: jax.Array | None,
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    steps: int = 20,
    start: Start = "random",
) -> jax.Array:
    """Spectral norm of each example's input Hessian by power iteration: a lower bound, ``[batch]``.

    ``v <- H v / |H v|``, ``steps`` times, then ``|v . H v|`` with exact Hessian-vector products. Every result is at most
    ``|H|_2``. Where ``H`` is semidefinite (cross-entropy on logits that are linear or piecewise linear in the image) it
    grows with ``steps``. Elsewhere it need not: two eigenvalues of similar size and opposite sign hold each other up,
    so results of different ``steps`` cannot be compared. :func:`hessian_eigenvalues` needs about as many products and
    does not have this weakness.

    Source: gradient-norm study, appendix A.1, with 20 steps from a random start in its table and 2 from the gradient in
    its figure. Departure: the published code divides by ``|H v| + 1e-6``, so ``v`` shrinks where the Hessian is small;
    here ``v`` has length one, or is zero where ``H v`` is.

    Cost: ``steps + 1`` Hessian-vector products, and one gradient with ``start="gradient"``.

    Args:
        key: random key of the start, one or one per example (``[batch]``); not needed with ``start="gradient"``.
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, height, width, channels]``, floating point in [0, 1]; the Hessian is per squared unit of pixel
            range.
        labels: whatever the loss takes, usually class numbers ``[batch]``.
        steps: power iterations.
        start: ``"random"``: a Gaussian direction; ``"gradient"``: the gradient's, with the result 0 where it vanishes.

    Returns:
        ``[batch]``, at least 0.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for an unknown start, a missing key, negative ``steps``, or a loss that does not return one value per
            example.

    Example:
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> network = lambda images: images @ jnp.array([[2.0], [1.0]])
        >>> images = jnp.array([[1.0, 2.0]])
        >>> hessian_spectral_norm(jax.random.key(0), squared, network, images, jnp.zeros(1)).round(4).tolist()
        [5.0]
    """
    problem = make_problem(loss, logits_fn, images, labels)
    return power_iteration(problem, _start_vectors(key, problem, start), steps)[1]


def normalized_curvature(
    key: jax.Array | None,
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    steps: int = 20,
    start: Start = "random",
) -> jax.Array:
    """Curvature relative to slope, ``C = |H|_2 / (|g|_2 + 1e-6)``, ``[batch]``, in units of one over pixel range.

    ``1 / C`` is the distance over which the gradient changes by about its own size. ``C`` does not change with the
    loss's scale, up to the summand, which bounds it where the gradient vanishes. Average the ratios, not their parts.

    Sources: Srinivas et al., 2022; gradient-norm study, appendix A.1, whose code the summand comes from.

    Arguments, cost and errors are those of :func:`hessian_spectral_norm`, which is the numerator; the gradient is
    computed on the way.

    Example:
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> network = lambda images: images @ jnp.array([[3.0], [4.0]])
        >>> images = jnp.array([[0.25, 0.25]])  # g = 1.75 w, H = w w^T, |w| = 5
        >>> normalized_curvature(jax.random.key(0), squared, network, images, jnp.zeros(1)).round(4).tolist()
        [2.8571]
    """
    problem = make_problem(loss, logits_fn, images, labels)
    gradient, norm = power_iteration(problem, _start_vectors(key, problem, start), steps)
    return curvature_ratio(norm, gradient)


def hessian_eigenvalues(
    key: jax.Array,
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    k: int,
    iterations: int | None = None,
) -> jax.Array:
    """The ``k`` eigenvalues of largest magnitude of each example's input Hessian, ``[batch, k]``.

    See :func:`hessian_eigenpairs`, whose first part this is.

    Example:
        >>> squared = lambda logits, labels: 0.5 * (logits**2).sum(-1)
        >>> network = lambda images: images @ jnp.diag(jnp.array([1.0, 3.0, 2.0]))
        >>> images = jnp.array([[0.5, 0.5, 0.5]])
        >>> hessian_eigenvalues(jax.random.key(0), squared, network, images, jnp.zeros(1), k=2).round(3).tolist()
        [[9.0, 4.0]]
    """
    return hessian_eigenpairs(key, loss, logits_fn, images, labels, k=k, iterations=iterations).eigenvalues


def hessian_eigenpairs(
    key: jax.Array,
    loss: Loss,
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    k: int,
    iterations: int | None = None,
) -> Eigenpairs:
    """The ``k`` eigenvalues of largest magnitude of each example's input Hessian, and their eigenvectors.

    Lanczos iteration from a random start, with every new direction made orthogonal to all earlier ones. Where the
    directions so far span an invariant subspace (for cross-entropy on piecewise linear logits, after fewer steps than
    there are classes, for the Hessian's rank is below that; at once where it is zero) the iteration goes on from a new
    random direction, so that repeated eigenvalues are found and nothing is divided by zero. The results are the
    eigenvalues of ``Q^T H Q`` for the orthonormal directions ``Q``: the largest is at most, and the smallest at least,
    that of ``H``, and with as many iterations as there are pixels all are exact.

    Source: Lanczos, 1950; Golub and Van Loan, Matrix Computations, chapter 10.

    Cost: ``iterations`` Hessian-vector products, and the memory of ``iterations`` images per example.

    Args:
        key: random key of the start, one or one per example (``[batch]``).
        loss: per-example loss ``(logits, labels) -> [batch]``.
        logits_fn: the network; examples must not influence each other, see :func:`input_gradient`.
        images: ``[batch, height, width, channels]``, floating point in [0, 1].
        labels: whatever the loss takes, usually class numbers ``[batch]``.
        k: how many eigenvalues, at most the number of pixels and channels of an image.
        iterations: Lanczos steps, from ``k`` to that number; by default ``2 k + 20``, or that number if it is smaller.

    Returns:
        See :class:`Eigenpairs`. Beyond the Hessian's rank the eigenvalues are zero up to rounding and their vectors
        arbitrary.

    Raises:
        TypeError: if the images are not floating point.
        ValueError: for ``k`` or ``iterations`` out of range, or a loss that does not return one value per example.

    Example:
        >>> squared = lambda logits, labels: 0.5 * (logits[:, 0] - labels) ** 2
        >>> network = lambda images: images @ jnp.array([[2.0], [1.0]])
        >>> found = hessian_eigenpairs(jax.random.key(0), squared, network, jnp.ones((1, 2)), jnp.zeros(1), k=1)
        >>> bool(jnp.abs(found.eigenvalues[0, 0] - 5) < 1e-5), found.eigenvectors.shape
        (True, (1, 1, 2))
    """
    problem = make_problem(loss, logits_fn, images, labels)
    batch, *shape = problem.images.shape
    features = math.prod(shape)
    if not 1 <= k <= features:
        raise ValueError(f"k must be from 1 to {features}, the number of values in an image, got {k}")
    iterations = min(2 * k + 20, features) if iterations is None else iterations
    if not k <= iterations <= features:
        raise ValueError(f"iterations must be from k = {k} to {features}, the values in an image; got {iterations}")
    state = _lanczos_start(example_keys(key, batch), problem, iterations)
    state = iterate(_lanczos_step, problem, state, iterations)
    values, vectors = _ritz_pairs(state.basis, state.projection, k)
    return Eigenpairs(values, vectors.reshape(batch, k, *shape))


def power_iteration(problem: Problem, vectors: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """The gradient, and ``|v . H v|`` ``[batch]`` after so many steps from ``vectors``, which have length one or zero."""
    return _rayleigh(problem, iterate(_power_step, problem, vectors, steps))


@jax.jit
def curvature_ratio(norm: jax.Array, gradient: jax.Array) -> jax.Array:
    """``|H|_2 / (|g|_2 + 1e-6)``, ``[batch]``."""
    return norm / (_EUCLIDEAN.norm(gradient) + DAMPING)


def _start_vectors(key: jax.Array | None, problem: Problem, start: Start) -> jax.Array:
    if start not in get_args(Start):
        raise ValueError(f"unknown start {start!r}; choose one of {', '.join(get_args(Start))}")
    if start == "gradient":
        return _gradient_direction(problem)
    if key is None:
        raise ValueError('power iteration starts at random: pass key=jax.random.key(0), or start="gradient"')
    return _random_direction(example_keys(key, problem.images.shape[0]), problem.images)


@jax.jit
def _gradient_direction(problem: Problem) -> jax.Array:
    return _EUCLIDEAN.steepest(input_gradient(*problem))


@jax.jit
def _random_direction(keys: jax.Array, images: jax.Array) -> jax.Array:
    return _EUCLIDEAN.steepest(jax.vmap(lambda key: normal(key, images.shape[1:], images.dtype))(keys))


def _power_step(problem: Problem, vectors: jax.Array) -> jax.Array:
    return _EUCLIDEAN.steepest(input_hvp(*problem, vectors))


@jax.jit
def _rayleigh(problem: Problem, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    gradient, product = input_gradient_and_hvp(*problem, vectors)
    return gradient, jnp.abs(flatten(vectors * product).sum(-1))


class _Lanczos(NamedTuple):
    """``basis [batch, iterations, features]`` with zeros for what is still to come, and ``projection = Q^T H Q``.

    Only the upper triangle of the projection, ``[batch, iterations, iterations]``, is filled.
    """

    step: jax.Array
    keys: jax.Array
    direction: jax.Array
    basis: jax.Array
    projection: jax.Array


@partial(jax.jit, static_argnums=2)
def _lanczos_start(keys: jax.Array, problem: Problem, iterations: int) -> _Lanczos:
    images = problem.images
    batch, dtype = images.shape[0], images.dtype
    return _Lanczos(
        step=jnp.zeros((), jnp.int32),
        keys=keys,
        direction=flatten(_random_direction(fold_in_each(keys, 0), images)),
        basis=jnp.zeros((batch, iterations, math.prod(images.shape[1:])), dtype),
        projection=jnp.zeros((batch, iterations, iterations), dtype),
    )


def _lanczos_step(problem: Problem, state: _Lanczos) -> _Lanczos:
    images, direction = problem.images, state.direction
    basis = state.basis.at[:, state.step].set(direction)

    def inside(vectors: jax.Array) -> jax.Array:
        """Coefficients of what lies in the span of the basis, ``[batch, iterations]``."""
        return jnp.einsum("bmd,bd->bm", basis, vectors)

    def outside(vectors: jax.Array, coefficients: jax.Array) -> jax.Array:
        return vectors - jnp.einsum("bmd,bm->bd", basis, coefficients)

    product = flatten(input_hvp(*problem, direction.reshape(images.shape)))
    coefficients = inside(product)
    projection = state.projection.at[:, :, state.step].set(coefficients)
    rest = outside(product, coefficients)
    # What is left of an invariant subspace is rounding error, relative to all that was seen of the Hessian.
    tolerance = 4 * math.sqrt(basis.shape[-1]) * float(jnp.finfo(images.dtype).eps)
    stuck = _EUCLIDEAN.norm(rest) <= tolerance * jnp.maximum(_EUCLIDEAN.norm(projection), _EUCLIDEAN.norm(product))
    fresh = flatten(_random_direction(fold_in_each(state.keys, state.step + 1), images))
    following = jnp.where(per_example(stuck, rest), fresh, rest)
    for _ in range(2):  # once leaves the rounding error of a vector that lay almost within the span
        following = _EUCLIDEAN.steepest(following)
        following = outside(following, inside(following))
    return _Lanczos(state.step + 1, state.keys, _EUCLIDEAN.steepest(following), basis, projection)


@partial(jax.jit, static_argnums=2)
def _ritz_pairs(basis: jax.Array, projection: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    symmetric = jnp.triu(projection) + jnp.swapaxes(jnp.triu(projection, 1), -1, -2)
    values, coefficients = jnp.linalg.eigh(symmetric)
    _, largest = jax.lax.top_k(jnp.abs(values), k)
    chosen = jnp.take_along_axis(coefficients, largest[:, None], axis=-1)
    return jnp.take_along_axis(values, largest, axis=-1), jnp.einsum("bmd,bmk->bkd", basis, chosen)
