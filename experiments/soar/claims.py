"""The study's claims, and those of its small-scale reproduction, each with a published number, ours, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.study import Claim, above, alike, paired_difference

from .comparisons import best, gap, lead, rows
from .outcomes import Outcomes
from .published import AUTO_ATTACK, BLACK_BOX, HALF, WHITE_BOX
from .tables import l2_heads

DEFENCES = ("pgd10", "trades", "mart", "mma", "foar_pgd1", "soar_pgd1")
TRAINED = ("pgd10", "trades", "mart", "mma")
"""Adversarially trained rows."""


def order(outcomes: Outcomes) -> list[Claim]:
    """Tables 3.2 to 3.4 and 3.8: which method is better, by which attack."""
    claims = []
    for a, b, table in (
        ("pgd1", "standard", "3.2"),
        ("foar_pgd1", "standard", "3.2"),
        ("soar_pgd1", "pgd1", "3.2"),
        ("soar_pgd1", "foar_zero", "3.8"),
        ("foar_pgd1", "foar_zero", "3.8"),
        ("soar_pgd1", "foar_pgd1", "3.2"),
    ):
        claims += rows(outcomes, "pgd20", a, b, table)
    claims += rows(outcomes, "fgsm", "soar_pgd1", "foar_pgd1", "3.2")
    if "soar_pgd1" in outcomes and "standard" in outcomes:
        pair = outcomes["soar_pgd1"].column("clean"), outcomes["standard"].column("clean")
        theirs = gap("3.2", ("soar_pgd1", "clean"), ("standard", "clean"))
        claims.append(
            alike("clean: SOAR within 2 points of Standard", paired_difference(*pair), within=2, theirs=theirs)
        )
    claims += best(outcomes, ("fgsm", "pgd20", "pgd1000", "pgd20_50"), "soar_pgd1", DEFENCES, "3.2")
    claims += best(outcomes, ("simba", "pgd20_r", "pgd20_w"), "soar_pgd1", DEFENCES, "3.3")
    for name in TRAINED:
        claims += rows(outcomes, "apgd-t", name, "soar_pgd1", "3.4")
    return claims


def overfitting(outcomes: Outcomes) -> list[Claim]:
    """Tables 3.3 and 3.4: attacks on cross-entropy flatter SOAR, targeted ones do not."""
    claims = []
    soar = outcomes.get("soar_pgd1")
    for name in ("pgd10", "soar_pgd1"):
        if name in outcomes and "apgd-ce" in outcomes[name]:
            found = outcomes[name].gap("apgd-ce", "pgd20")
            theirs = AUTO_ATTACK[name]["apgd-ce"] - WHITE_BOX[name]["pgd20"], "tables 3.2, 3.4"
            text = f"{outcomes[name].row.label}: APGD-CE within 3 points of PGD20"
            claims.append(alike(text, paired_difference(found, [0.0] * len(found)), within=3, theirs=theirs))
    for name in ("pgd10", "foar_pgd1"):
        if name in outcomes and soar is not None:
            ours, other = (WHITE_BOX[row]["pgd20"] - AUTO_ATTACK[row]["apgd-t"] for row in ("soar_pgd1", name))
            claims.append(
                above(
                    f"PGD20 - targeted: larger for SOAR than for {outcomes[name].row.label}",
                    paired_difference(soar.gap("pgd20", "targeted"), outcomes[name].gap("pgd20", "targeted")),
                    (ours - other, "tables 3.2, 3.4"),
                )
            )
    if soar is not None and "soar_long" in outcomes:
        text = "PGD20 - targeted: larger after 200 epochs of SOAR than after 60"
        claims.append(
            above(
                text, paired_difference(outcomes["soar_long"].gap("pgd20", "targeted"), soar.gap("pgd20", "targeted"))
            )
        )
    if soar is not None and "apgd-t" in soar:
        row = AUTO_ATTACK["soar_pgd1"]
        theirs = row["apgd-ce"] - row["apgd-t"] - (row["apgd-ce" + HALF] - row["apgd-t" + HALF]), "table 3.4"
        full, half = soar.gap("apgd-ce", "apgd-t"), soar.gap("apgd-ce" + HALF, "apgd-t" + HALF)
        claims.append(above("SOAR: APGD-CE - APGD-T larger at ε than at ε/2", paired_difference(full, half), theirs))
    defences = [name for name in DEFENCES if name in outcomes]
    if defences:
        least = min(defences, key=lambda name: float(np.mean(outcomes[name].gap("pgd20_r", "simba"))))
        theirs = min(row["pgd20_r"] - row["simba"] for row in BLACK_BOX.values()), "table 3.3"
        text = f"every defence is weaker under SimBA than under transfer (least so: {outcomes[least].row.label})"
        claims.append(lead(text, outcomes[least], "pgd20_r", "simba", theirs))
    return claims


def training(outcomes: Outcomes) -> list[Claim]:
    """Clip, learning rate, capacity and product."""
    claims = []
    for name in ("soar_no_clip", "soar_mean_clip"):
        if name in outcomes and "soar_pgd1" in outcomes:
            text = f"clean: SOAR at least 50 points above {outcomes[name].row.label}"
            pair = outcomes["soar_pgd1"].column("clean"), outcomes[name].column("clean")
            claims.append(above(text, paired_difference(*pair), at_least=50))
    for column in ("clean", "pgd20"):
        claims += rows(outcomes, column, "soar_pgd1", "masked_pgd1", "3.2")
    for a, b, text, theirs in (
        ("soar_64", "soar_16", "width 64 above width 16", gap("3.10", ("soar_cnn8", "pgd20"), ("soar_cnn6", "pgd20"))),
        (
            "soar_pgd1",
            "soar_64",
            "width 256 above width 64",
            gap("3.10", ("soar_pgd1", "pgd20"), ("soar_cnn8", "pgd20")),
        ),
    ):
        if a in outcomes and b in outcomes:
            pair = outcomes[a].column("pgd20"), outcomes[b].column("pgd20")
            claims.append(above(f"PGD20: SOAR, {text}", paired_difference(*pair), theirs))
    for a, b in (("soar_cnn8", "soar_cnn6"), ("soar_pgd1", "soar_cnn8")):
        claims += rows(outcomes, "pgd20", a, b, "3.10")
    for a, b, counted in (("softplus_fd", "softplus_exact", True), ("soar_pgd1", "soar_exact", False)):
        if a in outcomes and b in outcomes:
            text = f"PGD20: {outcomes[a].row.label} within 8 points of {outcomes[b].row.label}"
            pair = outcomes[a].column("pgd20"), outcomes[b].column("pgd20")
            claims.append(alike(text, paired_difference(*pair), within=8, counted=counted))
    return claims


def l2(outcomes: Outcomes, radii: Sequence[float]) -> list[Claim]:
    """Table 3.9."""
    claims, heads = [], l2_heads(radii)
    for number in range(len(radii)):
        for suffix in ("", "_margin"):
            column = f"l2_{number}{suffix}"
            for other in ("standard", "pgd10_l2", "trades_l2", "pgd10"):
                if other == "pgd10" and number < len(radii) - 1:
                    continue
                # The margin attack is ours: it tells whether the flat curve is real.
                claims += rows(outcomes, column, "soar_pgd1", other, "3.9", not suffix, heads[column])
    claims += rows(outcomes, "l2_r", "pgd10_l2", "soar_pgd1", "3.9", attack=heads["l2_r"])
    return claims
