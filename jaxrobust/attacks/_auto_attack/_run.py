"""AutoAttack over a data set: run the stages, drop what is broken, keep what is known on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust._types import LogitsFn
from jaxrobust.batching import Batch, Batches, check_classes, check_images, check_labels, to_float
from jaxrobust.files import fingerprint
from jaxrobust.iteration import Closure, is_traced
from jaxrobust.progress import ProgressBar
from jaxrobust.random import fold_in_each, typed_key
from jaxrobust.threat import ThreatModel

from .._randomized import bind_keys, is_randomized
from .._targets import highest_wrong_classes
from .._types import Attack
from . import _checks
from ._stages import AttackName, Settings, Stage, Version, objectives, settings, stages
from ._state import Progress

ROUNDING = 1e-6
"""Relative excess over the radius that the final check forgives."""


class Passes(NamedTuple):
    """Forward and backward passes that each example went through, ``[n]`` each."""

    forward: np.ndarray
    backward: np.ndarray


@dataclass(frozen=True)
class AutoAttackResult:
    """What an evaluation found; accuracies are in per cent of all examples.

    Attributes:
        images: ``[n, ...]``, an adversarial image where one was found, the clean image elsewhere.
        predictions: ``[n]``, the classifier's answers to ``images``.
        robust: ``[n]`` bool, classified correctly on the clean image and after every attack.
        robust_by: attack to ``[n]`` bool, classified correctly on the clean image and not broken by this attack. In the
            cascade later attacks see only what earlier ones left.
        clean_accuracy: before any attack.
        robust_accuracy: after all of them: the number to report.
        after: attack to accuracy after it and all before it, in order.
        distances: ``[n]``, norm of ``images - clean images``.
        passes: see :class:`Passes`; checks and the copies that fill up the last batch are not counted.
        seconds: attack to wall time, compilation included; over all sessions of a continued evaluation.
        warnings: what a reader of the number must know, a sentence or two each.
    """

    images: np.ndarray
    predictions: np.ndarray
    robust: np.ndarray
    robust_by: dict[str, np.ndarray]
    clean_accuracy: float
    robust_accuracy: float
    after: dict[str, float]
    distances: np.ndarray
    passes: Passes
    seconds: dict[str, float]
    warnings: tuple[str, ...]


@partial(jax.jit, static_argnames="targets")
def _clean(logits_fn: Closure, keys: jax.Array, images: jax.Array, targets: int) -> tuple[jax.Array, ...]:
    """Predictions, whether the logits are finite, and the classes to aim at."""
    logits = bind_keys(logits_fn, keys)(images)
    prediction = logits.argmax(-1)
    # Only correctly classified examples are attacked, and for them the prediction is the label.
    return prediction, jnp.isfinite(logits).all(-1), highest_wrong_classes(logits, prediction, targets)


@jax.jit
def _judge(
    threat: Any, logits_fn: Closure, keys: jax.Array, images: jax.Array, clean: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Predictions, whether the logits are finite, and norms of the perturbations."""
    logits = bind_keys(logits_fn, keys)(images)
    return logits.argmax(-1), jnp.isfinite(logits).all(-1), threat.norm(images - clean)


