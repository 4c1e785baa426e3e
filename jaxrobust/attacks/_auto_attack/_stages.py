"""What AutoAttack runs: its versions as lists of stages, each one run of one attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxrobust.iteration import Closure
from jaxrobust.threat import L1, ThreatModel
from jaxrobust.threat._base import flatten

from .. import _apgd, _fab, _square
from .._estimators import expectation_over_transformation
from .._gradients import GradientEstimator
from .._types import Attack

Version = Literal["standard", "plus", "rand", "custom"]
AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
NAMES: tuple[AttackName, ...] = get_args(AttackName)
VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
TARGETS = 9
STEPS = 100
QUERIES = 5000
SAMPLES = 20
"""Draws of a randomised model for each gradient of the version "rand"."""


class Settings(NamedTuple):
    """The numbers that the versions differ in.

    Attributes:
        attacks: their names, in order.
        own: the caller's attacks among them.
        apgd_restarts: of the untargeted APGDs; APGD-T and FAB-T have one run for each target.
        apgd_targets: of APGD-T; FAB-T always has nine.
        larger_eps: the larger-eps schedule of all APGDs, for l1.
        fab_restarts: of the untargeted FAB.
        samples: draws per gradient of APGD, above 1 for randomised models.
    """

    attacks: tuple[str, ...]
    own: tuple[tuple[str, Attack], ...]
    apgd_restarts: int
    apgd_targets: int
    larger_eps: bool
    fab_restarts: int
    samples: int


def settings(
    threat: ThreatModel, version: Version, attacks: Sequence[AttackName | tuple[str, Attack]] | None
) -> Settings:
    """The published settings of a version; ``attacks`` belong to "custom" and are needed there.

    Raises:
        ValueError: for an unknown version or attack, a list of attacks where the version decides, or none for "custom".
    """
    if version not in get_args(Version):
        raise ValueError(f"unknown version {version!r}; choose one of {', '.join(get_args(Version))}")
    if version != "custom":
        if attacks is not None:
            raise ValueError(f'version {version!r} has its own attacks; to choose them use version="custom"')
        attacks = VERSIONS[version]
    if isinstance(attacks, str) or not attacks:
        raise ValueError(f'version="custom" needs attacks, a sequence of names among {", ".join(NAMES)}')
    own = tuple(attack for attack in attacks if not isinstance(attack, str))
    names = tuple(attack if isinstance(attack, str) else attack[0] for attack in attacks)
    for attack, name in zip(attacks, names, strict=True):
        if isinstance(attack, str) and name not in NAMES:
            raise ValueError(f"unknown attack {name!r}; choose from {', '.join(NAMES)}, or pass (name, attack)")
        if not isinstance(attack, str) and name in NAMES:
            raise ValueError(f"the name {name!r} belongs to AutoAttack; give your attack another one")
    if len(set(names)) < len(names):
        raise ValueError(f"each attack can be listed once, got {', '.join(names)}")
    thorough, standard_l1 = version in ("plus", "custom"), version == "standard" and isinstance(threat, L1)
    return Settings(
        attacks=names,
        own=own,
        apgd_restarts=5 if thorough or standard_l1 else 1,
        apgd_targets=5 if standard_l1 else TARGETS,
        larger_eps=standard_l1,
        fab_restarts=5 if thorough else 1,
        samples=SAMPLES if version == "rand" else 1,
    )


Run = Callable[[ThreatModel, Closure, jax.Array, jax.Array, jax.Array, "jax.Array | None"], jax.Array]
"""``(threat, logits_fn, keys, images, labels, targets [batch] or None) -> images`` inside the ball, all of them clean
images where nothing was found. Every example is classified correctly on its clean image."""


class Stage(NamedTuple):
    """One run of one attack.

    Attributes:
        attack: name of the attack it belongs to.
        text: what the progress bar shows.
        salt: folded into each example's key; depends on the attack and the run, not on the other attacks.
        target: 0 for the wrong class of highest clean logit, 1 for the next ...; ``None`` for an untargeted run.
        passes: forward and backward passes per example.
        run: see :data:`Run`.
    """

    attack: str
    text: str
    salt: int
    target: int | None
    passes: tuple[int, int]
    run: Run


def stages(
    chosen: Settings, threat: ThreatModel, classes: int, image_shape: tuple[int, ...]
) -> tuple[list[Stage], list[str]]:
    """All runs for a classifier of so many classes, and what had to differ from the published setting."""
    notes: list[str] = []
    found: list[Stage] = []
    own = dict(chosen.own)
    for place, name in enumerate(chosen.attacks):
        if name in own:
            salt = 1000 * (len(NAMES) + place)
            found.append(Stage(name, name, salt, None, (0, 0), functools.partial(_run_whole, own[name])))
            continue
        targets, run, passes = _one(name, chosen, threat, classes, image_shape, notes)
        count = targets if targets is not None else {"fab": chosen.fab_restarts}.get(name, chosen.apgd_restarts)
        count = 1 if name == "square" or (name == "apgd-t" and targets is None) else count
        for number in range(count):
            text = name if count == 1 else f"{name} {number + 1}/{count}"
            target = None if targets is None else number
            single = functools.partial(run, first=number == 0) if name == "fab" else run
            found.append(Stage(name, text, 1000 * NAMES.index(name) + number, target, passes, single))
    return found, notes


def _one(
    name: str,
    chosen: Settings,
    threat: ThreatModel,
    classes: int,
    image_shape: tuple[int, ...],
    notes: list[str],
) -> tuple[int | None, Callable[..., jax.Array], tuple[int, int]]:
    """Number of targets (``None``: untargeted), run and passes of one attack; adds to the notes."""
    if name == "square":
        return (
            None,
            functools.partial(_run_whole, _square.square(threat, queries=QUERIES)),
            _square.square_passes(QUERIES, 1),
        )
    if name == "fab":
        return None, _run_fab, _fab.fab_passes(steps=STEPS, classes=classes)
    targets: int | None
    if name == "fab-t":
        targets = min(TARGETS, classes - 1)
        if targets < TARGETS:
            notes.append(f"FAB-T aims at all {targets} wrong classes, since {classes} classes have no {TARGETS}.")
        return targets, _run_fab, _fab.fab_passes(steps=STEPS)
    loss, targeted = _apgd_loss(name, classes)
    targets = min(chosen.apgd_targets, classes - 1) if targeted else None
    if targets is not None and targets < chosen.apgd_targets:
        notes.append(
            f"APGD-T aims at all {targets} wrong classes, since {classes} classes have no {chosen.apgd_targets}."
        )
    if name == "apgd-t" and not targeted:
        notes.append(
            f"The targeted DLR loss needs 4 classes, there are {classes}: APGD-T is one run of APGD with the untargeted "
            f"{'DLR' if loss == 'dlr' else 'margin'} loss."
        )
    if name == "apgd-dlr" and loss == "margin":
        notes.append("The DLR loss needs 3 classes, there are 2: APGD-DLR uses the margin loss.")
    options = _apgd.options(
        threat,
        loss,
        steps=STEPS,
        targeted=targeted,
        larger_eps=chosen.larger_eps,
        gradient=_expectation(chosen.samples) if chosen.samples > 1 else None,
    )
    forward, backward = _apgd.passes(options.steps, chosen.larger_eps)
    passes = (forward * chosen.samples, backward * chosen.samples)
    return targets, functools.partial(_run_apgd, options, chosen.larger_eps), passes


def _apgd_loss(name: str, classes: int) -> tuple[_apgd.NamedLoss, bool]:
    """The loss of an APGD and whether it is targeted, as far as there are classes enough."""
    if name == "apgd-ce":
        return "ce", False
    return ("margin" if classes == 2 else "dlr"), name == "apgd-t" and classes >= 4


def objectives(chosen: Settings, classes: int) -> dict[str, tuple[Callable[..., jax.Array], bool]]:
    """What each APGD maximises, and whether it is a function of targets besides logits and labels."""

    def objective(name: str) -> tuple[Callable[..., jax.Array], bool]:
        loss, targeted = _apgd_loss(name, classes)
        return (_apgd.TARGETED if targeted else _apgd.UNTARGETED)[loss], targeted

    return {name: objective(name) for name in chosen.attacks if name in NAMES and name.startswith("apgd")}


@functools.lru_cache
def _expectation(samples: int) -> GradientEstimator:
    return expectation_over_transformation(samples=samples)


def _run_apgd(
    options: _apgd.Options,
    larger_eps: bool,
    threat: ThreatModel,
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None,
) -> jax.Array:
    nobody = jnp.zeros(labels.shape, bool)
    found, broken = _apgd.run(
        threat, options, larger_eps, logits_fn, keys, images, labels, targets, flatten(images), nobody
    )
    return _apgd.result(images, found, broken)


def _run_fab(
    threat: ThreatModel,
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None,
    first: bool = True,
) -> jax.Array:
    candidates, norms = _fab.fab_run(
        threat, keys, logits_fn, images, labels, targets, steps=STEPS, random_start=not first
    )
    return _apgd.result(images, flatten(candidates), norms <= threat.eps)


def _run_whole(
    attack: Attack,
    threat: ThreatModel,
    logits_fn: Closure,
    keys: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None,
) -> jax.Array:
    del threat, targets
    return attack(keys, logits_fn, images, labels)
