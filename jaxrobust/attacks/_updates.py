"""How a gradient becomes a step: Optax transformations on images."""

from __future__ import annotations

import jax
import optax

from jaxrobust.threat import ThreatModel


def steepest_ascent(threat: ThreatModel, step_size: float | jax.Array) -> optax.GradientTransformation:
    """Step of length ``step_size`` (in the threat model's norm) that most increases a linear function.

    For :class:`~jaxrobust.threat.Linf` the sign of the gradient, for :class:`~jaxrobust.threat.L2` the normalised
    gradient, for :class:`~jaxrobust.threat.L1` the largest coordinate. It ascends: chain it last, after
    ``optax.trace`` for momentum, for instance.
    """
    direction = optax.stateless(lambda updates, params: threat.steepest(updates))
    return optax.chain(direction, optax.scale(step_size))
