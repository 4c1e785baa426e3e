"""Data sets in memory, their augmentation, and the order in which training sees them."""

from jaxrobust.batching import to_float as to_float

from ._augment import compose as compose
from ._augment import random_crop as random_crop
from ._augment import random_flip as random_flip
from ._cache import default_cache_dir as default_cache_dir
from ._dataset import Dataset as Dataset
from ._dataset import holdout as holdout
from ._order import batches as batches
from ._order import epoch_batches as epoch_batches
from ._order import epoch_order as epoch_order
from ._order import steps_per_epoch as steps_per_epoch
from ._registry import load as load
from ._registry import names as names
from ._tfds import DatasetNotFoundError as DatasetNotFoundError
