"""The study's claims about robustness, each with a published number, ours, and a verdict."""

from __future__ import annotations

import numpy as np

from experiments.study import NOT_STUDIED, Claim, above, alike, holds

from . import measures, published
from .presets import NAMES
from .results import Results, Values, difference, norms_by_outcome
from .rows import Part, Row

IN_WORDS = "in words"


def robustness(results: Results) -> list[Claim]:
    """Tables 4.1, 4.2 and 4.4."""
    natural, norm, attack = results.three("robustness")
    claims: list[Claim] = []
    if natural and norm:
        claims += _against_natural(results, natural, norm, attack)
    if norm and attack:
        claims += _against_adversarial(results, norm, attack)
    claims += _activations(results)
    claims += [_where_attacks_succeed(results, row) for row in (natural, norm, attack) if row]
    return claims + masking(results, "robustness")


def _against_natural(results: Results, natural: Row, norm: Row, attack: Row | None) -> list[Claim]:
    theirs = published.TABLE_4_2
    gap = theirs["gradient_norm"].auto_attack[2] - theirs["natural"].auto_attack[2]
    claims = [
        above(
            "AutoAttack, gradient norm at least 30 points above natural training",
            difference(results.robust(norm), results.robust(natural)),
            (gap, "table 4.2"),
            at_least=30,
        )
    ]
    swin = published.TABLE_4_1_CORRECTED[2:4]
    for row in (norm, attack):
        if row is not None:
            before, after = (_log(results.accuracy(one, "l1")) for one in (natural, row))
            for text, least in (("smaller", 0.0), ("smaller by more than two orders of magnitude", 2.0)):
                claims.append(
                    above(
                        f"mean ‖∇L‖₁, {row.label} {text} (difference of log10)",
                        difference(before, after),
                        (float(np.log10(swin[0].mean / swin[1].mean)), "table 4.1 corrected, Swin-B, adversarial"),
                        at_least=least,
                        counted=least > 0,
                    )
                )
    return claims


def _log(values: Values) -> Values:
    return {seed: float(np.log10(value)) for seed, value in values.items()}


def _against_adversarial(results: Results, norm: Row, attack: Row) -> list[Claim]:
    ours = {name: results.robust(row) for name, row in (("norm", norm), ("attack", attack))}
    theirs = published.TABLE_4_2
    a, b = theirs["gradient_norm"], theirs["adversarial"]
    share = {seed: 0.9 * value for seed, value in ours["attack"].items()}
    ratio = np.mean(list(ours["norm"].values())) / max(float(np.mean(list(ours["attack"].values()))), 1e-9)
    found = difference(ours["norm"], share)
    most = above("AutoAttack, gradient norm at least 90 % of PGD-3 training", found)
    most.published = f"{100 * a.auto_attack[2] / b.auto_attack[2]:.1f} % (table 4.2)"
    most.ours = f"{100 * ratio:.1f} %; points above 90 %: {found}"
    claims = [
        most,
        above(
            "AutoAttack, PGD-3 training above gradient norm",
            difference(ours["attack"], ours["norm"]),
            (b.auto_attack[2] - a.auto_attack[2], "table 4.2"),
        ),
        alike(
            "clean accuracy of gradient norm within 1.5 points of PGD-3 training",
            difference(results.accuracy(norm, "clean"), results.accuracy(attack, "clean")),
            1.5,
            (a.clean - b.clean, "table 4.2"),
        ),
    ]
    if 2.0 in norm.radii and 2.0 in attack.radii:
        at = published.FIGURE_4_1["radius"].index(8)
        claims.append(
            above(
                "AutoAttack at twice the radius, PGD-3 training above gradient norm",
                difference(results.robust(attack, 2.0), results.robust(norm, 2.0)),
                (
                    published.FIGURE_4_1["adversarial"][at] - published.FIGURE_4_1["gradient_norm"][at],
                    "figure 4.1, PGD-100",
                ),
            )
        )
    sweep = published.SECONDARY_SWEEP[0.8, 1.2]
    claims.append(
        above(
            "PGD-10 overstates: its accuracy is further above AutoAttack's for gradient norm than for PGD-3 training",
            difference(overstated(results, norm), overstated(results, attack)),
            (sweep.pgd10 - sweep.auto_attack - (published.ADVERSARIAL_PGD10 - b.auto_attack[2]), "released code"),
        )
    )
    return claims


