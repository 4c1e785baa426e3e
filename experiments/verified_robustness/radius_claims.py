"""Claims about the search for the largest radius, and about the figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.study import NOT_STUDIED, Claim, Theirs, above, holds, paired_difference

from . import measures, published
from .identities import IN_WORDS, ROUNDING
from .results import Results
from .rows import Row

MOST = 0.95
"""Share of the bound calculations of binary search that PEC stays below on small networks."""
FAR = 1.5
"""A radius above so many times the target is larger than was asked for; PER has no reward for it."""
COMPARED = ("kw", "mmr_at", "l_per_at")
"""Rows of figures 3.8 and 3.9."""


def search(results: Sequence[Results]) -> list[Claim]:
    """Table 3.9."""
    claims = [claim for one in results for claim in _search(one)]
    return claims + _depth(results)


def _search(results: Results) -> list[Claim]:
    setting, rows = results.setting, results.setting.rows
    ratios = {row: results.ratio(row) for row in rows}
    mean = np.mean([ratios[row] for row in rows], axis=0)
    theirs: Theirs = None
    if setting.theirs:
        printed = [ratio for _, ratio in published.SEARCH[setting.theirs].values()]
        theirs = 100 - 100 * float(np.mean(printed)), "table 3.9"
    saved = (100 - 100 * mean).tolist()
    text = f"{setting.name}: PEC saves bound calculations (per cent, mean over methods)"
    claims = [above(text, paired_difference(saved, [0.0] * len(saved)), theirs)]
    largest = max(rows, key=lambda row: max(ratios[row]))
    most = max(ratios[largest])
    if not setting.same:
        claims.append(
            Claim(
                f"{setting.name}: T_PEC / T_Lin below {MOST:g} for every network",
                NOT_STUDIED if not setting.theirs else f"at most {max(printed):.3f} (table 3.9)",
                f"at most {most:.3f} ({largest.label})",
                "",
                holds(most < MOST),
            )
        )
    more, gaps = 0, []
    for row in rows:
        found = results.arrays(measures.search, row)
        more += int((found["envelope_evaluations"] > found["binary_evaluations"]).sum())
        gaps.append(found["envelope"].astype(np.float64) - found["binary"])
    gap = np.concatenate([one.ravel() for one in gaps])
    exceptions = [
        (
            "PEC needs no more bounds than binary search, image by image",
            f"{more} of {gap.size} images need more",
            not more,
        ),
        (
            f"PEC's radius at least binary search's, to {published.PRECISION:g}",
            f"at least {gap.min():+.1e}",
            bool(gap.min() >= -published.PRECISION - ROUNDING),
        ),
    ]
    if setting.norm == "linf":  # in l2 the box lets PEC certify more
        within = 2 * published.PRECISION
        other = int((np.abs(gap) > within).sum())
        ours = f"{other} of {gap.size} images differ more" + (f", up to {gap.max():+.1e}" if other else "")
        exceptions.append((f"both find the same radius within {within:g}", ours, not other))
    for text, ours, verdict in exceptions:
        claims.append(Claim(f"{setting.name}: {text}", IN_WORDS, ours, "", holds(verdict)))
    return claims


def _depth(results: Sequence[Results]) -> list[Claim]:
    """Deeper networks save less: the same rows, norm and data set, one hidden layer against several."""
    claims = []
    for one in results:
        for other in results:
            same = one.setting.norm == other.setting.norm and one.setting.dataset == other.setting.dataset
            if one.setting.one_hidden_layer and not other.setting.one_hidden_layer and same:
                names = [row.name for row in one.setting.rows if other.setting.find(row.name)]
                if names and len(one.setting.seeds) == len(other.setting.seeds):
                    shallow, deep = (
                        (100 * np.mean([found.ratio(found.setting.row(name)) for name in names], axis=0)).tolist()
                        for found in (one, other)
                    )
                    theirs = _published_depth(one.setting.theirs, other.setting.theirs, one.setting.norm)
                    text = f"T_PEC / T_Lin (per cent): {other.setting.name} above {one.setting.name}, depth saves less"
                    claims.append(above(text, paired_difference(deep, shallow), theirs))
    return claims


def _published_depth(shallow: str | None, deep: str | None, norm: str) -> Theirs:
    first, second = shallow or f"mnist_fc1_{norm}", deep or f"mnist_cnn_{norm}"
    means = [100 * float(np.mean([ratio for _, ratio in published.SEARCH[name].values()])) for name in (first, second)]
    return means[1] - means[0], "table 3.9, MNIST, CNN and FC1"


def compared(results: Results) -> list[Row]:
    """The rows of figures 3.8 and 3.9."""
    return [row for name in COMPARED if (row := results.setting.find(name)) is not None]


def figures(results: Sequence[Results]) -> list[Claim]:
    """Figures 3.6, 3.8 and 3.9."""
    return [claim for one in results for claim in (*_two_phases(one), *_parameters(one), *_radii(one))]


def _parameters(results: Results) -> list[Claim]:
    """Figure 3.8: PER+at has larger parameters, the others sparser ones."""
    name, per = results.setting.name, results.setting.find("l_per_at")
    if per is None:
        return []
    sizes, sparsities = [], []
    for row in (row for row in compared(results) if row is not per):
        large, small = ([100 * value for value in results.mean_parameter(one)] for one in (per, row))
        text = f"{name}: mean |w| in hundredths, L-PER+at above {row.label}"
        sizes.append(above(text, paired_difference(large, small)))
        text = f"{name}: share of small parameters, {row.label} above L-PER+at"
        sparsities.append(above(text, paired_difference(results.sparsity(row), results.sparsity(per))))
    return [_in_words(claim) for claim in (*sizes, *sparsities)]


def _radii(results: Results) -> list[Claim]:
    """Figure 3.9: KW has more radii that are larger than was asked for."""
    setting, kw, per = results.setting, results.setting.find("kw"), results.setting.find("l_per_at")
    if kw is None or per is None or setting.search_to is None:
        return []
    text = f"{setting.name}: share of radii above {FAR:g} ε, KW above L-PER+at"
    return [_in_words(above(text, paired_difference(results.beyond(kw, FAR), results.beyond(per, FAR))))]


def _in_words(claim: Claim) -> Claim:
    claim.published = IN_WORDS
    return claim


def curve_row(results: Results) -> Row | None:
    """The row of figure 3.6: MMR+at, or the first that is trained for certificates."""
    return results.setting.find("mmr_at") or next(iter(results.provable), None)


def _two_phases(results: Results) -> list[Claim]:
    row = curve_row(results)
    if row is None:
        return []
    found = results.arrays(measures.curve, row)
    images = [two_phases(*curves, found["eps"]) for curves in zip(found["envelope"], found["linear"], strict=True)]
    text = f"{results.setting.name}, {row.label}: ε at first, then 0 by Fast-Lin and above 0 by PEC"
    return [Claim(text, "one image", f"{sum(images)} of {len(images)} images", "", holds(bool(images) and all(images)))]


def two_phases(envelope: np.ndarray, linear: np.ndarray, eps: np.ndarray) -> bool:
    """Whether both radii are ``eps`` up to some point, where the second falls to 0 and the first does not, but below ``eps`` in the end.

    Args:
        envelope, linear: certified radii, ``[points]``.
        eps: what they were certified with, ``[points]``, rising.
    """
    whole = linear >= eps
    first = int(np.argmin(whole)) if not whole.all() else len(eps)
    if not 0 < first < len(eps):
        return False
    before = np.array_equal(envelope[:first], eps[:first])
    partial = ((envelope > 0) & (envelope < eps)).any()
    return bool(before and partial and linear[first] == 0 and envelope[first] > 0)
