"""Certificates: proofs that no perturbation of a threat model changes what a network says.

Bounds of any JAX function from images to logits, by interpreting its jaxpr. The exact certifier is imported on first use, since
the solver takes half a second to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._bounds import Bounds as Bounds
from ._bounds import LinearBounds as LinearBounds
from ._bounds import interval_bounds as interval_bounds
from ._bounds import linear_bounds as linear_bounds
from ._certified import SearchResult as SearchResult
from ._certified import certified as certified
from ._certified import radius as radius
from ._certified import search_radius as search_radius
from ._margins import HalfSpaces as HalfSpaces
from ._margins import half_spaces as half_spaces
from ._margins import margins as margins
from ._methods import METHODS as METHODS
from ._nonuniform import NonUniformResult as NonUniformResult
from ._nonuniform import nonuniform as nonuniform
from ._per_image import margin_specification as margin_specification
from ._radii import PairSimilarity as PairSimilarity
from ._radii import common_direction as common_direction
from ._radii import cosine_similarity_matrix as cosine_similarity_matrix
from ._radii import geometric_mean as geometric_mean
from ._radii import pair_similarity as pair_similarity
from ._scaling import uniform_radius as uniform_radius
from ._trace import UnsupportedOperation as UnsupportedOperation

if TYPE_CHECKING:
    from ._exact import ExactResult as ExactResult
    from ._exact import ExactStatus as ExactStatus
    from ._exact import exact as exact


def __getattr__(name: str) -> Any:
    if name in ("ExactResult", "ExactStatus", "exact"):
        return getattr(importlib.import_module("._exact", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
