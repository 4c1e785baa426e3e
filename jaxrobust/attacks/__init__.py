"""Attacks: functions ``(key, logits_fn, images, labels) -> adversarial images``, made by factories."""

from jaxrobust._types import LogitsFn as LogitsFn
from jaxrobust._types import Loss as Loss

from ._gradients import GradientEstimator as GradientEstimator
from ._gradients import plain as plain
from ._loop import iterative as iterative
from ._noise import gaussian_noise as gaussian_noise
from ._noise import uniform_noise as uniform_noise
from ._pgd import bim as bim
from ._pgd import fgsm as fgsm
from ._pgd import multi_targeted_pgd as multi_targeted_pgd
from ._pgd import pgd as pgd
from ._types import Attack as Attack
from ._updates import steepest_ascent as steepest_ascent
