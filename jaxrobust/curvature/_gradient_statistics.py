"""Statistics of many input gradients: their size, their colour channels, how many entries are zero.

Functions that return one value per example are jittable; those that summarise a data set compute on the host, with NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def gradient_count(gradients: jax.Array, threshold: float = 1e-6) -> jax.Array:
    """How many entries of each input gradient are above a threshold in magnitude, integers ``[batch]``.

    A hint of gradient masking, no proof: a network that is sure of its examples has small loss gradients as well, and in
    float32 they are exactly zero where ``p_y`` rounds to 1. Source: SOAR study, appendix 3.F, which averages the count for
    the loss at the clean test images.

    Args:
        gradients: ``[batch, ...]`` from :func:`input_gradient`.
        threshold: per unit of pixel range, 1e-6 in the source.

    Example:
        >>> gradient_count(jnp.array([[0.5, -1e-3, 1e-7], [0.0, 0.0, 0.0]])).tolist()
        [2, 0]
    """
    return (jnp.abs(gradients) > threshold).reshape(gradients.shape[0], -1).sum(1)


def confidence(logits: jax.Array) -> jax.Array:
    """Largest class probability ``max_k softmax(z)_k``, ``[batch]``.

    Source: SOAR study, Table 3.1, the average over clean, noisy and attacked images.

    Args:
        logits: ``[batch, classes]``.

    Example:
        >>> confidence(jnp.log(jnp.array([[0.2, 0.7, 0.1]]))).round(4).tolist()
        [0.7]
    """
    return jax.nn.softmax(logits).max(-1)


class ConditionalNorms(NamedTuple):
    """Mean of a norm over all examples, and over those that an attack leaves and breaks.

    ``mean = robust_accuracy * attack_fails + (1 - robust_accuracy) * attack_succeeds``; the mean over no example is NaN.

    Attributes:
        mean: over all examples.
        attack_fails: over the examples that are still classified correctly.
        attack_succeeds: over the others, those misclassified without any attack among them.
        robust_accuracy: share of examples on which the attack fails.
    """

    mean: float
    attack_fails: float
    attack_succeeds: float
    robust_accuracy: float


def conditional_norms(norms: ArrayLike, robust: ArrayLike) -> ConditionalNorms:
    """Mean gradient norm, and the means given that an attack fails and succeeds (gradient-norm study, Table 4.1).

    Args:
        norms: ``[n]``, one per example: the gradient of its own loss, not of a mean over a batch.
        robust: ``[n]`` boolean, whether the example is classified correctly after the attack.

    Raises:
        ValueError: for arrays of different lengths, none at all, or flags that are not boolean.

    Example:
        >>> conditional_norms([1.0, 2.0, 6.0], [True, True, False])
        ConditionalNorms(mean=3.0, attack_fails=1.5, attack_succeeds=6.0, robust_accuracy=0.6666666666666666)
    """
    values, flags = np.asarray(norms, np.float64), np.asarray(robust)
    if values.ndim != 1 or values.shape != flags.shape or not len(values):
        raise ValueError(f"norms and robust must be [n] with n at least 1, got {values.shape} and {flags.shape}")
    if flags.dtype != bool:
        raise ValueError(f"robust must be boolean, got {flags.dtype}; compare predictions with labels")
    mean, fails, succeeds = (
        float(group.mean()) if len(group) else float("nan") for group in (values, values[flags], values[~flags])
    )
    return ConditionalNorms(mean, fails, succeeds, float(flags.mean()))


class ChannelGradientStatistics(NamedTuple):
    """Distribution of ``|gradient|``: row 0 for all channels together, row ``1 + c`` for channel ``c``.

    Attributes:
        quantiles: ``[1 + channels, len(quantiles)]``, exact zeros included.
        zeros: ``[1 + channels]``, share of entries that are exactly zero.
        below: ``[1 + channels, len(thresholds)]``, share of entries below each threshold, exact zeros included.
        histogram: ``[1 + channels, bins]``, number of entries with ``log10 |gradient|`` in each bin; exact zeros and
            entries outside the bins are in none. ``None`` if no edges were given.
    """

    quantiles: np.ndarray
    zeros: np.ndarray
    below: np.ndarray
    histogram: np.ndarray | None


def channel_gradient_statistics(
    gradients: ArrayLike,
    *,
    quantiles: Sequence[float] = (0.01, 0.5),
    thresholds: Sequence[float] = (1e-9, 1e-10),
    log10_edges: Sequence[float] | np.ndarray | None = None,
) -> ChannelGradientStatistics:
    """Size of gradient entries by colour channel: quantiles, shares of zeros and of tiny entries, histogram.

    Source: gradient-norm study, Figure 4.4, from 128 images of three networks. Cross-entropy gradients carry the rounding of
    ``p - one_hot``, 6e-8 in float32 where ``p_y`` is near 1: compute tails that matter in float64.

    Args:
        gradients: ``[n, height, width, channels]`` from :func:`input_gradient`.
        quantiles: in [0, 1].
        thresholds: per unit of pixel range.
        log10_edges: edges of the histogram's bins, increasing, in decades: ``np.linspace(-12, 0, 61)`` for instance.

    Raises:
        ValueError: for gradients of another shape, or without entries.

    Example:
        >>> gradients = np.array([1e-3, 0.0, 1e-1, 1e-12]).reshape(1, 1, 2, 2)  # two pixels, two channels
        >>> found = channel_gradient_statistics(gradients, log10_edges=[-4.0, -2.0, 0.0])
        >>> found.zeros.tolist(), found.below[:, 0].tolist(), found.histogram.tolist()
        ([0.25, 0.0, 0.5], [0.5, 0.0, 1.0], [[1, 1], [1, 1], [0, 0]])
    """
    magnitudes = np.abs(np.asarray(gradients))
    if magnitudes.ndim != 4 or not magnitudes.size:
        raise ValueError(f"gradients must have shape [n, height, width, channels], got {magnitudes.shape}")
    rows = [magnitudes.ravel(), *np.moveaxis(magnitudes, -1, 0).reshape(magnitudes.shape[-1], -1)]
    histogram = None
    if log10_edges is not None:
        histogram = np.stack([np.histogram(np.log10(row[row > 0]), log10_edges)[0] for row in rows])
    return ChannelGradientStatistics(
        quantiles=np.stack([np.quantile(row, quantiles) for row in rows]),
        zeros=np.array([np.mean(row == 0) for row in rows]),
        below=np.array([[np.mean(row < threshold) for threshold in thresholds] for row in rows]),
        histogram=histogram,
    )