class AutoAttack:
    """What :func:`auto_attack` makes; see there."""

    def __init__(
        self,
        threat: ThreatModel,
        version: Version,
        chosen: Settings,
        cascade: bool,
        batch_size: int,
        state: str | Path | None,
        progress: bool | None,
        mesh: Mesh | None,
    ) -> None:
        self.threat, self.version, self.settings, self.cascade = threat, version, chosen, cascade
        self._batch_size, self._state, self._show, self._mesh = batch_size, state, progress, mesh

    def __call__(self, key: jax.Array, logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray) -> AutoAttackResult:
        """Evaluate a classifier on a data set.

        Args:
            key: one random key; the example of number ``i`` uses ``fold_in(key, i)``.
            logits_fn: the classifier, or :class:`Randomized`.
            images: ``[n, height, width, channels]``, uint8 or floating point within the threat model's bounds.
            labels: ``[n]`` class numbers.

        Raises:
            ValueError: for images, labels or a classifier that do not fit, logits that are not finite, or a state that
                belongs to another evaluation.
        """
        if is_traced(key, images, labels):
            raise ValueError(
                "auto_attack evaluates a data set batch by batch and cannot run inside jit; inside jit use attacks.apgd"
            )
        key = typed_key(key)
        if key.ndim:
            raise ValueError(
                f"auto_attack takes one random key and makes one per example from it, got shape {key.shape}"
            )
        images, labels = np.asarray(images), np.asarray(labels)
        check_labels(images, labels)
        check_images(images, self.threat.bounds)
        images = to_float(images)
        if images.dtype.itemsize != 4:  # half precision cannot hold the steps of an attack; float64 where JAX has it
            images = images.astype(jax.dtypes.canonicalize_dtype(np.promote_types(images.dtype, np.float32)))
        batches = Batches(images, labels, key, self._batch_size, self._mesh)
        closure = batches.replicate(Closure(logits_fn))
        first = next(iter(batches()))
        classes = check_classes(bind_keys(closure, first.keys[:2]), images[:2], labels)
        if classes < 2:
            raise ValueError("the classifier has a single class: nothing can be misclassified")
        plan, notes = stages(self.settings, self.threat, classes, images.shape[1:])
        identity = {} if self._state is None else self._identity(key, logits_fn, images, labels, classes)
        evaluation = _Evaluation(self, plan, batches, closure, Progress(self._state, identity, images), images, labels)
        evaluation.classify()
        warnings = [
            *_checks.radius(self.threat, images.shape[1:]),
            *_checks.first_batch(closure, first.keys, first.images, first.labels, self.settings),
            *notes,
            *evaluation.zero_gradients(first, classes),
        ]
        evaluation.run(self._show)
        return evaluation.result(warnings)

    def _identity(
        self, key: jax.Array, logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray, classes: int
    ) -> dict[str, Any]:
        """What a state is kept of, see :class:`Progress`."""
        return {
            "version": self.version,
            "attacks": list(self.settings.attacks),
            "cascade": self.cascade,
            "threat": f"{type(self.threat).__name__}(eps={float(self.threat.eps)!r}, bounds={self.threat.bounds})",
            "classes": classes,
            "examples": len(images),
            "images or labels": fingerprint(images, labels),
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "classifier's parameters": fingerprint(*jax.tree.leaves(Closure(logits_fn))),
        }


