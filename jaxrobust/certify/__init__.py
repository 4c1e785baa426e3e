"""Certificates: proofs that no perturbation of a threat model changes what a network says.

Bounds of any JAX function from images to logits, by interpreting its jaxpr.
"""

from ._bounds import Bounds as Bounds
from ._bounds import LinearBounds as LinearBounds
from ._bounds import interval_bounds as interval_bounds
from ._bounds import linear_bounds as linear_bounds
from ._bounds import margin_specification as margin_specification
from ._certified import SearchResult as SearchResult
from ._certified import certified as certified
from ._certified import radius as radius
from ._certified import search_radius as search_radius
from ._margins import HalfSpaces as HalfSpaces
from ._margins import half_spaces as half_spaces
from ._margins import margins as margins
from ._methods import METHODS as METHODS
from ._trace import UnsupportedOperation as UnsupportedOperation
