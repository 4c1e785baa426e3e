"""What must hold image by image, whatever was trained."""

from __future__ import annotations

import numpy as np

from experiments.study import NOT_STUDIED, Claim, holds
from jaxrobust.certify import ExactStatus

from . import measures
from .results import Results

IN_WORDS = "in words"
ROUNDING = 1e-6
"""Average radii that differ by less are equal."""


def identities(results: Results) -> list[Claim]:
    """Section 7.7 of the specification, counted over all images and networks."""
    setting = results.setting
    attacked, chain, unequal, fewer, whole = 0, 0, 0, 0, []
    for row in setting.rows:
        clean, survives = results.flags(row, "clean"), results.flags(row, "pgd")
        bounded = results.flags(row, "linear") | results.flags(row, "interval")
        envelope = results.radii(row) >= np.float32(setting.eps)
        attacked += int(((bounded | envelope) & ~survives).sum())
        unequal += int((envelope != results.flags(row, "linear")).sum())
        fewer += int((~envelope & results.flags(row, "linear")).sum())
        chain += int((survives & ~clean).sum())
        if setting.exact_images:
            status = results.arrays(measures.exact, row)["status"]
            count = status.shape[1]
            chain += int(((status == ExactStatus.VERIFIED) & ~survives[:, :count]).sum())
            chain += int(((status != ExactStatus.VERIFIED) & bounded[:, :count]).sum())
        means = np.asarray(results.envelope(row))
        whole += [row.label] * int(((means > 0) & (means <= np.asarray(results.bound(row, "linear")) + ROUNDING)).sum())
    images = len(setting.rows) * results.flags(setting.rows[0], "clean").size
    above = "CRO" if setting.smooth else "Lin"
    found = [
        _exact("what is certified survives PGD", f"{attacked} of {images} images do not", not attacked),
        _exact(
            "CTE ≤ PGD ≤ CRE MIP ≤ CRE Lin, CRE IBP, image by image"
            if setting.exact_images
            else "CTE ≤ PGD, image by image",
            f"{chain} of {images} images break it",
            not chain,
            "broken by CRE MIP of AT" if setting.exact_images and setting.theirs else NOT_STUDIED,
        ),
        _exact(
            f"ACB PEC above ACB {above} for every network that certifies anything",
            f"not for {', '.join(whole)}" if whole else f"{len(setting.rows) * len(setting.seeds)} networks",
            not whole,
            "every row" if setting.theirs else NOT_STUDIED,
        ),
    ]
    if setting.norm == "linf" and not setting.smooth:
        text = "Fast-Lin and PEC certify the same images"
        found.append(_exact(text, f"not so for {unequal} of {images} images", not unequal, IN_WORDS))
    if setting.norm == "l2" and not setting.smooth:
        text = "PEC certifies all that Fast-Lin certifies"
        found.append(_exact(text, f"not {fewer} of {images} images, but {unequal - fewer} more", not fewer, IN_WORDS))
    return found


def _exact(text: str, ours: str, condition: bool, theirs: str = NOT_STUDIED) -> Claim:
    return Claim(text, theirs, ours, "", holds(condition))
