"""Objectives: what a training step minimises, one method per module."""

from ._adversarial import adversarial as adversarial
from ._awp import awp as awp
from ._base import AdversarialObjective as AdversarialObjective
from ._base import Aux as Aux
from ._base import Batch as Batch
from ._base import BatchNormMode as BatchNormMode
from ._base import Craft as Craft
from ._base import Objective as Objective
from ._expansions import foar as foar
from ._expansions import soar as soar
from ._mart import mart as mart
from ._mixture import mixture as mixture
from ._mma import mma as mma
from ._penalties import cure as cure
from ._penalties import edge_alignment as edge_alignment
from ._penalties import gradient_norm as gradient_norm
from ._penalties import llr as llr
from ._standard import standard as standard
from ._trades import trades as trades
