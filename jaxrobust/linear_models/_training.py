"""Training the linear model with any Optax optimizer, on the population risk or on fresh samples."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxrobust.frequency import dct_matrix

from ._covariances import CovarianceSampler, wishart_covariance
from ._problem import LeastSquares, as_weights
from ._recording import RecordAt, Trajectory, record_steps, scan_and_record


def train(
    problem: LeastSquares,
    optimizer: optax.GradientTransformation,
    weights: ArrayLike,
    steps: int,
    *,
    key: jax.Array | None = None,
    samples: int | None = None,
    sampler: CovarianceSampler = wishart_covariance,
    record_at: RecordAt | None = None,
    basis: jax.Array | None = None,
) -> Trajectory:
    """Train the linear model in space and report its weights in the frequency domain.

    Each step moves the weights in space, ``w = C^T w~``, along ``S (w - w*)``, the gradient of the mean
    squared error: ``S`` is the covariance of the inputs or, with ``samples``, the second-moment matrix of
    that many fresh samples. The coordinates matter: gradient descent is the same in any orthonormal basis,
    but signGD, Adam and RMSProp, which scale coordinates one by one, are not, and would never touch an
    irrelevant frequency if they were run on the DCT coefficients themselves (``basis=jnp.eye(d)`` shows it).

    The steps are tiny and sequential: run this on CPU. In float32 a long run of gradient descent ends where
    its increments round to nothing (at 9.98 instead of 10 in the published study): use float64, or
    :func:`gradient_descent`, which is exact in both.

    Args:
        problem: The problem; its dtype is the dtype of the run.
        optimizer: Any Optax optimizer, for example ``optax.sign_sgd(0.01)``.
        weights: DCT coefficients to start from, shape ``[d]``.
        steps: Number of updates.
        key: Random key; needed with ``samples``.
        samples: Fresh samples per step; None trains on the population risk.
        sampler: How to draw the second-moment matrix of the samples. The default draws it directly from its
            law, at a cost that does not depend on ``samples``; ``sample_covariance`` draws the samples
            themselves, and is what to use for fewer samples than dimensions.
        record_at: Steps to record, strictly increasing; by default 200 evenly spaced on a logarithmic axis.
            Step ``t`` is the state after ``t`` updates. Every step: ``range(steps + 1)``.
        basis: Orthonormal matrix ``[d, d]`` whose transpose takes DCT coefficients to the coordinates that
            are trained; by default the DCT matrix, so that these are the inputs.

    Returns:
        The recorded steps and weights (DCT coefficients). Updates after the last record are not made.

    Raises:
        ValueError: If ``samples`` comes without ``key``, or ``record_at`` is not increasing within
            ``[0, steps]``.

    Source: Optimizer-robustness study, section 4.4.2 and figure 4.7.

    Example:
        >>> from jaxrobust.linear_models import published_initial_weights, published_problem
        >>> run = train(published_problem(), optax.sign_sgd(0.01), published_initial_weights(), 1000)
        >>> round(float(run.weights[-1, 2]), 2)  # the irrelevant weight started at 0.02
        -4.3
    """
    weights = as_weights(problem, weights)
    if samples is not None and key is None:
        raise ValueError("training on samples needs a random key; pass key=jax.random.key(0)")
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be a positive number, or None for the population risk, got {samples}")
    recorded = jnp.asarray(record_steps(steps, record_at))
    basis = dct_matrix(problem.dimension, weights.dtype) if basis is None else basis
    return Trajectory(recorded, _run(optimizer, samples, sampler, problem, weights, recorded, key, basis))


@functools.partial(jax.jit, static_argnames=("optimizer", "samples", "sampler"))
def _run(
    optimizer: optax.GradientTransformation,
    samples: int | None,
    sampler: CovarianceSampler,
    problem: LeastSquares,
    weights: jax.Array,
    recorded: jax.Array,
    key: jax.Array | None,
    basis: jax.Array,
) -> jax.Array:
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def gradient(index: jax.Array, params: jax.Array) -> jax.Array:
        error = matmul(basis, params) - problem.target
        if samples is None or key is None:
            return matmul(problem.variances * error, basis)
        covariance = sampler(jax.random.fold_in(key, index), problem, samples)
        return matmul(matmul(covariance, error), basis)

    def step(index: jax.Array, state: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        params, optimizer_state = state
        slope = gradient(index, params)
        # Adam's bias correction in Optax mixes dtypes, which callers' strict promotion would refuse
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer_state = optimizer.update(slope, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    params = matmul(weights, basis)
    start = (params, optimizer.init(params))
    return scan_and_record(step, start, recorded, lambda state: matmul(basis, state[0]))
