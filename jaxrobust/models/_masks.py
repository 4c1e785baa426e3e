"""Which parameters are to be trained, and which to be decayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def trainable_mask(params: Mapping[str, Any], trainable: tuple[str, ...] = ("head",)) -> dict[str, Any]:
    """``True`` for every parameter that is to be trained, ``False`` for those to be kept.

    The last layer of every network here is called ``"head"``.

    Args:
        params: the network's parameters, ``variables["params"]``.
        trainable: names of its parts that are to be trained.

    Raises:
        ValueError: for a name that is no part of the network.

    Example:
        >>> import optax
        >>> mask = trainable_mask({"encoder": {"kernel": 1.0}, "head": {"kernel": 2.0}})
        >>> mask
        {'encoder': {'kernel': False}, 'head': {'kernel': True}}
        >>> optimizer = optax.partition({True: optax.sgd(0.01), False: optax.set_to_zero()}, mask)
    """
    unknown = [name for name in trainable if name not in params]
    if unknown:
        raise ValueError(f"the network has no part {', '.join(unknown)}; its parts are {', '.join(params)}")
    return {name: jax.tree.map(lambda _, on=name in trainable: on, part) for name, part in params.items()}


def decay_mask(params: Mapping[str, Any]) -> dict[str, Any]:
    """``True`` for every parameter that takes weight decay, ``False`` for scale and bias of batch norm and layer norm.

    All other biases are decayed, as Wang et al. (2023) do. A layer with a ``"scale"`` counts as a norm, so the mask fits
    Flax modules other than ours, too.

    Args:
        params: the network's parameters, ``variables["params"]``.

    Example:
        >>> import optax
        >>> decay_mask({"norm": {"scale": 1.0, "bias": 0.0}, "head": {"kernel": 2.0, "bias": 0.0}})
        {'norm': {'scale': False, 'bias': False}, 'head': {'kernel': True, 'bias': True}}
        >>> optimizer = optax.chain(optax.add_decayed_weights(5e-4, mask=decay_mask), optax.sgd(0.1, 0.9, nesterov=True))
    """
    norm = "scale" in params
    return {name: decay_mask(part) if isinstance(part, Mapping) else not norm for name, part in params.items()}
