"""What a data set's geometry says about robustness, without any model: distances to the nearest other class."""

from ._order import least_robust as least_robust
from ._order import most_robust as most_robust
from ._robustness import Robustness as Robustness
from ._robustness import robustness as robustness
