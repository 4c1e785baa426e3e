"""What a study's row is: one way to train a network, and the settings that rows share. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Part = Literal["robustness", "training", "geometry", "edges", "colour"]
PARTS: tuple[Part, ...] = get_args(Part)
Method = Literal["natural", "gradient_norm", "adversarial", "edges"]
Target = Literal["edges", "ones", "noise", "signed_noise", "other_edges", "image", "magnitude"]
"""What gradients are aligned with. ``magnitude``: the image's edges, with ``|gradient|`` in place of the signed one."""
Labels = Literal["hard", "smoothed", "mixed"]


@dataclass(frozen=True)
class Row:
    """One way to train. Hashable.

    Attributes:
        name: identifies the row's cells on disk.
        label: in tables and figures.
        method: the objective.
        model, options: ``"cnn"`` (:class:`~experiments.gradient_norm.network.PlainCNN`) or a name of
            :func:`jaxrobust.models.create`.
        activation: of all layers.
        start: where training starts: ``None`` for random parameters, ``"weights"`` for the file given for the model, or the
            name of another row, whose networks of equal seeds are taken.
        epochs: 0 to take the start as it is.
        batch_size: images per update.
        learning_rate: highest rate.
        optimizer: ``"adamw"``, or ``"sgd"`` with momentum 0.9 and no weight decay.
        schedule: ``"constant"``, or ``"cosine"`` with the warm-up.
        schedule_epochs: that the cosine is made for, where training stops before its end.
        warmup_epochs: of the learning rate with ``"cosine"``, and of the penalty or the attack's step.
        warmup_rate: first learning rate.
        clip: largest norm of the gradient of the parameters.
        decay: of the average of the parameters, which is evaluated.
        labels: of training images: classes, smoothed, or mixed and smoothed.
        loss_weight, penalty_weight: of :func:`jaxrobust.losses.gradient_norm`.
        target: of the alignment.
        edge_weight: weight of the alignment at first, what each epoch adds, and the largest.
        seeds: one network each.
        judged: how many of the seeds AutoAttack gets, from the first; all by default.
        radii: where AutoAttack attacks, in units of the setting's radius.
    """

    name: str
    label: str
    method: Method
    model: str = "cnn"
    options: tuple[tuple[str, Any], ...] = ()
    activation: str = "gelu"
    start: str | None = None
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 5e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["constant", "cosine"] = "constant"
    schedule_epochs: int | None = None
    warmup_epochs: int = 0
    warmup_rate: float = 1e-6
    clip: float | None = None
    decay: float | None = None
    labels: Labels = "mixed"
    loss_weight: float = 0.8
    penalty_weight: float = 1.2
    target: Target = "edges"
    edge_weight: tuple[float, float, float] = (1.0, 0.09, 19.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    judged: int | None = None
    radii: tuple[float, ...] = (1.0,)

    @property
    def judged_seeds(self) -> tuple[int, ...]:
        """The seeds that AutoAttack gets."""
        return self.seeds[: self.judged]


@dataclass(frozen=True)
class Setting:
    """One data set and threat model, and the rows that are trained on it. Hashable.

    Attributes:
        name: identifies the setting's cells on disk.
        dataset: a name or path for :func:`jaxrobust.data.load`.
        eps: l-infinity radius, in pixels from 0 to 1.
        rows: every part with its rows; a row of two parts is trained once.
        subset: so many training images are used, drawn by class.
        imagenet: ImageNet's normalisation, augmentation and CutMix beside mixup, frozen running statistics of batch norm, no
            decay of parameters with one axis; else normalisation by the training images and mixup alone.
        engine: see :class:`experiments.study.Recipe`.
        accumulate: parts of a batch, with ``engine="fit"``.
        attacked: test images for AutoAttack, from the first; all by default.
        attack_batch: images per batch there.
        evaluated: test images for PGD and statistics, from the first; all by default.
        evaluation_batch: images per batch there.
        pgd_steps, pgd_step: PGD beside AutoAttack, worst iterate; the step in units of the radius.
        radii: of the robustness curve (PGD-100), in units of the radius.
        geometry_images, linearity_images, profile_images, edge_images, channel_images: how many, from the first.
        masking_seeds: how many networks of a gradient-norm row go through the gradient-masking battery.
        edge_options: of :func:`jaxrobust.edges.oriented_energy`.
        normalized_edges: edges of the normalised image, as published, or of the image itself.
    """

    name: str
    dataset: str
    eps: float
    rows: tuple[tuple[Part, tuple[Row, ...]], ...]
    subset: int | None = None
    imagenet: bool = False
    engine: Literal["population", "fit"] = "population"
    accumulate: int = 1
    attacked: int | None = None
    attack_batch: int = 50
    evaluated: int | None = None
    evaluation_batch: int = 360
    pgd_steps: int = 40
    pgd_step: float = 1 / 8
    radii: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    geometry_images: int | None = None
    linearity_images: int | None = None
    profile_images: int = 100
    edge_images: int | None = None
    channel_images: int = 128
    masking_seeds: int = 1
    edge_options: tuple[tuple[str, Any], ...] = ()
    normalized_edges: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order of the report."""
        return tuple(part for part, _ in self.rows)

    def of(self, part: Part) -> tuple[Row, ...]:
        """The rows of a part."""
        return dict(self.rows).get(part, ())

    def all_rows(self) -> tuple[Row, ...]:
        """Every row once."""
        return tuple(dict.fromkeys(row for _, rows in self.rows for row in rows))

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.all_rows() if row.name == name)


def find(rows: tuple[Row, ...], **attributes: Any) -> Row | None:
    """The first row with these attributes, or ``None``."""
    return next((row for row in rows if all(getattr(row, name) == value for name, value in attributes.items())), None)