def overstated(results: Results, row: Row) -> Values:
    """Accuracy under PGD-10 minus that under AutoAttack, on the images of the latter."""
    count = results.cell(measures.auto_attack, row)["images"]
    flags, robust = results.images(measures.norms, row, "robust"), results.robust(row)
    return {seed: 100 * float(flags[seed][:count].mean()) - robust[seed] for seed in row.judged_seeds}


def _activations(results: Results) -> list[Claim]:
    norms, attacked = results.activations("gradient_norm"), results.activations("adversarial")
    if not {"gelu", "relu"} <= norms.keys():
        return []
    theirs, claims = published.TABLE_4_4, []
    measured = (
        ("AutoAttack", results.robust, True),
        (pgd_name(results), lambda row: results.accuracy(row, "pgd"), False),
    )
    for name, values, counted in measured:
        gaps = {}
        for smooth in ("gelu", "silu"):
            if smooth in norms:
                gap = theirs["gradient_norm", smooth][1] - theirs["gradient_norm", "relu"][1]
                text = f"{name}, gradient norm: {NAMES[smooth]} above ReLU"
                claims.append(
                    above(
                        text,
                        difference(values(norms[smooth]), values(norms["relu"])),
                        (gap, "table 4.4"),
                        counted=counted,
                    )
                )
        if {"gelu", "relu"} <= attacked.keys():
            for method, rows in (("gradient_norm", norms), ("adversarial", attacked)):
                smooth_values, sharp = values(rows["gelu"]), values(rows["relu"])
                gaps[method] = {seed: smooth_values[seed] - sharp[seed] for seed in smooth_values if seed in sharp}
            gap = sum(
                sign * (theirs[method, "gelu"][1] - theirs[method, "relu"][1])
                for method, sign in (("gradient_norm", 1), ("adversarial", -1))
            )
            text = f"{name}, the gain from ReLU to GELU is larger for gradient norm than for PGD-3 training"
            claims.append(
                above(text, difference(gaps["gradient_norm"], gaps["adversarial"]), (gap, "table 4.4"), counted=counted)
            )
    for smooth in ("gelu", "silu"):
        if smooth in norms:
            text = f"smooth networks minimise the penalty better: test ‖∇L‖₁ of ReLU above {NAMES[smooth]}"
            claims.append(
                above(text, difference(results.accuracy(norms["relu"], "l1"), results.accuracy(norms[smooth], "l1")))
            )
            claims[-1].published = IN_WORDS
    return claims


def pgd_name(results: Results) -> str:
    """How PGD on all images is called."""
    return f"PGD-{results.setting.pgd_steps}, all images"


def _where_attacks_succeed(results: Results, row: Row) -> Claim:
    norms = norms_by_outcome(results, row)
    fails, succeeds = ({seed: float(np.log10(values[index])) for seed, values in norms.items()} for index in (1, 2))
    theirs = published.TABLE_4_1_CORRECTED[2 if row.method == "natural" else 3]
    text = f"{row.label}: ‖∇L‖₁ larger where PGD-10 succeeds than where it fails (difference of log10)"
    gap = float(np.log10(theirs.attack_succeeds / theirs.attack_fails))
    return above(text, difference(succeeds, fails), (gap, f"Swin-B, {theirs.training}, corrected"))


def masking(results: Results, part: Part) -> list[Claim]:
    """Whether the gradient-norm networks of a part pass the battery."""
    failed: list[str] = []
    networks = 0
    for row in results.setting.of(part):
        if row.method == "gradient_norm":
            for found in results.cell(measures.masking, row)["networks"]:
                networks += 1
                failed += [f"{row.label}: {name}" for name, passed in found["passed"].items() if not passed]
    if not networks:
        return []
    return [
        Claim(
            "gradient norm masks no gradients: every check of the battery is passed",
            NOT_STUDIED,
            f"{networks} networks; " + (f"not passed: {', '.join(failed)}" if failed else "all passed"),
            "",
            holds(not failed),
            counted=False,
        )
    ]
