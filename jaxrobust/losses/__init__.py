"""Losses of a classifier, one value per example; the caller reduces.

Functions of logits and labels, which attacks maximise and training minimises, and losses that take the network itself: those
that differentiate it by its input, and those that bound it over a threat model.
"""

from ._certified import MarginMethod as MarginMethod
from ._certified import certified_cross_entropy as certified_cross_entropy
from ._cure import cure as cure
from ._edge_alignment import edge_alignment as edge_alignment
from ._expansion import Point as Point
from ._expansion import expansion_points as expansion_points
from ._foar import foar as foar
from ._gradient_norm import gradient_norm as gradient_norm
from ._gradient_norm import input_gradient_penalty as input_gradient_penalty
from ._llr import llr as llr
from ._logits import boosted_cross_entropy as boosted_cross_entropy
from ._logits import carlini_wagner as carlini_wagner
from ._logits import cross_entropy as cross_entropy
from ._logits import dlr as dlr
from ._logits import hard_labels as hard_labels
from ._logits import kl_divergence as kl_divergence
from ._logits import log_odds as log_odds
from ._logits import logit_difference as logit_difference
from ._logits import margin as margin
from ._logits import mart as mart
from ._logits import smooth_labels as smooth_labels
from ._logits import targeted_dlr as targeted_dlr
from ._logits import trades as trades
from ._mmr import mmr as mmr
from ._per import per as per
from ._soar import Product as Product
from ._soar import second_order_bound as second_order_bound
from ._soar import soar as soar
from ._soar import soar_penalty as soar_penalty
