"""The study's claims, and those of its small-scale reproduction, each with a published number, ours, and a verdict.

Gains are per cent by which the non-uniform radius is larger than the uniform one; cosines are multiplied by 100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.study import Claim, Theirs, above, holds, paired_difference

from .outcomes import Outcome, Outcomes
from .presets import MAIN, VARIANTS, Setting
from .published import RANDOM_COSINE, Row
from .tables import counterpart

MUCH_LARGER = 2.0
"""In units of the training radius."""
Of = Callable[[Outcome], Sequence[float]]
"""One number per seed."""


def _over(text: str, values: Sequence[float], than: float = 0.0, theirs: Theirs = None, counted: bool = True) -> Claim:
    """The claim that one row's values lie above a number."""
    return above(text, paired_difference(values, [than] * len(values)), theirs, counted=counted)


def _quantity(name: str, factor: float = 1.0) -> Of:
    return lambda one: [factor * value for value in one.main(name)]


class _Rows:
    """Plain training, and the robust rows in the order of their radius; the published ones beside them."""

    def __init__(self, setting: Setting, outcomes: Outcomes) -> None:
        self._setting = setting
        self.vanilla = outcomes["vanilla"]
        self.robust = sorted((one for one in outcomes.values() if one.row.eps), key=lambda one: one.row.eps)
        self.every = (self.vanilla, *self.robust)

    def theirs(self, table: str, of: Callable[[Row], float], a: Outcome, b: Outcome | None = None) -> Theirs:
        """A published number, or the difference of two; ``None`` where nobody published one."""
        first = counterpart(self._setting, a.row)
        second = None if b is None else counterpart(self._setting, b.row)
        if first is None or (b is not None and second is None):
            return None
        return of(first) - (0.0 if second is None else of(second)), f"table {table}"

    def above_vanilla(
        self, text: str, of: Of, table: str = "", published: Callable[[Row], float] | None = None
    ) -> list[Claim]:
        """The claim that a quantity is larger for robust networks, for each robust row."""
        return [
            above(
                f"{text}: {one.row.label} above vanilla",
                paired_difference(of(one), of(self.vanilla)),
                None if published is None else self.theirs(table, published, one, self.vanilla),
            )
            for one in self.robust
        ]


def volumes(setting: Setting, outcomes: Outcomes) -> list[Claim]:
    """Table 3.2: non-uniform sets are larger, and more so for robust networks."""
    rows = _Rows(setting, outcomes)
    claims = []
    for one in rows.every:
        text = f"{one.row.label}: non-uniform above uniform radius (%)"
        claims.append(_over(text, one.main("gain"), theirs=rows.theirs("3.2", lambda row: row.gain, one)))
    gain = "gain of the non-uniform radius (points)"
    claims += rows.above_vanilla(gain, _quantity("gain"), "3.2", lambda row: row.gain)
    for smaller, larger in zip(rows.robust, rows.robust[1:], strict=False):
        text = f"{gain}: {larger.row.label} above {smaller.row.label}"
        claims.append(above(text, paired_difference(larger.main("gain"), smaller.main("gain"))))
    uniform, nonuniform = _quantity("uniform", 100), _quantity("nonuniform", 100)
    claims += rows.above_vanilla("uniform radius (hundredths)", uniform, "3.2", lambda row: 100 * row.uniform)
    text = "non-uniform radius (hundredths)"
    claims += rows.above_vanilla(text, nonuniform, "3.2", lambda row: 100 * row.nonuniform)
    for variant, name in VARIANTS.items():
        if variant != MAIN and all(variant in one.values for one in rows.every):
            claims += rows.above_vanilla(f"gain (points), {name}", lambda one, v=variant: one.values[v]["gain"])  # type: ignore[misc]
    return claims


def soundness(outcomes: Outcomes) -> Claim:
    """No attack inside a certified set succeeds."""
    every = [values for one in outcomes.values() for values in one.values.values()]
    fooled, images = (int(sum(sum(values[name]) for values in every)) for name in ("fooled", "images"))
    text = "certified sets: images that PGD-20 inside them brings into another class"
    return Claim(text, "0 (by proof)", f"{fooled} of {images}", "", holds(fooled == 0))


def shapes(setting: Setting, outcomes: Outcomes) -> list[Claim]:
    """Table 3.3: radii of different images are almost collinear, more so for robust networks."""
    rows = _Rows(setting, outcomes)
    claims, random, mean = [], 100 * RANDOM_COSINE, _quantity("mean_cosine", 100)
    for one in rows.every:
        theirs = rows.theirs("3.3", lambda row: 100 * row.mean_cosine - random, one)
        claims.append(
            _over(f"{one.row.label}: mean cosine above that of random vectors, 0.75", mean(one), random, theirs)
        )
    claims += rows.above_vanilla("mean cosine", mean, "3.3", lambda row: 100 * row.mean_cosine)
    smallest = _quantity("min_cosine", 100)
    claims += rows.above_vanilla("smallest cosine", smallest, "3.3", lambda row: 100 * row.min_cosine)
    shuffled = _quantity("shuffled_cosine", 100)
    for one in rows.every:
        text = f"{one.row.label}: mean cosine above that of shuffled pixels"
        claims.append(above(text, paired_difference(mean(one), shuffled(one)), counted=False))
    return claims


def directions(setting: Setting, outcomes: Outcomes) -> list[Claim]:
    """The direction of radii does not depend on the image, and is a good start for others (section 3.2.2)."""
    claims = []
    for one in outcomes.values():
        text = f"{one.row.label}: common direction of other images, without search, above uniform radius (%)"
        claims.append(_over(text, one.starts["direction"]))
        text = f"{one.row.label}: gain after {setting.brief_steps} steps (points), start in the common direction above uniform"
        pair = one.starts["direction_brief"], one.starts["uniform_brief"]
        claims.append(above(text, paired_difference(*pair)))
    return claims


def spreads(setting: Setting, outcomes: Outcomes) -> list[Claim]:
    """Figure 3.4: some pixels of robust networks have radii far above the training radius."""
    rows = _Rows(setting, outcomes)
    claims = []
    for one in rows.robust:
        text = f"{one.row.label}: largest radius above {MUCH_LARGER:g} training radii (units of these)"
        claims.append(_over(text, _quantity("largest", 1 / one.row.eps)(one), MUCH_LARGER))
    text = "spread of a map's radii (hundredths of a decade)"
    return claims + rows.above_vanilla(text, _quantity("spread", 100))


def maps(setting: Setting, outcomes: Outcomes) -> list[Claim]:
    """Figure 3.5: maps of robust networks show the strokes, those of others are noisy."""
    rows = _Rows(setting, outcomes)
    text = "correlation of neighbouring pixels' log radii (hundredths)"
    claims = rows.above_vanilla(text, _quantity("neighbours", 100))
    if "contrast" not in rows.vanilla.values[MAIN]:
        return claims
    contrast = _quantity("contrast", 100)
    for one in rows.every:
        text = f"{one.row.label}: radii of the common stroke above those of deciding pixels (hundredths of a decade)"
        # Of plain training the study says that its maps hardly show any pattern.
        claims.append(_over(text, contrast(one), counted=bool(one.row.eps)))
    return claims + rows.above_vanilla("the same contrast (hundredths of a decade)", contrast)
