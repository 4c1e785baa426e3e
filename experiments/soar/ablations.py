"""The report's smaller parts: clip, learning rate, capacity and product, and l2 attacks."""

from __future__ import annotations

from experiments.study import Section

from . import claims, tables
from .outcomes import Outcomes
from .presets import Setting


def training(setting: Setting, outcomes: Outcomes) -> Section | None:
    """Clip, learning rate, capacity and product; ``None`` without rows for them."""
    found = claims.training(outcomes)
    if not found:
        return None
    names = ("soar_pgd1", "soar_long", "masked_pgd1", "soar_no_clip", "soar_mean_clip")
    section = Section(
        f"Clip, learning rate, capacity, and the two products on {setting.dataset}",
        text=[
            '"A clipping of 10 on the regularizer" is a limit on each example\'s penalty here, with no gradient beyond it; the '
            "limit of the batch's mean is the other reading. A network whose weights or logits are not finite counts as wrong "
            "everywhere; its other numbers are nan.",
            "The published product is a difference of gradients at a distance of 0.01. For networks with kinks it is no "
            "approximation of the Hessian-vector product: the Hessian of a ReLU network's loss knows nothing of the kinks, which "
            "have measure zero, while a difference crosses some of them and counts each with a term that grows as the distance "
            "shrinks. The two products are different regularisers for ReLU, and the same for a smooth activation (softplus of "
            "sharpness 10) up to the distance.",
        ],
        claims=found,
    )
    columns = ("clean", "fgsm", "pgd20", "targeted", "pgd20_r", "autoattack")
    clipped = ("clipped_first", "clipped_last")
    products = ("soar_pgd1", "soar_exact", "softplus_fd", "softplus_exact")
    section.tables = [
        tables.beside("Clip and learning rate", columns, outcomes, names, {}, also=clipped, images=setting.attacked),
        tables.capacity(outcomes, setting.attacked),
        tables.beside(
            "Finite difference and exact product",
            columns,
            outcomes,
            products,
            {},
            also=clipped,
            images=setting.attacked,
        ),
    ]
    section.tables = [table for table in section.tables if table.rows]
    return section


def l2(setting: Setting, outcomes: Outcomes) -> Section | None:
    """Table 3.9; ``None`` without rows for it."""
    found = claims.l2(outcomes, setting.l2_radii)
    if not found:
        return None
    return Section(
        f"l2 attacks on networks trained for l-infinity on {setting.dataset}",
        text=[
            "The study concludes from a flat curve that regularisation protects in several norms at once. It attacks cross-entropy "
            "alone, the loss that SOAR makes uninformative, so PGD on the margin of the logits stands beside it here (controls). "
            f"The last radius is the one that encloses the l-infinity ball, √d ε = {setting.l2_radii[-1]:.3g}.",
        ],
        tables=[tables.l2(setting, outcomes)],
        claims=found,
    )
