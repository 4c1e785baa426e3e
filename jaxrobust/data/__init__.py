"""Data sets in memory and on disk, their augmentation, and the stream of batches that training sees."""

from jaxrobust.batching import to_float as to_float

from ._augment import Augment as Augment
from ._augment import compose as compose
from ._augment import random_crop as random_crop
from ._augment import random_flip as random_flip
from ._augment import random_rotation as random_rotation
from ._cache import default_cache_dir as default_cache_dir
from ._dataset import Dataset as Dataset
from ._dataset import holdout as holdout
from ._erasing import random_erasing as random_erasing
from ._folder import ImageFolder as ImageFolder
from ._imagenet import IMAGENET_MEAN as IMAGENET_MEAN
from ._imagenet import IMAGENET_STD as IMAGENET_STD
from ._imagenet import imagenet_augment as imagenet_augment
from ._imagenet import imagenet_mix as imagenet_mix
from ._mix import Mix as Mix
from ._mix import cutmix as cutmix
from ._mix import mix as mix
from ._mix import mixup as mixup
from ._npz import open_npz as open_npz
from ._order import epoch_batches as epoch_batches
from ._order import epoch_order as epoch_order
from ._order import steps_per_epoch as steps_per_epoch
from ._rand_augment import rand_augment as rand_augment
from ._registry import load as load
from ._registry import names as names
from ._resized_crop import random_resized_crop as random_resized_crop
from ._source import ImageSource as ImageSource
from ._source import Rows as Rows
from ._stream import Focus as Focus
from ._stream import Generated as Generated
from ._stream import Shard as Shard
from ._stream import batches as batches
from ._tfds import DatasetNotFoundError as DatasetNotFoundError
