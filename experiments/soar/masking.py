"""Gradient masking: what the point of the expansion does (tables 3.1 and 3.7, appendix 3.F), and flags."""

from __future__ import annotations

import numpy as np

from experiments.study import Claim, above, estimate, paired_difference
from jaxrobust.reporting import Table

from . import published
from .comparisons import gap, lead
from .outcomes import Outcome, Outcomes
from .published import AUTO_ATTACK, BLACK_BOX, CONFIDENCE, WHITE_BOX
from .tables import head, number

SEES_NETWORK = ("pgd20", "pgd100", "pgd200", "pgd1000", "pgd20_50")
"""Columns of cross-entropy PGD on the network itself."""
SEES_NO_GRADIENT = ("simba", "square", "pgd20_r", "pgd20_w", "pgd1000_r", "pgd1000_w")
"""Columns of attacks that see no gradients of the network."""

CHANCE = 10.0
"""Accuracy in per cent of a guess, with ten classes."""


def flags(outcome: Outcome) -> list[str]:
    """Attacks without gradients of the network that beat all cross-entropy PGD on it, and PGD that may do all and does not.

    The former by more than one point and two standard errors of the paired difference, networks and images together.
    """
    found = []
    for column in (column for column in SEES_NO_GRADIENT if column in outcome.correct):
        blind = outcome.correct[column]
        images = blind.shape[1]
        seeing = [outcome.correct[name][:, :images] for name in SEES_NETWORK if name in outcome.correct]
        white = np.logical_and.reduce([correct for correct in seeing if correct.shape[1] == images])
        excess = white.astype(float) - blind
        if excess.mean() > max(0.01, 2 * excess.std() / np.sqrt(excess.size)):
            found.append(f"{head(column)} leaves {100 * blind.mean():.1f}, PGD {100 * white.mean():.1f}")
    if "eps1_clean" in outcome and outcome.mean("eps1_clean") > CHANCE:
        found.append(f"PGD of radius 1 leaves {outcome.mean('eps1_clean'):.1f}, chance {CHANCE:g}")
    return found


def flagged(outcomes: Outcomes) -> Table:
    """The rows with flags, and the published row with one."""
    rows = [[outcome.row.label, "; ".join(flags(outcome))] for outcome in outcomes.values() if flags(outcome)]
    square, pgd = AUTO_ATTACK["soar_pgd1"]["square"], WHITE_BOX["soar_pgd1"]["pgd1000"]
    rows.append(["SOAR (published)", f"Square leaves {square:.1f}, PGD {pgd:.1f}; no other published row is flagged"])
    return Table(
        "Masking flags: attacks that see no gradients and beat cross-entropy PGD, on the same images, and PGD of radius 1 from the image "
        "that leaves more than chance (per cent)",
        ("method", "attack"),
        rows,
    )


def judged(outcomes: Outcomes, images: int) -> Table:
    """Every row by AutoAttack, beside what PGD says of it, on the images that AutoAttack had."""
    columns = ("clean", "pgd20", "targeted", "pgd20_r", "autoattack")
    rows = []
    for outcome in outcomes.values():
        ahead = str(estimate(outcome.gap("pgd20", "autoattack"))) if "autoattack" in outcome else ""
        values = [number(outcome, column, images) for column in columns]
        rows.append([outcome.row.label, *values, ahead, "yes" if flags(outcome) else ""])
    return Table(
        f"All rows, AutoAttack being the judge; {images} images",
        ("method", *(head(column) for column in columns), "PGD20 - AutoAttack", "masking flag"),
        rows,
    )


