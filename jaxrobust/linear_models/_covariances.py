"""Covariance matrices a step of training may see: the population's, or those of fresh samples.

The labels are noise-free, so the gradient of the mean loss over any samples is ``S (w - w*)`` with
``S = X^T X / n``: all that a step needs of its samples is ``S``. Every function here is
``(key, problem, count) -> S`` in DCT coordinates, shape ``[d, d]``.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from ._problem import LeastSquares, sample, to_frequency


class CovarianceSampler(Protocol):
    """``(key, problem, count) -> X~^T X~ / count``, shape ``[d, d]``, of ``count`` fresh samples."""

    def __call__(self, key: jax.Array, problem: LeastSquares, count: int) -> jax.Array:
        """Draw one covariance matrix."""
        ...


def sample_covariance(key: jax.Array, problem: LeastSquares, count: int) -> jax.Array:
    """Draw samples and return their second-moment matrix ``X~^T X~ / n`` in DCT coordinates.

    Args:
        key: Random key.
        problem: The problem.
        count: Number ``n`` of samples.

    Returns:
        Symmetric positive semi-definite matrix, ``[d, d]``; zero in the rows and columns of irrelevant
        frequencies up to rounding.
    """
    inputs, _ = sample(key, problem, count)
    coefficients = jnp.where(problem.irrelevant, 0, to_frequency(inputs))
    return jnp.matmul(coefficients.T, coefficients, precision=jax.lax.Precision.HIGHEST) / count


def wishart_covariance(key: jax.Array, problem: LeastSquares, count: int) -> jax.Array:
    """Draw the second-moment matrix of ``n`` samples without drawing the samples.

    ``X~^T X~`` has the Wishart law ``W_d(diag(variances), n)``. Bartlett's decomposition draws it exactly as
    ``D^(1/2) L L^T D^(1/2)``, ``D = diag(variances)``, with ``L`` lower triangular,
    ``L_ii^2 ~ chi^2(n - i)`` and ``L_ij ~ N(0, 1)`` below the diagonal: ``O(d^2)`` random numbers instead of
    ``n d``, whatever ``n`` is. Same law as :func:`sample_covariance`: mean ``D``, variances
    ``(sigma~_i^2 sigma~_j^2 + [i = j] sigma~_i^4) / n``.

    Args:
        key: Random key.
        problem: The problem.
        count: Number ``n`` of samples, at least ``d``.

    Returns:
        Symmetric positive semi-definite matrix, ``[d, d]``; exactly zero in the rows and columns of
        irrelevant frequencies.

    Raises:
        ValueError: If ``count`` is less than the dimension, where the decomposition does not exist.

    Source: Bartlett, 1933; Anderson, "An Introduction to Multivariate Statistical Analysis", section 7.2.
    """
    dimension, dtype = problem.dimension, problem.variances.dtype
    if count < dimension:
        raise ValueError(
            f"Bartlett's decomposition needs at least as many samples as dimensions, got {count} samples in "
            f"{dimension} dimensions; use sample_covariance"
        )
    diagonal_key, lower_key = jax.random.split(key)
    degrees = count - jnp.arange(dimension).astype(dtype)
    diagonal = jnp.sqrt(jax.random.chisquare(diagonal_key, degrees, dtype=dtype))
    lower = jnp.tril(jax.random.normal(lower_key, (dimension, dimension), dtype), -1) + jnp.diag(diagonal)
    factor = jnp.sqrt(problem.variances)[:, None] * lower
    return jnp.matmul(factor, factor.T, precision=jax.lax.Precision.HIGHEST) / count
