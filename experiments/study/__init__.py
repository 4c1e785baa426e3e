"""What all studies share: cells on disk, statistics over seeds, report."""

from ._figures import LABELS as LABELS
from ._figures import STYLES as STYLES
from ._networks import Recipe as Recipe
from ._networks import create_model as create_model
from ._networks import load_dataset as load_dataset
from ._networks import logits_fn as logits_fn
from ._networks import members as members
from ._networks import stacked_variables as stacked_variables
from ._networks import train as train
from ._report import Claim as Claim
from ._report import Section as Section
from ._report import Verdict as Verdict
from ._report import holds as holds
from ._report import report as report
from ._report import verdict as verdict
from ._report import verdict_alike as verdict_alike
from ._run import Run as Run
from ._statistics import Estimate as Estimate
from ._statistics import PairedDifference as PairedDifference
from ._statistics import estimate as estimate
from ._statistics import paired_difference as paired_difference
