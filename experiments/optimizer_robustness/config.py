"""What the optimizer-robustness study runs: the command line, and the settings behind its presets.

Standard library only, so that ``--help`` answers at once.

Settings of the preset ``small`` (bundled digits; the numbers S2 to S7 name the settings in the tests). Times are for two
CPU cores:

======================  ===========================================  ========================================  ======
name                    data and network                             what it shows                             time
======================  ===========================================  ========================================  ======
digits_dct16_linear     digits upsampled in the DCT domain, softmax  S2: 192 of 256 frequencies are empty      5 s
digits_dct16_mlp        the same, MLP 256-128-10                     S3: the headline claim                    60 s
digits28_mlp            bilinear 28x28, MLP 784-128-10               S4: the same inside [0, 1]                40 s
digits_mlp              raw 8x8 digits, MLP 64-128-10                S5: training on filtered images           10 s
digits_dct16_cnn4       as S2, the study's CNN                       S6: noise and Lipschitz bound             60 s
digits_cnn4             raw 8x8 digits, the study's CNN              S7: negative control                      90 s
======================  ===========================================  ========================================  ======
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from . import published

Part = Literal["compare", "frequencies", "bands", "linear", "lipschitz"]
PARTS: tuple[Part, ...] = ("compare", "frequencies", "bands", "linear", "lipschitz")
OPTIMIZERS = ("sgd", "momentum", "adam", "rmsprop", "sign_sgd", "adagrad", "adamw")