class _Evaluation:
    """One data set being evaluated; all that must survive is in ``progress``."""

    def __init__(
        self,
        attack: AutoAttack,
        plan: Sequence[Stage],
        batches: Batches,
        logits_fn: Closure,
        progress: Progress,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.attack, self.plan, self.batches, self.logits_fn = attack, plan, batches, logits_fn
        self.progress, self.images, self.labels = progress, images, labels
        self.names = attack.settings.attacks
        if not progress.arrays:
            n, attacks = len(images), len(self.names)
            targets = 1 + max((stage.target or 0 for stage in plan), default=0)
            progress.arrays = {
                "prediction": np.full(n, -1, np.int32),
                "clean_prediction": np.full(n, -1, np.int32),
                "targets": np.zeros((n, targets), np.int32),
                "fell": np.zeros((attacks, n), bool),
                "distance": np.zeros(n, np.float64),
                "forward": np.zeros(n, np.int64),
                "backward": np.zeros(n, np.int64),
                "seconds": np.zeros(attacks, np.float64),
                "pending": np.zeros(0, np.int64),
                "place": np.zeros(2, np.int64),  # the stage, and how many of its pending examples are done
            }

    def _check_finite(self, finite: jax.Array, batch: Batch, what: str) -> None:
        wrong = batch.numbers[: batch.kept][~np.asarray(finite)[: batch.kept]]
        if len(wrong):
            raise ValueError(
                f"the logits are NaN or infinite on {what} of {len(wrong)} examples of a batch, the first of them number "
                f"{wrong[0]}; a verdict needs finite logits. What was found before is kept in the state, if one was given"
            )

    def classify(self) -> None:
        """Clean predictions and targets; after a restart, whether the classifier is still the same."""
        arrays = self.progress.arrays
        known = arrays["clean_prediction"][0] >= 0
        for batch in self.batches():
            prediction, finite, targets = _clean(
                self.logits_fn, fold_in_each(batch.keys, 0), batch.images, arrays["targets"].shape[1]
            )
            self._check_finite(finite, batch, "the clean images")
            rows, new = batch.numbers[: batch.kept], np.asarray(prediction)[: batch.kept]
            if known:
                if (new != arrays["clean_prediction"][rows]).mean() > 0.02:
                    raise ValueError(
                        "the state belongs to another classifier: its answers to the clean images differ. Use another "
                        "folder for state, or delete this one to begin again"
                    )
                return  # the first batch decides
            arrays["clean_prediction"][rows] = arrays["prediction"][rows] = new
            arrays["targets"][rows] = np.asarray(targets)[: batch.kept]
            arrays["forward"][rows] += 1
        self.progress.save()

    @property
    def correct(self) -> np.ndarray:
        """Correctly classified on the clean image, ``[n]``."""
        return self.progress.arrays["clean_prediction"] == self.labels

    def zero_gradients(self, batch: Batch, classes: int) -> list[str]:
        """Warnings of losses without gradients on the first batch."""
        attacked = np.arange(len(batch.numbers)) < batch.kept
        attacked &= self.correct[batch.numbers]
        first_target = self.batches.rows(self.progress.arrays["targets"][batch.numbers, 0])
        found = []
        for name, (loss, targeted) in objectives(self.attack.settings, classes).items():
            arguments = (batch.labels, first_target) if targeted else (batch.labels,)
            found += _checks.zero_gradients(name, loss, self.logits_fn, batch.keys, batch.images, arguments, attacked)
        return found

    def run(self, show: bool | None) -> None:
        """All stages from where the state ends."""
        arrays = self.progress.arrays
        with ProgressBar(len(self.plan), completed=int(arrays["place"][0]), show=show) as bar:
            while arrays["place"][0] < len(self.plan):
                number, done = (int(value) for value in arrays["place"])
                stage = self.plan[number]
                row = self.names.index(stage.attack)
                if done == 0:
                    fell = arrays["fell"].any(0) if self.attack.cascade else arrays["fell"][row]
                    arrays["pending"] = np.flatnonzero(self.correct & ~fell)
                pending = arrays["pending"]
                for batch in self.batches(pending[done:]):
                    text = f"{stage.text}  robust {self._robust().mean():.2%}"
                    bar.update(number + arrays["place"][1] / len(pending), text)
                    begin = time.perf_counter()
                    self._attack(stage, row, batch)
                    arrays["seconds"][row] += time.perf_counter() - begin
                    arrays["place"][1] += batch.kept
                    self.progress.save()
                arrays["place"][:] = number + 1, 0
            self.progress.save()
            bar.update(len(self.plan), f"robust {self._robust().mean():.2%}")

    def _robust(self) -> np.ndarray:
        return self.correct & ~self.progress.arrays["fell"].any(0)

    def _attack(self, stage: Stage, row: int, batch: Batch) -> None:
        arrays = self.progress.arrays
        keys = fold_in_each(batch.keys, stage.salt + 1)
        targets = None
        if stage.target is not None:
            targets = self.batches.rows(arrays["targets"][batch.numbers, stage.target])
        found = stage.run(self.attack.threat, self.logits_fn, keys, batch.images, batch.labels, targets)
        judged = _judge(self.attack.threat, self.logits_fn, fold_in_each(keys, 0), found, batch.images)
        self._check_finite(judged[1], batch, f"what {stage.attack} found for some")
        prediction, distance = (np.asarray(array)[: batch.kept] for array in (judged[0], judged[2]))
        rows = batch.numbers[: batch.kept]
        fell = prediction != self.labels[rows]
        fresh = fell & ~arrays["fell"][:, rows].any(0)  # without a cascade the first image found is kept
        self.progress.images[rows[fresh]] = np.asarray(found)[: batch.kept][fresh]
        arrays["prediction"][rows[fresh]] = prediction[fresh]
        arrays["distance"][rows[fresh]] = distance[fresh]
        arrays["fell"][row, rows[fell]] = True
        arrays["forward"][rows] += stage.passes[0] + 1
        arrays["backward"][rows] += stage.passes[1]

    def result(self, warnings: list[str]) -> AutoAttackResult:
        """Everything that was found, with the checks that belong to the end."""
        arrays, correct = self.progress.arrays, self.correct
        images = np.array(self.progress.images)
        broken = np.asarray(arrays["fell"].any(0))
        after = {
            name: 100 * float((correct & ~arrays["fell"][: row + 1].any(0)).mean())
            for row, name in enumerate(self.names)
        }
        clean = 100 * float(correct.mean())
        if self.attack.cascade:
            warnings = warnings + _checks.square_helps(after)
        warnings = warnings + self._final_checks(images, broken)
        robust = correct & ~broken
        return AutoAttackResult(
            images=images,
            predictions=arrays["prediction"].copy(),
            robust=robust,
            robust_by={name: correct & ~arrays["fell"][row] for row, name in enumerate(self.names)},
            clean_accuracy=clean,
            robust_accuracy=100 * float(robust.mean()),
            after=after,
            distances=arrays["distance"].copy(),
            passes=Passes(arrays["forward"].copy(), arrays["backward"].copy()),
            seconds={name: float(arrays["seconds"][row]) for row, name in enumerate(self.names)},
            warnings=tuple(warnings),
        )

    def _final_checks(self, images: np.ndarray, broken: np.ndarray) -> list[str]:
        """Norm, range and reproducibility of what was found."""
        found = []
        distance, radius = self.progress.arrays["distance"], float(self.attack.threat.eps)
        outside = int((distance > radius * (1 + ROUNDING)).sum())
        if outside:
            found.append(f"{outside} adversarial images lie outside the ball, the farthest at {distance.max():.9g}.")
        check_images(images, self.attack.threat.bounds)
        if is_randomized(self.logits_fn) or not broken.any():
            return found
        changed = 0
        again = Batches(images, self.labels, jax.random.key(0), self.batches.size, self.batches.mesh)
        for batch in again(np.flatnonzero(broken)[::-1]):
            prediction = _clean(self.logits_fn, batch.keys, batch.images, 1)[0]
            rows = batch.numbers[: batch.kept]
            changed += int((np.asarray(prediction)[: batch.kept] == self.labels[rows]).sum())
        return found + _checks.inconsistent(changed, int(broken.sum()))


def auto_attack(
    threat: ThreatModel,
    version: Version = "standard",
    *,
    attacks: Sequence[AttackName | tuple[str, Attack]] | None = None,
    cascade: bool = True,
    batch_size: int = 250,
    state: str | Path | None = None,
    progress: bool | None = None,
    mesh: Mesh | None = None,
) -> AutoAttack:
    """AutoAttack, the evaluation that reviewers believe (Croce and Hein, 2020 and 2021), over a whole data set.

    Versions, with the reference implementation's constants:

    * ``"standard"``: APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square. The one to report.
    * ``"plus"``: adds untargeted APGD on DLR and untargeted FAB, with five restarts.
    * ``"rand"``: APGD on both losses with gradients averaged over 20 draws, for a :class:`Randomized` classifier.
    * ``"custom"``: the ``attacks`` you name, with the reference's constructor defaults. These differ from the standard
      version's: five restarts of untargeted APGD and FAB, nine targets and no larger-eps schedule for l1.

    Examples that are broken or misclassified are dropped, and the others are packed into full batches again before every
    run of every attack. All batches have one shape, so each attack compiles once.

    Departures from the reference (``fra31/auto-attack``, commit a392200), besides those that the modules of APGD, FAB and
    Square list:

    1. Each (attack, run, example) has its own random key, so that results depend neither on batch size, order and devices
       nor on what was broken before.
    2. The number of targets is at most the number of wrong classes. With three classes APGD-T is APGD on the untargeted
       DLR loss, with two it is APGD on the margin. The result says so.
    3. Broken means that the class of the highest logit, the first one on ties, is not the label: for all attacks alike.
    4. NaN and infinite logits, and pixels outside the box, are errors.
    5. Listing ``"fab-t"`` before ``"fab"`` does not change the restarts of ``"fab"``.
    6. A state continues exactly where it ended, and keeps the images found.
    7. The check for gradients that vanish covers cross-entropy as well, and what was found is evaluated once more in another
       order at the end. Its check for defences that optimise at test time, which looks for PyTorch calls, has no
       counterpart.

    Args:
        threat: ``Linf``, ``L2`` or ``L1`` with a concrete radius.
        version: see above.
        attacks: for ``version="custom"``, names (apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square) and attacks of your own as
            ``(name, attack)``, such as one adapted to a defence; their passes are not counted.
        cascade: ``False`` runs every attack on all correctly classified examples, for a comparison of attacks; the robust
            accuracy is the worst case over them.
        batch_size: examples per batch, rounded up to a multiple of the number of devices. Every run of an attack fills its
            last batch up with copies, so a size well below the number of examples wastes less.
        state: a folder that the progress is kept in after every batch. The same call after an interrupt continues there,
            with another batch size or number of devices if need be; a state of other images, another attack or other
            parameters is refused. Parameters are known where ``logits_fn`` binds them (``functools.partial``, a pytree);
            of another function only the answers to the first clean images are compared.
        progress: show a bar; by default when standard error is a terminal.
        mesh: devices to use, with axis ``data``; all local ones by default.

    Returns:
        A function ``(key, logits_fn, images, labels) -> AutoAttackResult``, see :meth:`AutoAttack.__call__`.

    Raises:
        ValueError: for an unknown version or attack, or a radius that is not one number.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxrobust import Linf, attacks
        >>> images = np.eye(4, dtype=np.float32)[:3].reshape(3, 2, 2, 1)
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> evaluate = attacks.auto_attack(Linf(0.6), version="custom", attacks=["apgd-dlr"])
        >>> result = evaluate(jax.random.key(0), logits_fn, images, np.arange(3))
        >>> result.clean_accuracy, result.robust_accuracy
        (100.0, 0.0)
    """
    eps = threat.eps
    if is_traced(eps) or np.ndim(eps):
        raise ValueError("auto_attack needs one concrete radius eps for all examples")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return AutoAttack(threat, version, settings(threat, version, attacks), cascade, batch_size, state, progress, mesh)
