"""Evaluation of classifiers on whole data sets: batched, sharded, independent of batch size and devices."""

from ._accuracy import accuracy as accuracy
from ._accuracy import correct as correct
from ._batched import check_images as check_images
from ._batched import data_mesh as data_mesh
from ._batched import map_batches as map_batches
