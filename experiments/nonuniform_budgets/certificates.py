"""Certified radii of a row's networks: a cell for each chunk of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import L2, Linf, NonUniform, attacks, certify, evaluation, losses
from jaxrobust.attacks import LogitsFn
from jaxrobust.reporting import CommandError

from .networks import SCALE, Networks
from .presets import MAIN, Row, Setting, Variant

START = 1.0
"""Pixels in [0, 1] need no larger l-infinity radius to start from."""


FEWEST = 4
"""Images of one network that can be compared, half of them with the others."""


class Certificates(NamedTuple):
    """Of one network, for pixels in [-1, 1]; images without a certificate are left out.

    Attributes:
        numbers: of the test images, ``[images]``.
        radii: of each pixel, ``[images, height, width, channels]``.
        uniform, nonuniform: the largest radius that is the same for all pixels, and the geometric mean of ``radii``,
            ``[images]``.
        fooled: how many images PGD inside the certified set brings into another class: 0, or a certificate is wrong.
        left_out: images whose margin is too small for a certificate.
    """

    numbers: np.ndarray
    radii: np.ndarray
    uniform: np.ndarray
    nonuniform: np.ndarray
    fooled: int
    left_out: int


class Starts(NamedTuple):
    """Mean radii of the second half of the images, ``[images]`` each, for pixels in [-1, 1].

    Attributes:
        uniform: the uniform radius.
        direction: in the common direction of the first half's radii, without any search.
        uniform_brief, direction_brief: after a short search from either start.
        whole: after the whole search.
    """

    uniform: np.ndarray
    direction: np.ndarray
    uniform_brief: np.ndarray
    direction_brief: np.ndarray
    whole: np.ndarray


def threat(variant: Variant, features: int) -> Linf | L2:
    """The largest set that a search may start from, without a box."""
    return L2(START * features**0.5, bounds=None) if variant == "l2" else Linf(START, bounds=None)


def certificates(networks: Networks, setting: Setting, row: Row, variant: Variant) -> list[Certificates]:
    """Of all networks of a row, seed by seed."""
    return [
        _joined([_chunk(networks, setting, row, variant, index, begin) for begin in _begins(setting)])
        for index in range(len(setting.seeds))
    ]


def steps(networks: Networks, setting: Setting, row: Row) -> list[Callable[[], object]]:
    """What makes a row's cells, in this order."""
    return [
        partial(networks.trained, setting, row),
        partial(networks.accuracy, setting, row),
        *(
            partial(_chunk, networks, setting, row, variant, index, begin)
            for variant in row.variants
            for index in range(len(setting.seeds))
            for begin in _begins(setting)
        ),
        *(partial(starts, networks, setting, row, index) for index in range(len(setting.seeds))),
    ]


def _begins(setting: Setting) -> range:
    return range(0, setting.images, setting.chunk)


def _images(networks: Networks, setting: Setting, row: Row, seed_index: int) -> np.ndarray:
    """Numbers of the first test images that a network classifies correctly."""
    right: np.ndarray = networks.accuracy(setting, row)["arrays"]["clean"][seed_index]
    return np.flatnonzero(right)[: setting.images]


def _chunk(
    networks: Networks, setting: Setting, row: Row, variant: Variant, seed_index: int, begin: int
) -> dict[str, Any]:
    """The cell of some images of one network."""

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        index = _images(networks, setting, row, seed_index)[begin : begin + setting.chunk]
        if not len(index):
            return {"fooled": 0}, {"numbers": index}
        dataset = networks.dataset(setting)
        limit = threat(variant, int(np.prod(dataset.image_shape)))

        def certify_batch(logits_fn: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
            found = certify.nonuniform(
                logits_fn, images, labels, limit, elide=variant != "linf_logits", steps=setting.steps
            )
            return found, _inside(logits_fn, keys, images, labels, found.radii, kind=type(limit))

        found, right = _mapped(networks, setting, seed_index, row, certify_batch, index)
        arrays = {
            "numbers": index,
            "radii": SCALE * found.radii,
            "uniform": SCALE * found.uniform,
            "nonuniform": SCALE * found.mean_radius,
            "certified": found.certified,
        }
        return {"fooled": int((found.certified & ~right).sum())}, arrays

    return networks.run.cell(
        f"certify/{setting.name}/{row.name}/{variant}/{setting.seeds[seed_index]}/{begin}", compute
    )


def _mapped(
    networks: Networks,
    setting: Setting,
    seed_index: int,
    row: Row,
    function: Callable[[LogitsFn, jax.Array, jax.Array, jax.Array], Any],
    index: np.ndarray,
) -> Any:
    dataset = networks.dataset(setting)
    logits_fn = list(networks.logits_fns(setting, row))[seed_index]
    images, labels = np.asarray(dataset.test_images)[index], dataset.test_labels[index]
    # Always the same shape: what is missing is filled up.
    return evaluation.map_batches(function, logits_fn, images, labels, key=jax.random.key(0), batch_size=setting.chunk)


@partial(jax.jit, static_argnames="kind")
def _inside(
    logits_fn: LogitsFn, keys: jax.Array, images: jax.Array, labels: jax.Array, radii: jax.Array, *, kind: Any
) -> jax.Array:
    """Whether images are still classified correctly after PGD inside the certified sets, ``[batch]``."""
    attack = attacks.pgd(NonUniform(kind, radii, bounds=None), steps=20, loss=losses.margin)
    return logits_fn(attack(keys, logits_fn, images, labels)).argmax(-1) == labels


def _joined(chunks: list[dict[str, Any]]) -> Certificates:
    filled = [chunk for chunk in chunks if len(chunk["arrays"]["numbers"])]
    if sum(chunk["arrays"]["certified"].sum() for chunk in filled) < FEWEST:
        name = chunks[0]["cell"]
        raise CommandError(
            f"{name}: fewer than {FEWEST} images have a certificate; train longer, or certify more images"
        )
    arrays = {name: np.concatenate([chunk["arrays"][name] for chunk in filled]) for name in filled[0]["arrays"]}
    kept = arrays.pop("certified")
    return Certificates(
        **{name: values[kept] for name, values in arrays.items()},
        fooled=sum(chunk["fooled"] for chunk in filled),
        left_out=int((~kept).sum()),
    )


def starts(networks: Networks, setting: Setting, row: Row, seed_index: int) -> Starts:
    """The cell of what the direction of some images' radii is worth for others (section 3.2.2)."""

    def compute() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        found = certificates(networks, setting, row, MAIN)[seed_index]
        half = len(found.numbers) // 2
        # One chunk is enough.
        rest = slice(half, half + setting.chunk)
        direction = certify.common_direction(jnp.asarray(found.radii[:half]))
        limit = threat(MAIN, found.radii[0].size)
        arrays = {"uniform": found.uniform[rest], "whole": found.nonuniform[rest]}
        for name, initial, steps in (
            ("direction", direction, 0),
            ("uniform_brief", None, setting.brief_steps),
            ("direction_brief", direction, setting.brief_steps),
        ):

            def search(
                logits_fn: LogitsFn,
                keys: jax.Array,
                images: jax.Array,
                labels: jax.Array,
                initial: Any = initial,
                steps: int = steps,
            ) -> jax.Array:
                return certify.nonuniform(logits_fn, images, labels, limit, steps=steps, initial=initial).mean_radius

            arrays[name] = SCALE * _mapped(networks, setting, seed_index, row, search, found.numbers[rest])
        return {}, arrays

    return Starts(
        **networks.run.cell(f"starts/{setting.name}/{row.name}/{setting.seeds[seed_index]}", compute)["arrays"]
    )
