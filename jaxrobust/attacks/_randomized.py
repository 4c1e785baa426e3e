"""Classifiers that draw random numbers, such as randomised defences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure


@jax.tree_util.register_pytree_node_class
class Randomized:
    """A classifier ``(keys, images) -> logits`` that takes one random key per example.

    JAX functions draw no hidden random numbers, so a randomised defence must say that it needs keys. Attacks and
    evaluations that know about randomness give it fresh keys for every call; others refuse it.

    Args:
        function: ``(keys [batch], images [batch, ...]) -> logits [batch, classes]``; with a key per example a result
            does not depend on the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> def noisy(keys, images):
        ...     noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        ...     return images.reshape(len(images), -1)[:, :3] + 0.1 * noise
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> bind_keys(Randomized(noisy), keys)(jnp.ones((2, 2, 2, 1))).shape
        (2, 3)
    """

    def __init__(self, function: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
        self._function = Closure(function)

    def __call__(self, *args: Any) -> jax.Array:
        """``(keys, images) -> logits``.

        Raises:
            TypeError: when it is called with images alone.
        """
        if len(args) != 2:
            raise TypeError(
                "a randomised classifier takes (keys, images), but was called with images alone: this attack or "
                "measure needs a deterministic classifier. Bind keys with functools.partial to fix the randomness"
            )
        return self._function(*args)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """The function's arrays are the leaves."""
        return (self._function,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any, ...]) -> Randomized:
        """Rebuild without looking at the children."""
        del aux
        randomized = object.__new__(cls)
        (randomized._function,) = children
        return randomized


def is_randomized(logits_fn: LogitsFn | Closure) -> bool:
    """Whether a classifier takes random keys."""
    return isinstance(logits_fn.function if isinstance(logits_fn, Closure) else logits_fn, Randomized)


def bind_keys(logits_fn: LogitsFn | Closure, keys: jax.Array) -> LogitsFn:
    """``images -> logits`` with these keys, one per example, if the classifier is randomised; else as it is."""
    if is_randomized(logits_fn):
        return lambda images: logits_fn(keys, images)  # type: ignore[call-arg]
    return logits_fn
