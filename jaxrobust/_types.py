"""The two kinds of function that everything is made of."""

from __future__ import annotations

from collections.abc import Callable

import jax

LogitsFn = Callable[[jax.Array], jax.Array]
"""Images ``[batch, ...]`` to logits ``[batch, classes]``."""

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Logits ``[batch, classes]`` and labels ``[batch]`` to one value per example, ``[batch]``."""
