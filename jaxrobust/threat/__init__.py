"""Threat models: norm balls within the box of valid pixels. The one place that knows about norms."""

from ._base import Bounds as Bounds
from ._base import Extent as Extent
from ._base import ThreatModel as ThreatModel
from ._base import safe_norm as safe_norm
from ._l1 import L1 as L1
from ._l2 import L2 as L2
from ._linf import Linf as Linf
from ._non_uniform import NonUniform as NonUniform
