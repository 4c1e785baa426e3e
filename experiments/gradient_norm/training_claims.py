"""The study's claims about what gradient-norm training needs: activations at moderate rates, labels, warm-up."""

from __future__ import annotations

from itertools import pairwise

from experiments.study import Claim, above

from . import published
from .claims import IN_WORDS, masking, pgd_name
from .results import Results, difference
from .rows import find


def training(results: Results) -> list[Claim]:
    """Schedules, labels and warm-up: what the study says in words, and what the small networks add."""
    rows = results.setting.of("training")
    by_name = {row.name: row for row in rows}
    pgd = pgd_name(results)
    claims: list[Claim] = []
    for model in ("cnn", "mlp"):
        smooth, sharp = (by_name.get(f"schedule_{model}_{activation}") for activation in ("gelu", "relu"))
        if smooth and sharp:
            text = f"rate 2e-3 with warm-up, {model.upper()}"
            gap = published.TABLE_4_4["gradient_norm", "gelu"][1] - published.TABLE_4_4["gradient_norm", "relu"][1]
            claims += [
                above(
                    f"{text}: {pgd}, GELU above ReLU",
                    difference(results.accuracy(smooth, "pgd"), results.accuracy(sharp, "pgd")),
                    (gap, "table 4.4, AutoAttack"),
                ),
                above(
                    f"{text}: test ‖∇L‖₁ of ReLU above GELU",
                    difference(results.accuracy(sharp, "l1"), results.accuracy(smooth, "l1")),
                ),
            ]
            claims[-1].published = IN_WORDS
    order = [find(rows, name=f"labels_gradient_norm_{labels}") for labels in ("hard", "smoothed", "mixed")]
    for first, second in pairwise(order):
        if first and second:
            text = f"gradient norm, {pgd}: {second.labels} labels above {first.labels} labels"
            a, b = (results.accuracy(row, "pgd") for row in (second, first))
            claims.append(above(text, difference(a, b), counted=False))
    for start in ("warmup_adamw_gelu", "warmup_adamw_relu"):
        warmed, cold = (by_name.get(f"{start}_{epochs}") for epochs in (5, 0))
        if warmed and cold:
            text = f"{warmed.label.removesuffix(', with warm-up')}: {pgd}, warm-up helps"
            claims.append(above(text, difference(results.accuracy(warmed, "pgd"), results.accuracy(cold, "pgd"))))
            claims[-1].published = "essential (in words)"
    adaptive, plain = (by_name.get(f"warmup_{name}_gelu_0") for name in ("adamw", "sgd"))
    if adaptive and plain:
        text = f"SGD crashes smooth networks without warm-up: {pgd}, AdamW at least 30 points above SGD"
        claims.append(
            above(text, difference(results.accuracy(adaptive, "pgd"), results.accuracy(plain, "pgd")), at_least=30)
        )
        claims[-1].published = "crashes (in words)"
    return claims + masking(results, "training")
