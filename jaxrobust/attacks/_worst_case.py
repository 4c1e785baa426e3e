"""Several attacks as one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust._types import LogitsFn
from jaxrobust.iteration import Closure
from jaxrobust.random import example_keys, fold_in_each, typed_key
from jaxrobust.threat._base import per_example

from ._loop import misclassified
from ._types import Attack, check_inputs


@jax.jit
def _keys(key: jax.Array, images: jax.Array, member: jax.Array) -> jax.Array:
    return fold_in_each(example_keys(key, images.shape[0]), member)


@jax.jit
def _wrong(logits_fn: Closure, images: jax.Array, labels: jax.Array) -> jax.Array:
    return misclassified(logits_fn(images), labels)


@jax.jit
def _take(
    logits_fn: Closure, found: jax.Array, done: jax.Array, candidates: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The candidates where they are misclassified and nothing was found before."""
    new = misclassified(logits_fn(candidates), labels) & ~done
    return jnp.where(per_example(new, found), candidates, found), done | new


def worst_case(*attacks: Attack) -> Attack:
    """The union of attacks: per example the result of the first attack that fools the classifier.

    The clean image is returned, bit for bit, where no attack succeeds and where it is misclassified itself. An example
    counts as robust only if it withstands every attack, so robust accuracy is at most that of the best of them, and
    another attack at the end never raises it.

    Cost: that of all attacks, and one forward pass more for each and for the clean images. Every attack runs on all
    examples, also on those that an earlier one has fooled already: shapes must not depend on the data.

    Args:
        *attacks: attacks of any kind: gradient, decision-based, minimum-norm (its call form, within its radius) and
            noises. Attack ``k`` gets the key ``fold_in(key, k)``, so the draws of one do not depend on what the others
            are. All should have the same threat model; the union's is the union of theirs.

    Raises:
        ValueError: without any attack.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust import Linf, attacks, losses
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ jnp.eye(4, 3)
        >>> attack = worst_case(attacks.fgsm(Linf(0.1)), attacks.pgd(Linf(0.1), loss=losses.margin, restarts=2))
        >>> attack(jax.random.key(0), logits_fn, jnp.full((2, 2, 2, 1), 0.5), jnp.array([0, 1])).shape
        (2, 2, 2, 1)
    """
    if not attacks:
        raise ValueError("worst_case needs at least one attack")

    def attack(key: jax.Array, logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        check_inputs(images, labels)
        key, closure = typed_key(key), Closure(logits_fn)
        found, done = images, _wrong(closure, images, labels)
        for number, member in enumerate(attacks):
            candidates = member(_keys(key, images, jnp.asarray(number, jnp.uint32)), logits_fn, images, labels)
            found, done = _take(closure, found, done, candidates, labels)
        return found

    return attack
