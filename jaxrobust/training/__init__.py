"""Training: state, objectives, steps, the loop, and populations of networks."""

from ._checkpoints import Checkpoints as Checkpoints
from ._checkpoints import restore_variables as restore_variables
from ._fit import NonFiniteLossError as NonFiniteLossError
from ._fit import fit as fit
from ._metrics import MetricsLog as MetricsLog
from ._metrics import read_metrics as read_metrics
from ._objectives import Aux as Aux
from ._objectives import Batch as Batch
from ._objectives import Objective as Objective
from ._objectives import adversarial as adversarial
from ._objectives import standard as standard
from ._population import OptimizerFactory as OptimizerFactory
from ._population import Population as Population
from ._population import choose_population_mode as choose_population_mode
from ._population import member as member
from ._population import members_that_fit as members_that_fit
from ._population import train_population as train_population
from ._state import Apply as Apply
from ._state import TrainState as TrainState
from ._state import init_state as init_state
from ._state import linen_apply as linen_apply
from ._step import TrainStep as TrainStep
from ._step import make_train_step as make_train_step
