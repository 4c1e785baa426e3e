"""Networks as Flax Linen modules: images in [0, 1] to logits, normalisation inside."""

from ._cnn import CNN4 as CNN4
from ._cnn import SmallCNN as SmallCNN
from ._lipschitz import lipschitz_layers as lipschitz_layers
from ._mlp import MLP as MLP
from ._mlp import Linear as Linear
from ._preact_resnet import PreActResNet as PreActResNet
from ._preact_resnet import PreActResNet18 as PreActResNet18
from ._registry import create as create
from ._registry import names as names
