"""What a study's row is: one way to train a network, and the settings that rows share. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Part = Literal["relu", "smooth", "search", "figures"]
PARTS: tuple[Part, ...] = get_args(Part)
Activation = Literal["relu", "sigmoid", "tanh"]
Method = Literal["plain", "at", "kw", "kw_at", "ibp", "crown_ibp", "mmr", "mmr_at", "per", "per_at"]
PROVABLE: tuple[Method, ...] = ("kw", "kw_at", "ibp", "crown_ibp", "mmr", "mmr_at", "per", "per_at")
"""Methods that train for provable robustness."""


@dataclass(frozen=True)
class Row:
    """One way to train. Hashable.

    Attributes:
        name: identifies the row's cells on disk.
        label: in tables and figures.
        method: the objective.
        theirs: name of the published row that stands beside.
        bounds: how the envelope of PER is made: by linear bounds (L-PER), from intervals (I-PER), or by composing forward.
        alpha, beta: of PER.
        gamma, weight: of MMR.
        first_eps: where the radius starts that is doubled four times in training, at each fifth; ``None``: it is constant.
        eps: the constant radius, by default the setting's.
        start: name of the row whose networks training starts from.
        subset: how many images of a batch are bounded.
        learning_rate: instead of the setting's.
    """

    name: str
    label: str
    method: Method
    theirs: str | None = None
    bounds: Literal["fast-lin", "fast-lin-interval", "forward"] = "fast-lin"
    alpha: float | None = None
    beta: float = 0.0
    gamma: float = 0.0
    weight: float = 0.0
    first_eps: float | None = None
    eps: float | None = None
    start: str | None = None
    subset: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Setting:
    """One data set, network and threat model, and the rows that are trained for it. Hashable.

    Attributes:
        name: identifies the setting's cells on disk.
        title: what it is called in reports.
        dataset: a name of :func:`jaxrobust.data.load`.
        norm, eps: what is defended against; pixels from 0 to 1.
        rows: in the order of the tables, those that others start from first.
        channels, widths, activation: see :class:`~experiments.verified_robustness.network.Network`.
        theirs: the published block that stands beside, see :data:`~experiments.verified_robustness.published.BLOCKS`.
        same: whether that block has this network, data set and radius.
        seeds: of initialisation, data order and the random numbers of training.
        epochs, batch_size: of training.
        learning_rate: of Adam.
        final_share: share of the epochs at the end with a tenth of it.
        ramp: shares of the epochs at which the radius of IBP and CROWN-IBP begins and ends to grow.
        pooled_test: training and test images are put together and so many are drawn for the test anew.
        examples: training images used, drawn by class; all by default.
        tested: test images, from the first; all by default.
        restarts: of PGD with 40 steps.
        exact_images, exact_seconds: how many test images have an exact answer, from the first, and the time for each.
        search_to, search_images: largest radius of the search, and for how many test images; no search for ``None``.
        batch: images per batch of attacks and bounds.
        engine: see :class:`experiments.study.Recipe`.
    """

    name: str
    title: str
    dataset: str
    norm: Literal["linf", "l2"]
    eps: float
    rows: tuple[Row, ...]
    channels: tuple[int, ...] = ()
    widths: tuple[int, ...] = (1024,)
    activation: Activation = "relu"
    theirs: str | None = None
    same: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    final_share: float = 0.0
    ramp: tuple[float, float] = (0.0, 0.6)
    pooled_test: int | None = None
    examples: int | None = None
    tested: int | None = None
    restarts: int = 3
    exact_images: int = 0
    exact_seconds: float = 60.0
    search_to: float | None = None
    search_images: int | None = None
    batch: int = 100
    engine: Literal["population", "fit"] = "population"

    @property
    def smooth(self) -> bool:
        """Whether the activation is not ReLU."""
        return self.activation != "relu"

    @property
    def linear(self) -> Literal["fast-lin", "crown"]:
        """What linear bounds judge: Fast-Lin, and CROWN for other activations."""
        return "crown" if self.smooth else "fast-lin"

    @property
    def one_hidden_layer(self) -> bool:
        """Whether bounds inspired by IBP and by linear bounds are the same."""
        return len(self.channels) + len(self.widths) == 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it takes part in."""
        if self.smooth:
            return ("smooth",)
        return ("relu", "figures") if self.search_to is None else ("relu", "search", "figures")

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def find(self, name: str) -> Row | None:
        """The row of this name, or ``None``."""
        return next((row for row in self.rows if row.name == name), None)
