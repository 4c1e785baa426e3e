"""Networks as Flax Linen modules: images in [0, 1] to logits, normalisation inside."""

from ._cnn import CNN4 as CNN4
from ._cnn import SmallCNN as SmallCNN
from ._layers import Normalize as Normalize
from ._layers import torch_default_init as torch_default_init
from ._lipschitz import lipschitz_layers as lipschitz_layers
from ._m5 import M5 as M5
from ._masks import decay_mask as decay_mask
from ._masks import trainable_mask as trainable_mask
from ._mlp import MLP as MLP
from ._mlp import Linear as Linear
from ._preact_resnet import PreActResNet as PreActResNet
from ._preact_resnet import PreActResNet18 as PreActResNet18
from ._registry import create as create
from ._registry import names as names
from ._torch import from_torch as from_torch
from ._variables import check_variables as check_variables
from ._vit import ViT as ViT
from ._vit import vit_b16 as vit_b16
from ._vit import vit_small as vit_small
from ._vit_checkpoint import load_vit_npz as load_vit_npz
from ._weights import load_variables as load_variables
from ._weights import read_weights as read_weights
from ._weights import write_weights as write_weights
from ._wide_resnet import WideResNet as WideResNet
from ._wide_resnet import wrn_28_10 as wrn_28_10
from ._wide_resnet import wrn_34_10 as wrn_34_10
