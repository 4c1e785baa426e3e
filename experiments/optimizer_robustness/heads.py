"""Training of the last layer of a frozen, pretrained vision transformer (table 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np

from jaxrobust import attacks, evaluation, models


class Head(nn.Module):
    """The last layer of a ViT on its inputs, which are the same in every epoch and so are computed only once.

    Attributes:
        classes: number of logits.
    """

    classes: int

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """:func:`features` ``[batch, 1, views, width]`` to logits ``[batch, classes]`` of the first view."""
        return models.Linear(self.classes, name="linear")(features[:, 0, 0], train)


def params(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What :class:`Head` has learned, as parameters of the whole network."""
    return {"head": variables["params"]["linear"]["head"]}


def encoder(weights: Path, model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """The pretrained encoder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not fit the model.
    """
    height, width, channels = image_shape
    # The head's key does not matter: the head is trained.
    variables = models.load_vit_npz(
        weights, cast(models.ViT, model), (height, width, channels), head_key=jax.random.key(0)
    )
    return variables["params"]["encoder"]


def features(model: models.ViT, frozen: Mapping[str, Any], images: np.ndarray, mirror: bool) -> np.ndarray:
    """Inputs of the head, ``[n, 1, views, width]``.

    With ``mirror`` there are two views, the image and its mirror image, so that
    :func:`jaxrobust.data.random_flip`, which reverses the third axis, does to features what it does to images.
    """

    @jax.jit
    def of_images(closure: attacks.LogitsFn, images: jax.Array) -> jax.Array:
        views = [images, images[:, :, ::-1]] if mirror else [images]
        return jax.numpy.stack([closure(view) for view in views], axis=1)[:, None]

    def extract(variables: Any, images: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, images, method="features"))

    closure = cast(attacks.LogitsFn, jax.tree_util.Partial(extract, {"params": dict(frozen)}))
    return cast(
        np.ndarray,
        evaluation.map_batches(
            lambda closure, keys, images, labels: of_images(closure, images),
            closure,
            images,
            np.zeros(len(images), np.int32),
            key=jax.random.key(0),
        ),
    )
