"""Over-parametrised linear regression under attack, and minimum-norm estimators, in closed form (float64, NumPy).

Setting of the SOAR study's section 3.2: ``f(x) = <w, x>`` in ``d`` dimensions, data ``x = (x_1, 0, ..., 0)`` with labels
``x_1``, that is ``w* = (1, 0, ..., 0)``, and half the squared residual as loss. ``second`` stands for ``E[X_1^2]``, ``mean`` for
``E[X_1]``. The attack moves every coordinate but the first by ``eps`` along the sign of its weight.
"""

from __future__ import annotations

import math

import numpy as np


def population_gradient(weights: np.ndarray, second: float) -> np.ndarray:
    """Gradient of the population loss: ``(w_1 - 1) E[X_1^2]`` in the first entry, 0 in the others.

    The text prints ``E[X_1]`` in place of the second moment.
    """
    gradient = np.zeros_like(weights)
    gradient[0] = (weights[0] - 1) * second
    return gradient


def gradient_descent(start: np.ndarray, second: float, rate: float, steps: int) -> np.ndarray:
    """Weights after so many steps on the population loss; all but the first stay where they start."""
    weights = start.copy()
    for _ in range(steps):
        weights -= rate * population_gradient(weights, second)
    return weights


def attacked_loss(weights: np.ndarray, inputs: np.ndarray, eps: float) -> np.ndarray:
    """Loss of each input under the attack, by moving it: ``1/2 (<w, x + dx> - x_1)^2``.

    Args:
        weights: ``[d]``.
        inputs: values of ``x_1``, ``[n]``.
        eps: of the attack.
    """
    points = np.zeros((len(inputs), len(weights)))
    points[:, 0] = inputs
    moved = points + eps * np.concatenate([[0.0], np.sign(weights[1:])])
    return 0.5 * np.square(moved @ weights - inputs)


def robust_loss(weights: np.ndarray, mean: float, second: float, eps: float) -> float:
    """The expected attacked loss, eq. (3.2): ``L(w) + eps E[r] s + eps^2 / 2 s^2``, ``s`` the l1 norm of ``w_2, ..., w_d``."""
    residual, size = weights[0] - 1, np.abs(weights[1:]).sum()
    return float(second * residual**2 / 2 + eps * mean * residual * size + eps**2 / 2 * size**2)


def minimize_robust_loss(start: np.ndarray, mean: float, second: float, eps: float, steps: int = 20_000) -> np.ndarray:
    """Projected gradient descent on :func:`robust_loss`, a convex quadratic of ``w_1 - 1`` and the magnitudes of the others.

    If ``X_1`` varies, the only minimum is ``w*``.
    """
    residual, sizes = float(start[0] - 1), np.abs(start[1:])
    signs = np.sign(start[1:])
    rate = 1 / (second + len(sizes) * eps**2)  # above the largest eigenvalue of the quadratic form
    for _ in range(steps):
        total = sizes.sum()
        slope = eps * mean * residual + eps**2 * total
        residual -= rate * (second * residual + eps * mean * total)
        sizes = np.maximum(sizes - rate * slope, 0)
    return np.concatenate([[1 + residual], signs * sizes])


def expected_squared_l1(dimension: int, sigma: float) -> float:
    """``E ||W||_1^2`` for ``W ~ N(0, sigma^2 I)``: ``d sigma^2 + d (d - 1) (2 / pi) sigma^2``.

    Example:
        >>> round(expected_squared_l1(50, 0.3), 4)
        144.8747
    """
    return sigma**2 * (dimension + dimension * (dimension - 1) * 2 / math.pi)


def expected_attacked_loss(dimension: int, sigma: float, eps: float) -> float:
    """Attacked loss of the limit of gradient descent, in the mean over starts ``N(0, sigma^2 I)``: ``O(eps^2 d^2 sigma^2)``.

    Example:
        >>> round(expected_attacked_loss(50, 0.3, 0.1), 6)
        0.695848
    """
    return eps**2 / 2 * expected_squared_l1(dimension - 1, sigma)


def ridge_minimizer(second: float, weight: float) -> float:
    """First weight of the minimiser of ``L(w) + weight / 2 ||w||_2^2``; the others are 0. It is below 1: biased.

    Example:
        >>> round(ridge_minimizer(4.0, 0.7), 5)
        0.85106
    """
    return second / (second + weight)


def lasso_minimizer(second: float, weight: float) -> float:
    """First weight of the minimiser of ``L(w) + weight ||w||_1``; the others are 0."""
    return max(0.0, 1 - weight / second)


def minimum_norm(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The shortest weights that fit the data, eq. (2.8)."""
    return np.asarray(np.linalg.pinv(inputs) @ labels)


def population_loss(weights: np.ndarray, true: np.ndarray, covariance: np.ndarray) -> float:
    """``(w - w*)^T Sigma (w - w*)``."""
    error = weights - true
    return float(error @ covariance @ error)


def augmentation_gain(standard: np.ndarray, extra: np.ndarray, true: np.ndarray, covariance: np.ndarray) -> float:
    """Loss of the minimum-norm fit minus that with extra, noiseless data: ``u^T Sigma u + 2 u^T Sigma v``.

    ``v`` is the part of ``w*`` that both sets of inputs leave open, ``u`` the one that the extra ones decide. The gain may be
    negative, but not for a multiple of the identity.

    Args:
        standard, extra: inputs, ``[n, d]`` each.
        true: ``w*``, ``[d]``.
        covariance: ``Sigma``, ``[d, d]``.
    """
    left = true - np.linalg.pinv(standard) @ (standard @ true)
    both = np.concatenate([standard, extra])
    open_part = true - np.linalg.pinv(both) @ (both @ true)
    decided = left - open_part
    return float(decided @ covariance @ decided + 2 * decided @ covariance @ open_part)
