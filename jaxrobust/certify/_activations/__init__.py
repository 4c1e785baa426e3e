"""Linear bounds of activation functions on intervals: of each input alone, whatever the network."""

from ._activation import Activation as Activation
from ._activation import CrownRule as CrownRule
from ._activation import Lines as Lines
from ._activation import ParallelRule as ParallelRule
from ._kinked import absolute as absolute
from ._kinked import clip as clip
from ._kinked import elu as elu
from ._kinked import elu_with_alpha as elu_with_alpha
from ._kinked import leaky_relu as leaky_relu
from ._kinked import relu as relu
from ._smooth import arctan as arctan
from ._smooth import erf as erf
from ._smooth import exp as exp
from ._smooth import gelu as gelu
from ._smooth import gelu_tanh as gelu_tanh
from ._smooth import sigmoid as sigmoid
from ._smooth import silu as silu
from ._smooth import softplus as softplus
from ._smooth import square as square
from ._smooth import tanh as tanh
