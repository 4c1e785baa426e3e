"""Evaluation of classifiers on whole data sets: batched, sharded, independent of batch size and devices."""

from jaxrobust.batching import check_images as check_images
from jaxrobust.batching import data_mesh as data_mesh

from ._accuracy import accuracy as accuracy
from ._accuracy import correct as correct
from ._batched import map_batches as map_batches
from ._gradient_masking import GradientMasking as GradientMasking
from ._gradient_masking import gradient_masking as gradient_masking
from ._robustness_curve import RobustnessCurve as RobustnessCurve
from ._robustness_curve import robustness_curve as robustness_curve
from ._transfer_matrix import TransferMatrix as TransferMatrix
from ._transfer_matrix import transfer_matrix as transfer_matrix
