"""Several classifiers as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure

from ._randomized import bind_keys

Space = Literal["logits", "probabilities", "loss"]


@jax.tree_util.register_pytree_node_class
class Ensemble:
    """What :func:`ensemble` makes: a ``logits_fn`` whose members' arrays are leaves."""

    def __init__(self, members: Sequence[LogitsFn], weights: tuple[float, ...], space: Space) -> None:
        self.members: tuple[Any, ...] = tuple(Closure(member) for member in members)
        self.weights, self.space = weights, space

    def member_logits(self, images: jax.Array) -> list[jax.Array]:
        """Logits ``[batch, classes]`` of each member."""
        return [member(images) for member in self.members]

    def mean(self, values: Sequence[jax.Array]) -> jax.Array:
        """Weighted mean over the members."""
        terms = [weight * value for weight, value in zip(self.weights, values, strict=True)]
        return jax.tree.reduce(jnp.add, terms)

    def combine(self, logits: Sequence[jax.Array]) -> jax.Array:
        """The members' logits as one, ``[batch, classes]``."""
        if self.space == "logits":
            return self.mean(logits)
        log_weights = jnp.log(jnp.asarray(self.weights, logits[0].dtype))[:, None, None]
        return jax.nn.logsumexp(jnp.stack([jax.nn.log_softmax(z) for z in logits]) + log_weights, axis=0)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images to the ensemble's logits."""
        return self.combine(self.member_logits(images))

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The members' arrays are the leaves."""
        return self.members, (self.weights, self.space)

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: tuple[Any, ...]) -> Ensemble:
        """Rebuild without looking at the children."""
        made = object.__new__(cls)
        made.members, (made.weights, made.space) = tuple(children), aux
        return made


def ensemble(*logits_fns: LogitsFn, space: Space = "logits", weights: Sequence[float] | None = None) -> Ensemble:
    """One classifier from several, to be attacked and evaluated like any other.

    Args:
        *logits_fns: the members, with the same classes.
        space: ``"logits"``: the mean of the logits. ``"probabilities"``: the logarithm of the mean softmax. ``"loss"``:
            the same as a classifier, but attacks maximise the mean of the members' losses. (Liu et al., 2017; Dong et
            al., 2018.)
        weights: one per member, made to sum to one; uniform by default.

    Raises:
        ValueError: without members, for an unknown space, or for weights that do not fit.

    Example:
        >>> first, second = (lambda x: x.reshape(len(x), -1)), (lambda x: -x.reshape(len(x), -1))
        >>> ensemble(first, second, weights=(3, 1))(jnp.array([[2.0, 4.0]])).tolist()
        [[1.0, 2.0]]
    """
    if not logits_fns:
        raise ValueError("an ensemble needs at least one classifier")
    if space not in get_args(Space):
        raise ValueError(f"unknown space {space!r}; choose one of {', '.join(get_args(Space))}")
    weights = [1.0] * len(logits_fns) if weights is None else list(weights)
    if len(weights) != len(logits_fns) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights must be one number per classifier, at least 0 and not all 0; got {weights}")
    total = float(sum(weights))
    return Ensemble(logits_fns, tuple(weight / total for weight in weights), space)


def loss_and_logits(
    logits_fn: LogitsFn | Closure, keys: jax.Array, images: jax.Array, loss: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """What an attack maximises ``[batch]``, and the logits that decide its success, for classifiers of every kind.

    Args:
        logits_fn: a plain classifier, a :class:`Randomized` one, which gets the keys, or an :class:`Ensemble`.
        keys: ``[batch]``.
        images: ``[batch, ...]``.
        loss: logits to one value per example.
    """
    function = logits_fn.function if isinstance(logits_fn, Closure) else logits_fn
    if isinstance(function, Ensemble) and function.space == "loss":
        members = function.member_logits(images)
        return function.mean([loss(logits) for logits in members]), function.combine(members)
    logits = bind_keys(logits_fn, keys)(images)
    return loss(logits), logits
