"""Exact answers for small piecewise linear networks: a proof or a counterexample, by mixed-integer programming."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure, is_traced
from jaxrobust.progress import ProgressBar
from jaxrobust.threat import ThreatModel

from ._exact_search import Search
from ._exact_start import balls_around, certificates, classes, known_examples
from ._methods import methods_named
from ._network_checks import check
from ._piecewise_linear import piecewise_linear

TOLERANCE = 1e-5
"""Margins up to here count as adversarial in proofs, and counterexamples are looked for below minus this.

HiGHS holds constraints to 1e-7 and binary variables to 1e-6. Where a quarter of ``_certified.rounding`` is more, it is that: what
a network's own roundings may add up to, without those of bounds.
"""


class ExactStatus(enum.IntEnum):
    """What is known of an image.

    Attributes:
        VERIFIED: no perturbation changes its label.
        FALSIFIED: one does, and here it is.
        TIMEOUT: the time was over.
        NUMERICAL: the smallest margin is zero, up to the solver's tolerance, or the solver failed.
    """

    VERIFIED = 0
    FALSIFIED = 1
    TIMEOUT = 2
    NUMERICAL = 3


class ExactResult(NamedTuple):
    """Arrays on the host, with a row for each image.

    Attributes:
        status: int ``[n]``, see :class:`ExactStatus`.
        radius: ``[n]``, proved: no image nearer than this has another label. It is ``threat.eps`` for verified images and, with
            ``minimum_norm``, the distance of the nearest adversarial example for falsified ones, see :func:`exact`; otherwise
            a lower bound of it, from what was known when the search ended. In the threat model's norm.
        distance: ``[n]``, of the counterexample, ``inf`` where there is none: no less than that of the nearest one.
        counterexamples: ``[n, *image]``, in ball and box; the image itself where there is none.
        binaries: int ``[n]``, units that may switch in the ball; 0 where no program was solved.
        seconds: ``[n]``, spent on mixed-integer programming.
    """

    status: np.ndarray
    radius: np.ndarray
    distance: np.ndarray
    counterexamples: np.ndarray
    binaries: np.ndarray
    seconds: np.ndarray


def exact(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    threat: ThreatModel,
    *,
    minimum_norm: bool = False,
    method: str | Sequence[str] = "crown",
    falsify: jax.Array | None = None,
    time_limit: float = 60.0,
    workers: int | None = None,
    progress: bool | None = None,
) -> ExactResult:
    """Decide for each image whether a perturbation changes its label, by a proof or a counterexample.

    For small networks of affine layers with ReLU, leaky ReLU, absolute value or max pooling between them. What ``falsify``
    breaks is settled, and so is every class that CROWN rules out. For each other class a mixed-integer program looks for the point
    of the ball where it gains most on the label, or for the nearest one where it wins. The time grows exponentially with the
    units that may switch within the ball: 20 take a fraction of a second, 50 some seconds, hundreds may take for ever.

    Counterexamples are checked by running ``logits_fn``. Proofs hold in floating point: HiGHS has tolerances, 1e-7 for constraints
    and 1e-6 for binary variables. To be on the safe side, it must prove that all margins in the ball are above a small positive
    number: 1e-5, or 64 roundings of the largest logit if that is more. Where a margin passes zero with slope ``s``, ``radius`` is
    short of the exact one by that number divided by ``s``; the exact one lies between ``radius`` and ``distance``.

    This runs on the host; inside ``jit`` it is an error. Where a tie is broken in favour of the label, the image is neither
    verified nor falsified.

    Args:
        logits_fn: images ``[batch, ...]`` to logits ``[batch, classes]``, see :func:`certified`.
        images: ``[n, ...]``, floating point, in the threat model's box: [0, 1] unless it says otherwise.
        labels: int ``[n]``.
        threat: ``Linf``, ``L1``, or ``NonUniform`` of these.
        minimum_norm: whether to find the nearest adversarial example in the ball instead of any. Takes longer, above all where
            the ball is large; ``falsify`` makes it smaller.
        method: which bounds of the values inside the network the programs start from, one or several of :data:`METHODS`.
        falsify: adversarial images of an attack, shaped as ``images``. Those in ball and box that are misclassified are
            counterexamples; others are ignored.
        time_limit: seconds for each image, by the clock; the solver may take a little longer to stop.
        workers: images solved at the same time, by threads; by default one per core. More than there are idle cores make
            time-outs more likely.
        progress: show a progress bar; by default when the output is a terminal.

    Raises:
        UnsupportedOperation: for a network that is not piecewise linear, naming the operation.
        ValueError: for other norms, networks that are too large, and what :func:`certified` refuses.

    Source:
        Tjeng et al., 2019, "Evaluating robustness of neural networks with mixed integer programming".

    Example:
        >>> from jaxrobust import Linf
        >>> logits_fn = lambda x: jax.nn.relu(x) @ jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> images, labels = jnp.array([[0.8, 0.2], [0.5, 0.8]]), jnp.array([0, 1])
        >>> found = exact(logits_fn, images, labels, Linf(0.2), minimum_norm=True)
        >>> [ExactStatus(status).name for status in found.status], found.radius.round(3).tolist()
        (['VERIFIED', 'FALSIFIED'], [0.2, 0.15])
    """
    if is_traced(logits_fn, images, labels, threat):
        raise ValueError(
            "exact runs a solver on the host, so it cannot be part of a jitted function: call it outside jit"
        )
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    methods = methods_named(method)
    if not time_limit > 0 or (workers is not None and workers < 1):
        raise ValueError(f"time_limit and workers must be positive, got {time_limit} and {workers}")
    if falsify is not None and jnp.shape(falsify) != images.shape:
        raise ValueError(f"falsify must have the shape of the images, {images.shape}, got {jnp.shape(falsify)}")
    check(logits_fn, images, labels, threat)
    closure = Closure(logits_fn)
    network = piecewise_linear(closure, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))
    balls = balls_around(images, threat)
    distance, counterexamples = known_examples(closure, images, labels, threat, balls, falsify)
    if minimum_norm:
        balls = [ball.shrunk(d * (1 + 1e-6)) for ball, d in zip(balls, distance, strict=True)]
    radii, classes_of = np.array([ball.radius for ball in balls]), np.asarray(labels).tolist()
    within = dataclasses.replace(threat, eps=jnp.asarray(radii, images.dtype))  # type: ignore[type-var]
    found = jax.device_get(certificates(closure, images, labels, within, methods))
    searches = [
        Search(
            network,
            ball,
            [(lower[i].reshape(-1), upper[i].reshape(-1)) for lower, upper in found.bounds],
            classes_of[i],
            found.distances[i].astype(np.float64),
            float(distance[i]),
            max(TOLERANCE, float(found.rounding[i]) / 4),
            minimum_norm,
        )
        for i, ball in enumerate(balls)
    ]
    todo = [i for i, search in enumerate(searches) if search.is_open]
    lock, double = Lock(), images.dtype == jnp.float64

    def run(i: int) -> None:
        def is_adversarial(image: np.ndarray) -> bool:
            with lock, jax.enable_x64(double):  # programs for several devices must not overlap
                return int(classes(closure, image.reshape(1, *images.shape[1:]))[0]) != classes_of[i]

        searches[i].run(time_limit, is_adversarial)

    _together(run, todo, workers, progress)
    for i in todo:
        if (image := searches[i].counterexample) is not None:
            counterexamples[i] = image.reshape(images.shape[1:])
    return ExactResult(
        np.array([_status(search) for search in searches], np.int64),
        np.array([search.proved for search in searches]),
        np.array([search.distance for search in searches]),
        counterexamples,
        np.array([search.binaries for search in searches]),
        np.array([search.seconds for search in searches]),
    )


def _status(search: Search) -> ExactStatus:
    if search.distance < math.inf:
        return ExactStatus.FALSIFIED
    if search.verified:
        return ExactStatus.VERIFIED
    return ExactStatus.TIMEOUT if search.timed_out else ExactStatus.NUMERICAL


def _together(run: Callable[[int], None], todo: list[int], workers: int | None, progress: bool | None) -> None:
    """Run searches at the same time: the solver computes outside Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers or cores)
    with ProgressBar(len(todo), show=progress, text="exact") as bar:
        try:
            for done, future in enumerate(as_completed([pool.submit(run, i) for i in todo]), 1):
                future.result()
                bar.update(done, "exact")
        finally:
            pool.shutdown(cancel_futures=True)
