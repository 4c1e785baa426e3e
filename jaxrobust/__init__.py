"""Adversarial robustness of neural networks in JAX.

Sub-packages are imported on first use, so ``import jaxrobust`` costs little more than ``import jax``; only
``jaxrobust.models``, ``jaxrobust.training`` and what builds on them need Flax and Orbax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .threat import L1 as L1
from .threat import L2 as L2
from .threat import Linf as Linf
from .threat import NonUniform as NonUniform

if TYPE_CHECKING:
    from . import attacks as attacks
    from . import certify as certify
    from . import curvature as curvature
    from . import data as data
    from . import edges as edges
    from . import evaluation as evaluation
    from . import frequency as frequency
    from . import geometry as geometry
    from . import iteration as iteration
    from . import linear_models as linear_models
    from . import losses as losses
    from . import models as models
    from . import optimizers as optimizers
    from . import random as random
    from . import schedules as schedules
    from . import threat as threat
    from . import training as training

__version__ = "0.1.0"

_MODULES = (
    "attacks",
    "certify",
    "curvature",
    "data",
    "edges",
    "evaluation",
    "frequency",
    "geometry",
    "iteration",
    "linear_models",
    "losses",
    "models",
    "optimizers",
    "random",
    "schedules",
    "threat",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
