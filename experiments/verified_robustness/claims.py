"""The study's claims about ways to train, and those of its small-scale reproduction, each with a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.study import Claim, PairedDifference, Theirs, above, alike, holds, paired_difference

from . import measures, published
from .identities import identities
from .results import Column, Results, Values, is_per
from .rows import Row

ON_PAR = 3.0
"""Points within which I-PER is on par with L-PER, and by which L-PER+at may certify less than KW."""
NEAR_IBP = 5.0
"""Points by which PER+at may certify less than IBP, for sigmoid and tanh."""


def relu(results: Results) -> list[Claim]:
    """Tables 3.6 and 3.7."""
    claims = [*order(results), *best(results), *against_kw(results), *pairs(results)]
    return [*claims, *on_par(results), *intervals(results), *identities(results)]


def smooth(results: Results) -> list[Claim]:
    """Table 3.8."""
    claims = [*order(results), *best(results), *best_radius(results), *near_ibp(results)]
    return [*claims, *pairs(results), *intervals(results), *identities(results)]


def head(results: Results, column: Column) -> str:
    """How an error is called."""
    linear = "CRE CRO" if results.setting.smooth else "CRE Lin"
    return {"clean": "CTE", "pgd": "PGD", "linear": linear, "interval": "CRE IBP"}[column]


def compared(results: Results, column: Column, worse: Row, better: Row, at_least: float = 0.0) -> Claim:
    """The claim that one row's error is above another's by so much."""
    text = f"{head(results, column)}: {worse.label} above {better.label}"
    theirs = _theirs(results, _printed(results, [worse], column), _printed(results, [better], column))
    return above(text, _difference(results, column, worse, better), theirs, at_least=at_least)


def order(results: Results) -> list[Claim]:
    """Plain training is certified least, adversarial training next, and what trains for certificates most."""
    plain, attack = results.setting.find("plain"), results.setting.find("at")
    claims = [compared(results, "linear", plain, attack)] if plain and attack else []
    rows = [row for row in results.provable if row.method != "kw_at"]
    if attack and rows:
        worst = results.largest(rows, lambda row: results.error(row, "linear"))
        claim = compared(results, "linear", attack, worst)
        claim.text = f"{head(results, 'linear')}: AT above all that train for certificates (nearest: {worst.label})"
        theirs = _theirs(
            results, _printed(results, [attack], "linear"), _printed(results, rows, "linear"), largest=True
        )
        claims.append(above(claim.text, _difference(results, "linear", attack, worst), theirs))
    return claims


def best(results: Results) -> list[Claim]:
    """The least error belongs to PER: the exact one in l-infinity, else the certified one."""
    mine, others = _rivals(results)
    if not mine or not others:
        return []
    exact = bool(results.setting.exact_images)

    def least(row: Row) -> Values:
        return results.exact(row)[0] if exact else results.error(row, "linear")

    winner, rival = results.smallest(mine, results.judged), results.smallest(others, least)
    name = "CRE MIP" if exact else head(results, "linear")
    text = f"{name}: the best is a variant of PER (ours: {winner.label} against {rival.label})"
    column = "exact" if exact else "linear"
    theirs = _theirs(results, _printed(results, others, column), _printed(results, mine, column))
    return [above(text, paired_difference(least(rival), results.judged(winner)), theirs)]


def best_radius(results: Results) -> list[Claim]:
    """The largest average radius by PEC belongs to PER."""
    mine, others = _rivals(results)
    if not mine or not others:
        return []
    winner, rival = (results.largest(group, results.envelope) for group in (mine, others))
    text = f"ACB PEC, in thousandths: the best is a variant of PER (ours: {winner.label} against {rival.label})"
    ours, theirs = ([1000 * value for value in results.envelope(row)] for row in (winner, rival))
    first, second = ([1000 * value for value in _printed(results, group, "bound_envelope")] for group in (mine, others))
    return [above(text, paired_difference(ours, theirs), _theirs(results, first, second, largest=True))]


def against_kw(results: Results) -> list[Claim]:
    """L-PER+at is more accurate than KW, and certifies nearly as much; KW with adversarial examples certifies less."""
    kw, per, both = (results.setting.find(name) for name in ("kw", "l_per_at", "kw_at"))
    claims = []
    if kw and per:
        claims = [compared(results, column, kw, per) for column in ("clean", "pgd")]
        certified = compared(results, "linear", kw, per, at_least=-ON_PAR)
        certified.text = f"{head(results, 'linear')}: L-PER+at at most {ON_PAR:g} points above KW"
        claims.append(certified)
    if kw and both:
        claim = compared(results, "linear", both, kw)
        theirs = published.KW_AND_PGD[1] - published.BLOCKS["mnist_cnn_linf"]["kw"].linear
        claim.published = f"{theirs:+.2f} (section 3.3.4)"
        claims.append(claim)
    return claims


def pairs(results: Results) -> list[Claim]:
    """Adversarial examples help PER and MMR."""
    claims = []
    for name in ("l_per", "i_per", "mmr"):
        without, within = results.setting.find(name), results.setting.find(f"{name}_at")
        if without and within:
            claims += [compared(results, column, without, within) for column in ("clean", "pgd", "linear")]
    return claims


def on_par(results: Results) -> list[Claim]:
    """I-PER does as well as L-PER; with one hidden layer it is the same."""
    claims = []
    for suffix in ("", "_at"):
        first, second = (results.setting.find(f"{letter}_per{suffix}") for letter in "il")
        if first and second:
            columns: tuple[Column, ...] = ("pgd", "linear")
            for column in columns:
                theirs = _theirs(results, _printed(results, [first], column), _printed(results, [second], column))
                text = f"{head(results, column)}: {first.label} within {ON_PAR:g} points of {second.label}"
                claims.append(alike(text, _difference(results, column, first, second), ON_PAR, theirs))
    row = results.setting.find("l_per_at")
    if row and results.setting.one_hidden_layer:
        gap = max(results.cell(measures.agreement, row)["difference"])
        text, ours = (
            "one hidden layer: L-PER and I-PER have the same half-spaces",
            f"up to {gap:.0e} of the largest entry",
        )
        claims.append(Claim(text, "different rows", ours, "", holds(gap < 1e-5)))
    return claims


def intervals(results: Results) -> list[Claim]:
    """IBP certifies networks that were trained by it, and no others."""
    trained = [row for row in results.setting.rows if row.method in ("ibp", "crown_ibp")]
    others = [row for row in results.setting.rows if row not in trained]
    if not trained or not others:
        return []
    worst = results.largest(trained, lambda row: results.error(row, "interval"))
    nearest = results.smallest(others, lambda row: results.error(row, "interval"))
    printed, rest = (_printed(results, group, "interval") for group in (trained, others))
    theirs = _theirs(results, rest, [max(printed)] if printed else [])
    text = f"CRE IBP: all others above those trained by IBP (nearest: {nearest.label} and {worst.label})"
    return [above(text, _difference(results, "interval", nearest, worst), theirs)]


def near_ibp(results: Results) -> list[Claim]:
    """Section 8.4: PER+at certifies nearly as much as IBP, by whichever bounds, and withstands more."""
    per, ibp = results.setting.find("l_per_at"), results.setting.find("ibp")
    if not per or not ibp:
        return []
    gap = paired_difference(results.certified_error(ibp), results.error(per, "linear"))
    printed = [min(_printed(results, [ibp], "linear") + _printed(results, [ibp], "interval"), default=0.0)]
    theirs = _theirs(results, printed, _printed(results, [per], "linear"))
    text = f"L-PER+at, CRE CRO, at most {NEAR_IBP:g} points above IBP by its better bounds"
    return [above(text, gap, theirs, at_least=-NEAR_IBP), compared(results, "pgd", ibp, per)]


def _rivals(results: Results) -> tuple[list[Row], list[Row]]:
    """PER's variants with published settings, and the other methods that train for certificates."""
    rows = [row for row in results.provable if row.method != "kw_at"]
    return [row for row in rows if is_per(row)], [row for row in rows if not is_per(row)]


def _difference(results: Results, column: Column, first: Row, second: Row) -> PairedDifference:
    return paired_difference(results.error(first, column), results.error(second, column))


def _printed(results: Results, rows: Sequence[Row], column: str) -> list[float]:
    """The published entries of these rows, of those that there are."""
    block = published.BLOCKS[results.setting.theirs] if results.setting.theirs else {}
    values = [getattr(block[row.theirs], column) for row in rows if row.theirs in block]
    return [value for value in values if value is not None]


def _theirs(results: Results, first: Sequence[float], second: Sequence[float], largest: bool = False) -> Theirs:
    """The best of the first minus the best of the second published entries: the smallest, or the largest."""
    of = max if largest else min
    if not first or not second or results.setting.theirs is None:
        return None
    return of(first) - of(second), published.table(results.setting.theirs)