def claims(outcomes: Outcomes, transfer: float, targeted: float) -> list[Claim]:
    """What zero and rand do, and PGD1 does not.

    Args:
        outcomes: the rows. For zero and rand those that are trained long, where there are such.
        transfer, targeted: how many points PGD20 must be above these attacks for zero and rand.
    """
    found = []
    for point in ("zero", "rand"):
        one = outcomes.get(f"masked_{point}", outcomes.get(f"soar_{point}"))
        if one is not None:
            found += _masked(one, f"soar_{point}", outcomes.get("standard"), transfer, targeted)
    soar = outcomes.get("soar_pgd1")
    if soar is not None:
        found += _soar(soar, outcomes)
    if "foar_zero" in outcomes:
        theirs = gap("3.8", ("foar_zero", "pgd20_r"), ("foar_zero", "pgd20"))
        text = "FOAR, zero: transfer above PGD20, so not masked"
        found.append(lead(text, outcomes["foar_zero"], "pgd20_r", "pgd20", theirs))
    return found


def _masked(one: Outcome, name: str, standard: Outcome | None, transfer: float, targeted: float) -> list[Claim]:
    label = one.row.label
    theirs = gap("3.7", (name, "pgd20"), (name, "pgd20_r"))
    sure = one.column("confidence_clean")
    found = [
        lead(f"{label}: PGD20 - transfer above {transfer:g} points", one, "pgd20", "pgd20_r", theirs, transfer),
        lead(f"{label}: PGD20 - targeted above {targeted:g} points", one, "pgd20", "targeted", None, targeted),
        above(
            f"{label}: confidence above 99.8 %",
            paired_difference(sure, [99.8] * len(sure)),
            (CONFIDENCE[name]["confidence_clean"] - 99.8, "table 3.1"),
        ),
    ]
    free = one.column("eps1_clean")
    text = f"{label}: PGD of radius 1, to which every image is allowed, leaves more than chance (difference to 10)"
    found.append(above(text, paired_difference(free, [CHANCE] * len(free))))
    if standard is not None:
        quarter = [count / 4 for count in standard.column("gradient_count")]
        text = f"{label}: gradient count below a quarter of Standard's"
        found.append(above(text, paired_difference(quarter, one.column("gradient_count"))))
    return found


def _soar(soar: Outcome, outcomes: Outcomes) -> list[Claim]:
    pgd = WHITE_BOX["soar_pgd1"]["pgd20"]
    spare = [15 - lost for lost in soar.gap("pgd20", "targeted")]
    none = [0.0] * len(spare)
    found = [
        lead(
            "SOAR: transfer above PGD20",
            soar,
            "pgd20_r",
            "pgd20",
            (BLACK_BOX["soar_pgd1"]["pgd20_r"] - pgd, "table 3.7"),
        ),
        above(
            "SOAR: PGD20 - targeted below 15 points (difference: what is spare)",
            paired_difference(spare, none),
            (15 - pgd + AUTO_ATTACK["soar_pgd1"]["apgd-t"], "tables 3.2, 3.4"),
        ),
    ]
    for column, text in (("eps1_printed", "as printed"), ("eps1_clean", "from the image, longer steps")):
        values = soar.column(column)
        theirs = (CHANCE - published.EPS_ONE["soar_pgd1"][column], "appendix 3.F") if column == "eps1_printed" else None
        text = f"SOAR: accuracy at radius 1, {text}, below chance (difference: 10 - accuracy)"
        found.append(above(text, paired_difference([CHANCE] * len(values), values), theirs))
    zero = outcomes.get("masked_zero", outcomes.get("soar_zero"))
    if zero is not None:
        for name, column in (("clean", "confidence_clean"), ("PGD1", "confidence_pgd1")):
            theirs = CONFIDENCE["soar_zero"][column] - CONFIDENCE["soar_pgd1"][column], "table 3.1"
            text = f"confidence on {name} images: {zero.row.label} above SOAR"
            found.append(above(text, paired_difference(zero.column(column), soar.column(column)), theirs))
    if "soar_zero" in outcomes:
        counts = published.GRADIENT_COUNT
        theirs = counts["soar_pgd1"]["gradient_count"] - counts["soar_zero"]["gradient_count"], "appendix 3.F, of 3072"
        pair = soar.column("gradient_count"), outcomes["soar_zero"].column("gradient_count")
        found.append(above("gradient count: SOAR above SOAR, zero", paired_difference(*pair), theirs))
    return found
