"""Objectives: what a training step minimises, one method per module."""

from ._adversarial import adversarial as adversarial
from ._awp import awp as awp
from ._base import AdversarialObjective as AdversarialObjective
from ._base import Aux as Aux
from ._base import Batch as Batch
from ._base import BatchNormMode as BatchNormMode
from ._base import Craft as Craft
from ._base import Objective as Objective
from ._mart import mart as mart
from ._mixture import mixture as mixture
from ._standard import standard as standard
from ._trades import trades as trades
