"""The presets: data sets with their networks, and the points in the plane. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Variant = Literal["linf", "linf_logits", "l2"]
"""What is certified: cuboids by bounds of margins, cuboids by bounds of logits, ellipsoids by bounds of margins."""
VARIANTS: dict[Variant, str] = {
    "linf": "l∞, margins",
    "linf_logits": "l∞, logits",
    "l2": "l2, margins",
}
MAIN: Variant = "linf"
"""The one that tables 3.2 and 3.3 are compared with."""


@dataclass(frozen=True)
class Row:
    """How one row's networks are trained, and what is certified of them. Hashable.

    Attributes:
        eps: l-infinity radius of PGD training for pixels in [-1, 1]; 0 is plain training.
        variants: what is certified.
    """

    eps: float
    variants: tuple[Variant, ...] = (MAIN,)

    @property
    def name(self) -> str:
        """Identifies the row's cells on disk."""
        return f"robust_{self.eps:g}" if self.eps else "vanilla"

    @property
    def label(self) -> str:
        """What the row is called in reports."""
        return f"robust, {self.eps:g}" if self.eps else "vanilla"


@dataclass(frozen=True)
class Setting:
    """One data set and architecture, and the rows that are trained on it. Hashable.

    Attributes:
        name: identifies the setting's cells on disk.
        dataset: a name of :func:`jaxrobust.data.load`.
        widths: of the hidden layers.
        rows: in the order of the report, plain training first.
        seeds: of initialisation, data order and training's random numbers.
        images: how many are certified: the first test images that the network classifies correctly.
        reference: data set and width of the published rows beside ours, a key of :data:`.published.ROWS`.
        classes: the task is to tell these apart; all by default.
        epochs, batch_size, learning_rate, b2, weight_decay: of training, by Adam.
        attack_steps, attack_step: PGD's steps in training, and their size in units of the radius.
        steps: of the search for radii.
        brief_steps: of a short search, to compare starts.
        chunk: images that are certified together, a cell on disk.
    """

    name: str
    dataset: str
    widths: tuple[int, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    images: int
    reference: tuple[str, int] | None = None
    classes: tuple[int, ...] | None = None
    epochs: int = 60
    batch_size: int = 100
    learning_rate: float = 1e-3
    b2: float = 0.999
    weight_decay: float = 0.0
    attack_steps: int = 10
    attack_step: float = 0.25
    steps: int = 400
    brief_steps: int = 40
    chunk: int = 60


@dataclass(frozen=True)
class Plane:
    """The points in the plane. Hashable.

    Attributes:
        seeds: each makes its own data and its own network.
        epochs: of training.
        points: how many test points are certified.
        steps: of the search for radii.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    epochs: int = 150
    points: int = 200
    steps: int = 400


def small(datasets: tuple[str, ...]) -> tuple[Setting, ...]:
    """The settings on these data sets, digits or mnist (section 8 of the study's specification)."""
    every: tuple[Variant, ...] = ("linf", "linf_logits", "l2")
    seeds, narrow, beside = (0, 1, 2, 3, 4), (64, 64, 64), ("mnist", 100)

    def rows(*radii: float, variants: tuple[Variant, ...] = (MAIN,)) -> tuple[Row, ...]:
        return tuple(Row(eps, variants) for eps in radii)

    four, three = rows(0, 0.1, 0.2, 0.4, variants=every), rows(0, 0.1, 0.2)
    settings = (
        Setting("digits", "digits", (50, 50), four, seeds, 60, beside),
        Setting("digits_1_7", "digits", (50, 50), three, seeds, 60, classes=(1, 7)),
        Setting("mnist", "mnist", narrow, three, seeds[:3], 40, beside, epochs=8, chunk=40),
        Setting("mnist_1_7", "mnist", narrow, three, seeds[:3], 40, classes=(1, 7), epochs=20, chunk=40),
    )
    return tuple(setting for setting in settings if setting.dataset in datasets)


def paper(datasets: tuple[str, ...]) -> tuple[Setting, ...]:
    """Every published network on these data sets (table 4.2 of the specification says what is not stated in the study)."""

    def published(
        dataset: str, width: int, rows: tuple[Row, ...], chunk: int, classes: tuple[int, ...] | None = None
    ) -> Setting:
        task = "" if classes is None else "_" + "_".join(map(str, classes))
        return Setting(
            f"{dataset}_{width}{task}",
            dataset,
            (width, width, width),
            rows,
            (0,),
            1000,
            (dataset, width) if classes is None else None,
            classes,
            epochs=100,
            learning_rate=1e-4,
            b2=0.99,
            weight_decay=1e-4,
            attack_step=0.2,
            steps=1000,
            brief_steps=100,
            chunk=chunk,
        )

    both = (Row(0.0), Row(0.1))
    every: tuple[Variant, ...] = ("linf", "linf_logits", "l2")
    scales = (Row(0.0, every), Row(0.1, every), Row(0.2))
    settings = (
        published("mnist", 100, scales, 500),
        published("mnist", 300, both, 200),
        published("mnist", 500, both, 100),
        published("mnist", 100, (Row(0.0), Row(0.1)), 500, classes=(1, 7)),
        published("fashion_mnist", 1024, both, 100),
        published("svhn", 1024, both, 100),
    )
    return tuple(setting for setting in settings if setting.dataset in datasets)
