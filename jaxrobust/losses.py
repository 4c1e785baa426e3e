"""Losses of a classifier, one value per example; the caller reduces.

Throughout, ``logits`` is ``[batch, classes]``, ``z_y`` the logit of the label and ``z_(1) >= z_(2) >= ...`` the sorted
logits. Attacks maximise these losses.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _check(logits: jax.Array, *labels: jax.Array, classes: int = 2, instead: str = "") -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape [batch, classes], got {logits.shape}")
    for label in labels:
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(f"labels and targets must be integer class numbers, got dtype {label.dtype}")
        if label.shape != logits.shape[:1]:
            raise ValueError(f"labels and targets must have shape [batch] = {logits.shape[:1]}, got {label.shape}")
    if logits.shape[1] < classes:
        raise ValueError(f"this loss needs at least {classes} classes, got {logits.shape[1]}{instead}")


def _pick(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _largest(logits: jax.Array, count: int) -> list[jax.Array]:
    """``z_(1), z_(2), ...``, ``[batch]`` each, the first of equal ones before the others.

    One maximum after the other is faster than ``top_k`` and its scattered gradient: three times, for ten classes on CPU.
    """
    found = []
    for _ in range(count):
        chosen = jnp.arange(logits.shape[1]) == logits.argmax(-1)[:, None]
        found.append(jnp.where(chosen, logits, 0).sum(-1))
        logits = jnp.where(chosen, -jnp.inf, logits)
    return found


def smooth_labels(
    labels: jax.Array, num_classes: int, smoothing: float, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """``(1 - smoothing) * one_hot + smoothing / classes``, ``[batch, classes]`` (Szegedy et al., 2016)."""
    if isinstance(smoothing, (int, float)) and not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must lie in [0, 1], got {smoothing}")
    return (1 - smoothing) * jax.nn.one_hot(labels, num_classes, dtype=dtype) + smoothing / num_classes


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy ``-log softmax(logits)_y``, ``[batch]``.

    Args:
        logits: ``[batch, classes]``.
        labels: integer classes ``[batch]``.
        label_smoothing: see :func:`smooth_labels`.

    Example:
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4).tolist()
        [1.3863]
    """
    _check(logits, labels, classes=1)
    log_probabilities = jax.nn.log_softmax(logits)
    if isinstance(label_smoothing, (int, float)) and label_smoothing == 0:
        return -_pick(log_probabilities, labels)
    weights = smooth_labels(labels, logits.shape[1], label_smoothing, logits.dtype)
    return -(weights * log_probabilities).sum(-1)


def logit_difference(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """``z_t - z_y`` for a target class ``t``, ``[batch]``."""
    _check(logits, labels, targets)
    return _pick(logits, targets) - _pick(logits, labels)


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """``max_{j != y} z_j - z_y``, ``[batch]``: positive where the example is misclassified.

    The loss of Carlini and Wagner (2017), without its cut-off.

    Example:
        >>> margin(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([1])).tolist()
        [-1.0]
    """
    _check(logits, labels)
    own = jnp.arange(logits.shape[1], dtype=labels.dtype) == labels[:, None]
    return jnp.where(own, -jnp.inf, logits).max(-1) - _pick(logits, labels)


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """``log((1 - p_y) / p_y) = logsumexp_{j != y} z_j - z_y``, ``[batch]``, for ``p = softmax(logits)``.

    Rises as ``p_y`` falls, also where ``p_y`` rounds to 1. Its gradient is that of the cross-entropy over ``1 - p_y``, so
    it points the same way and does not vanish where the classifier is sure.

    Example:
        >>> jnp.exp(log_odds(jnp.log(jnp.array([[0.2, 0.8]])), jnp.array([1]))).round(4).tolist()
        [0.25]
    """
    _check(logits, labels)
    own = jnp.arange(logits.shape[1], dtype=labels.dtype) == labels[:, None]
    return jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1) - _pick(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Difference of logits ratio, ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12)``, ``[batch]``.

    Invariant to shifting and scaling the logits. Source: Croce and Hein, 2020.

    Raises:
        ValueError: for fewer than three classes; use :func:`margin` there.
    """
    _check(logits, labels, classes=3, instead="; use losses.margin")
    first, _, third = _largest(logits, 3)
    return margin(logits, labels) / (first - third + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)``, ``[batch]``.

    Source: Croce and Hein, 2020.

    Raises:
        ValueError: for fewer than four classes; use :func:`logit_difference` there.
    """
    _check(logits, labels, targets, classes=4, instead="; use losses.logit_difference")
    first, _, third, fourth = _largest(logits, 4)
    return logit_difference(logits, labels, targets) / (first - (third + fourth) / 2 + 1e-12)


def kl_divergence(logits_p: jax.Array, logits_q: jax.Array) -> jax.Array:
    """``KL(softmax(logits_p) || softmax(logits_q))``, ``[batch]``.

    Example:
        >>> kl_divergence(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).round(4).tolist()
        [0.0]
    """
    if logits_p.ndim != 2 or logits_p.shape != logits_q.shape:
        raise ValueError(f"both logits must have shape [batch, classes], got {logits_p.shape} and {logits_q.shape}")
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
