"""How a network varies with its input: derivatives of the loss, Hessian-vector products, Lipschitz bounds."""

from jaxrobust._types import Loss as Loss

from ._derivatives import InputGradient as InputGradient
from ._derivatives import input_gradient as input_gradient
from ._derivatives import input_gradient_and_hvp as input_gradient_and_hvp
from ._derivatives import input_hvp as input_hvp
from ._derivatives import value_and_input_gradient as value_and_input_gradient
from ._gradient_statistics import ChannelGradientStatistics as ChannelGradientStatistics
from ._gradient_statistics import ConditionalNorms as ConditionalNorms
from ._gradient_statistics import channel_gradient_statistics as channel_gradient_statistics
from ._gradient_statistics import conditional_norms as conditional_norms
from ._gradient_statistics import confidence as confidence
from ._gradient_statistics import gradient_count as gradient_count
from ._image_statistics import common_mode_ratio as common_mode_ratio
from ._image_statistics import gradient_map as gradient_map
from ._image_statistics import log_correlation as log_correlation
from ._image_statistics import saliency as saliency
from ._layers import ACTIVATION_CONSTANTS as ACTIVATION_CONSTANTS
from ._layers import AveragePool as AveragePool
from ._layers import BatchNorm as BatchNorm
from ._layers import Conv as Conv
from ._layers import Dense as Dense
from ._layers import Elementwise as Elementwise
from ._layers import Layer as Layer
from ._layers import MaxPool as MaxPool
from ._layers import Residual as Residual
from ._layers import Scale as Scale
from ._lipschitz import certified_radius as certified_radius
from ._lipschitz import layer_norm as layer_norm
from ._lipschitz import layer_norms as layer_norms
from ._lipschitz import lipschitz_upper_bound as lipschitz_upper_bound
