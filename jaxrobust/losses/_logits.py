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


def hard_labels(labels: jax.Array) -> jax.Array:
    """Classes ``[batch]``: the labels themselves, or the most probable class of soft ones ``[batch, classes]``.

    Example:
        >>> hard_labels(jnp.array([[0.1, 0.7, 0.2]])).tolist()
        [1]
    """
    return labels.argmax(-1).astype(jnp.int32) if jnp.issubdtype(labels.dtype, jnp.floating) else labels


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy ``-log softmax(logits)_y``, ``[batch]``.

    Args:
        logits: ``[batch, classes]``.
        labels: integer classes ``[batch]``, or soft ones: the probability of each class, ``[batch, classes]``, as mixing
            images makes them.
        label_smoothing: see :func:`smooth_labels`; soft labels are taken as they are.

    Raises:
        ValueError: for labels of another shape, or smoothing of soft labels.

    Example:
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4).tolist()
        [1.3863]
    """
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        _check(logits, classes=1)
        if labels.shape != logits.shape:
            raise ValueError(f"soft labels must have the shape of the logits, {logits.shape}, got {labels.shape}")
        if not (isinstance(label_smoothing, (int, float)) and label_smoothing == 0):
            raise ValueError("soft labels cannot be smoothed again; smooth them where they are made (smooth_labels)")
        return -(labels.astype(logits.dtype) * jax.nn.log_softmax(logits)).sum(-1)
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

    The loss of Carlini and Wagner (2017) without its cut-off, for which see :func:`carlini_wagner`.

    Example:
        >>> margin(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([1])).tolist()
        [-1.0]
    """
    _check(logits, labels)
    own = jnp.arange(logits.shape[1], dtype=labels.dtype) == labels[:, None]
    return jnp.where(own, -jnp.inf, logits).max(-1) - _pick(logits, labels)


def carlini_wagner(logits: jax.Array, labels: jax.Array, *, confidence: float = 0.0) -> jax.Array:
    """``-max(z_y - max_{j != y} z_j, -confidence)``, ``[batch]``: the margin, cut off above ``confidence``.

    Its gradient is exactly zero where the margin exceeds the cut-off, so an attack stops where the example is
    misclassified; on the cut-off itself it is that of the margin. Source: Carlini and Wagner, 2017.

    Example:
        >>> carlini_wagner(jnp.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([0, 0])).tolist()
        [-1.0, 0.0]
    """
    value = margin(logits, labels)
    return jnp.where(value <= confidence, value, confidence)


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


def trades(
    clean_logits: jax.Array,
    adversarial_logits: jax.Array,
    labels: jax.Array,
    *,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross-entropy of the clean logits plus ``beta`` times :func:`kl_divergence` of clean to adversarial, ``[batch]``.

    The divergence is differentiated through both arguments. Source: Zhang et al., 2019, whose ``1 / lambda`` is
    ``beta``.

    Example:
        >>> clean, adversarial = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.0, 1.0, 0.0]])
        >>> trades(clean, adversarial, jnp.array([0]), beta=5.0, label_smoothing=0.1).round(4).tolist()
        [4.9014]
    """
    entropy = cross_entropy(clean_logits, labels, label_smoothing=label_smoothing)
    return entropy + beta * kl_divergence(clean_logits, adversarial_logits)


def boosted_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """``-log p_y - log(1.0001 - max_{j != y} p_j)``, ``[batch]``, for ``p = softmax(logits)``.

    The second term wants the strongest wrong class to be weak. The published 1.0001 in place of 1 bounds it, by
    ``-log 0.0001 = 9.21``; the 1e-12 that the published code adds as well changes nothing and is left out. Source:
    Wang et al., 2020 (MART).

    Args:
        logits: ``[batch, classes]``.
        labels: integer classes ``[batch]``.
        label_smoothing: of the first term; the paper has none.

    Example:
        >>> boosted_cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(3).tolist()
        [1.386]
    """
    _check(logits, labels)
    own = jnp.arange(logits.shape[1], dtype=labels.dtype) == labels[:, None]
    strongest_wrong = jnp.where(own, 0, jax.nn.softmax(logits)).max(-1)
    return cross_entropy(logits, labels, label_smoothing=label_smoothing) - jnp.log(1.0001 - strongest_wrong)


def mart(
    clean_logits: jax.Array,
    adversarial_logits: jax.Array,
    labels: jax.Array,
    *,
    beta: float = 5.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """``boosted_cross_entropy(adversarial) + beta * KL(clean || adversarial) * (1 - p_y(clean))``, ``[batch]``.

    Examples that are misclassified, or nearly so, count more in the second term; the weight is differentiated too. The
    published code adds 1e-7 to the weight and 1e-12 inside the divergence's logarithm, so that its divergence is at
    most 27.6; here it is computed from log-probabilities, exactly. Source: Wang et al., 2020.

    Example:
        >>> clean, adversarial = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.0, 1.0, 0.0]])
        >>> mart(clean, adversarial, jnp.array([0])).round(4).tolist()
        [3.1226]
    """
    doubt = -jnp.expm1(-cross_entropy(clean_logits, labels))
    boosted = boosted_cross_entropy(adversarial_logits, labels, label_smoothing=label_smoothing)
    return boosted + beta * doubt * kl_divergence(clean_logits, adversarial_logits)
