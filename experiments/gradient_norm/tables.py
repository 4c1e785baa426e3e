"""Tables of robustness and training: the published numbers beside ours."""

from __future__ import annotations

import numpy as np

from experiments.study import estimate, pixels
from jaxrobust.reporting import Table

from . import measures, published
from .results import Results, norms_by_outcome, shown
from .rows import Part


def methods(results: Results) -> Table:
    """Tables 4.2 and 4.4."""
    setting, rows = results.setting, []
    radii = sorted({radius for row in setting.of("robustness") for radius in row.radii})
    for row in setting.of("robustness"):
        swin = published.TABLE_4_2[row.method] if row.activation == "gelu" and row.model != "resnet50" else None
        resnet = published.TABLE_4_4.get((row.method, row.activation)) if row.model != "swin_b" else None
        rows.append(
            [
                row.label,
                str(len(row.seeds)),
                shown(results.accuracy(row, "clean")),
                shown(results.accuracy(row, "pgd")),
                shown(results.pgd_beside(row)),
                *(shown(results.robust(row, radius)) if radius in row.radii else "" for radius in radii),
                shown(results.accuracy(row, "l1")),
                "" if resnet is None else f"{resnet[0]:.2f}",
                "" if resnet is None else f"{resnet[1]:.2f}",
                "" if swin is None else f"{swin.clean:.2f}",
                "" if swin is None else " / ".join(f"{value:.2f}" for value in swin.auto_attack),
            ]
        )
    return Table(
        f"{setting.name}: methods and activations, accuracies in per cent, beside tables 4.4 (ResNet-50, ε = 4/255) and 4.2 (Swin-B, ε "
        "= 1, 2, 4 /255) on ImageNet",
        (
            "training",
            "networks",
            "clean",
            f"PGD-{setting.pgd_steps}, all images",
            f"PGD-{setting.pgd_steps}, AutoAttack's images",
            *(f"AutoAttack, ε = {pixels(setting.eps * radius)}" for radius in radii),
            "test ‖∇L‖₁",
            "ResNet-50: clean",
            "AutoAttack",
            "Swin-B: clean",
            "AutoAttack",
        ),
        rows,
    )


def norms(results: Results) -> Table:
    """Table 4.1."""
    rows = []
    for row in (row for row in results.three("robustness") if row is not None):
        found = norms_by_outcome(results, row)
        robust = {
            seed: 100 * float(flags.mean()) for seed, flags in results.images(measures.norms, row, "robust").items()
        }
        rows.append([row.label, shown(robust), *(shown({s: v[i] for s, v in found.items()}) for i in range(3))])
    for name, table in (("printed", published.TABLE_4_1), ("corrected", published.TABLE_4_1_CORRECTED)):
        rows += [
            [
                f"{one.network}, {one.training} ({name})",
                f"{one.pgd10:.2f}",
                *(f"{value:.4g}" for value in (one.mean, one.attack_fails, one.attack_succeeds)),
            ]
            for one in table
        ]
    return Table(
        f"{results.setting.name}: mean ‖∇L‖₁ of each image's own gradient, by pixels in [0, 1] (table 4.1)",
        ("training", "PGD-10 accuracy", "all images", "where PGD-10 fails", "where it succeeds"),
        rows,
    )


def curve(results: Results) -> Table:
    """Figure 4.1 as numbers."""
    rows, radii = [], []
    for row in (row for row in results.three("robustness") if row is not None):
        found = results.cell(measures.curve, row)
        radii = found["radii"]
        rows.append([row.label, *(str(estimate(values)) for values in zip(*found["accuracy"], strict=True))])
    return Table(
        f"{results.setting.name}: accuracy under PGD-100 (figure 4.1) on the images that AutoAttack gets",
        ("training", *(f"ε = {pixels(radius)}" for radius in radii)),
        rows,
    )


def published_curve() -> Table:
    """Figure 4.1 as read off."""
    theirs = published.FIGURE_4_1
    return Table(
        "Published figure 4.1, read off to about a point: Swin-B under PGD-100",
        ("training", *(f"ε = {radius}/255" for radius in theirs["radius"])),
        [
            [name.replace("_", " "), *(f"{value:g}" for value in theirs[name])]
            for name in ("gradient_norm", "adversarial")
        ],
    )


def masking(results: Results, part: Part) -> Table:
    """The battery's accuracies for the gradient-norm rows of a part."""
    names = (
        "clean",
        "noise",
        "fgsm",
        "pgd",
        "pgd_long",
        "pgd_restarts",
        "pgd_margin",
        "targeted",
        "square",
        "whole_box",
    )
    rows = []
    for row in results.setting.of(part):
        if row.method != "gradient_norm":
            continue
        for seed, found in zip(row.seeds, results.cell(measures.masking, row)["networks"], strict=False):
            failed = [name for name, passed in found["passed"].items() if not passed]
            rows.append(
                [
                    f"{row.label}, seed {seed}",
                    *(f"{found['accuracy'][name]:.1f}" if name in found["accuracy"] else "" for name in names),
                    f"{found['tiny_gradients']:.1f}",
                    ", ".join(failed) or "none",
                ]
            )
    return Table(
        f"{results.setting.name}: gradient-masking battery, accuracies in per cent; ‖∇L‖₁ < 1e-6: per cent of images",
        ("training", *(name.replace("_", " ") for name in names), "‖∇L‖₁ < 1e-6", "checks not passed"),
        rows,
    )


def passes() -> Table:
    """Table 4.3."""
    return Table(
        "Cost (table 4.3): passes per batch, and published seconds over those of natural training",
        ("training", "forward and backward passes", "seconds, 8 V100 (published)"),
        [
            [name.replace("_", " "), str(published.PASSES[name]), f"{seconds:.2f}"]
            for name, seconds in published.TABLE_4_3.items()
        ],
    )


def sweep() -> Table:
    """The secondary sweep of weights."""
    return Table(
        "Secondary, from the released code: Swin-B by weights of loss and penalty, per cent",
        ("loss, penalty", "clean", "PGD-10", "clean, 5,000 images", "AutoAttack"),
        [[f"{a:g}, {b:g}", *(f"{value:.2f}" for value in row)] for (a, b), row in published.SECONDARY_SWEEP.items()],
    )


def training(results: Results) -> list[Table]:
    """Schedules, labels and warm-up."""
    setting = results.setting
    rows, sure = [], []
    for row in setting.of("training"):
        rows.append(
            [
                row.label,
                shown(results.accuracy(row, "clean")),
                shown(results.accuracy(row, "pgd")),
                shown(results.robust(row)) if row.judged_seeds else "",
                shown(results.accuracy(row, "l1")),
            ]
        )
        if row.name.startswith("labels"):
            found = results.cell(measures.confidence, row)
            doubt = f"{np.mean(found['doubt']):.2g}"
            sure.append([row.label, doubt, str(estimate(found["l1"])), shown(results.accuracy(row, "pgd"))])
    head = ("training", "clean", f"PGD-{setting.pgd_steps}", "AutoAttack, first network", "test ‖∇L‖₁")
    tables = [Table(f"{setting.name}: schedules, labels and warm-up, accuracies in per cent", head, rows)]
    if sure:
        caption = f"{setting.name}: how sure the networks are on training images, with their classes"
        tables.append(Table(caption, ("training", "median 1 - p_y", "mean ‖∇L‖₁", f"PGD-{setting.pgd_steps}"), sure))
    return tables
