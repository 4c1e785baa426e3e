"""What the report says in words."""

from __future__ import annotations

import numpy as np

from experiments.study import pixels

from . import measures, published, statistics
from .recipes import MIXUP, SMOOTHING, WEIGHT_DECAY
from .results import Results
from .rows import Part


def introduction(preset: str) -> list[str]:
    """How to read the report."""
    beside = (
        "The published numbers beside ours belong to ImageNet, Swin-B and ResNet-50, and ε = 4/255: only signs and rough sizes can be compared. "
        "Nothing here was tuned until a published effect appeared."
        if preset == "small"
        else "One network was published per row. The 5,000 test images that AutoAttack gets are the first ones here and RobustBench's selection there."
    )
    return [
        f"Preset `{preset}`. Gradient-norm training adds the l1 norm of the loss's input gradient to the loss on clean images: "
        "w₁ L(x) + w₂ ε ‖∇L(x)‖₁, trained by double backpropagation, without any attack. To first order that is the loss at the worst point of "
        "an l∞ ball, of radius ε w₂/w₁: with the published weights 0.8 and 1.2 of 1.5 ε, not ε. The study says that this reaches most of the robustness of "
        "adversarial training (PGD-3) if activations are smooth, and that aligning gradients with edges alone makes networks robust, "
        f"too. {beside}",
        "**How to read the tables.** Accuracies in per cent, mean ± standard error over networks that differ by their seed. AutoAttack "
        "(standard version) is the judge; PGD beside it counts an image as robust only if all its iterates are classified "
        "correctly. Differences in claims are paired by seed, with their 95 % interval and the one-sided p-value. Controls are ours, not the "
        "study's, and are not counted.",
        "**Units.** The radius called 4 in the text is 4/255. The text differentiates by normalised images and multiplies by ε/0.225; for the "
        "gradient by pixels in [0, 1], as here, the factor is ε alone. Mixing the two up makes the penalty 4.4 times too strong or too weak, and "
        "both train without complaint. The norms printed in table 4.1 for robust networks are 32 times (24 for Swin-L) too small: the gradient of "
        "a mean over the evaluation's batch was taken for that of an image. The corrected values stand beside them.",
        "**Why ReLU is half blind.** The penalty is a function of the network's derivative, and its gradient needs the derivative of that. "
        "The derivative of a ReLU is a step: when a parameter moves the kink over an image, the penalty changes, but automatic differentiation "
        "reports 0, the value almost everywhere. Already for one unit a(x + b) with x uniform on [-2, 2] the true derivative of the mean penalty by b is "
        "0.25, and what descent sees is exactly 0; GELU and SiLU give the true 0.23 and 0.26 of their own penalties. Through the probabilities of cross-entropy "
        "something is left to descend on, which is why ReLU networks still improve.",
        f"**What this preset cannot show.** {_NOT_SHOWN[preset]}",
    ]


_NOT_SHOWN = {
    "small": "The collapse of ReLU networks, which belongs to deep pretrained ones. Differences of a few points under AutoAttack: the test images "
    "are few, and the few seeds make wide intervals. Orders of magnitude of gradients and curvature: images of 64 pixels have nothing like those of "
    "ImageNet. What happens with colour.",
    "paper": "With one seed per row, differences between rows: give --seeds for more. The rows of public models in table 4.1.",
}


def data(results: Results) -> str:
    """Data, network and recipe of a setting."""
    setting, dataset = results.setting, results.networks.dataset(results.setting)
    images = f"{len(dataset.train_labels)} training and {len(dataset.test_labels)} test images"
    if setting.imagenet:
        return (
            f"{images}. Recipe and hyper-parameters as published but for the images themselves: all are resized bilinearly (published: "
            "bicubically) to 256 pixels and cut to their central 224 once, and training's random crops are taken from these. AutoAttack on the "
            f"first {setting.attacked} test images."
        )
    row = next(row for row in setting.all_rows() if row.model == "cnn")
    rate = f"at a constant {row.learning_rate:g}"
    if row.schedule == "cosine":
        rate = f"with a cosine from {row.learning_rate:g} after {row.warmup_epochs} epochs of warm-up, in which penalty and attack grow as well"
    return (
        f"{images}. CNN with 3x3 convolutions of 16 and 32 channels and a dense layer of 64 units, normalisation inside. Unless a table says otherwise "
        f"{row.epochs} epochs of AdamW {rate}, weight decay {WEIGHT_DECAY}, batches of {row.batch_size}, mixup {MIXUP} and label smoothing "
        f"{SMOOTHING}; ε = {pixels(setting.eps)}, weights {row.loss_weight} and {row.penalty_weight}; PGD-3 training from a random start with steps of 2ε/3. AutoAttack on "
        f"the first {setting.attacked} test images, PGD-{setting.pgd_steps} and gradient statistics on "
        f"{'all' if setting.evaluated is None else f'the first {setting.evaluated}'}."
    )


def robustness(results: Results) -> list[str]:
    """What the robustness tables mean, and AutoAttack's warnings."""
    found = [
        "One AutoAttack image is worth "
        f"{100 / _attacked(results):g} points of one network. PGD on all images is reported beside it as a control."
    ]
    sweep = published.SECONDARY_SWEEP[0.8, 1.2]
    found.append(
        f"**Never rank gradient-norm networks by PGD-10.** On ImageNet its accuracy is {sweep.pgd10 - sweep.auto_attack:.1f} points above that under AutoAttack "
        f"for gradient norm (weights 0.8 and 1.2), and {published.ADVERSARIAL_PGD10 - 56.12:.1f} for adversarial training (released code)."
    )
    warned = {
        row.label: warning
        for row in results.setting.of("robustness")
        for radius in results.cell(measures.auto_attack, row)["radii"].values()
        for warnings in radius["warnings"]
        for warning in warnings
    }
    if warned:
        found.append(
            f"AutoAttack warns on networks of {'; '.join(warned)}. Among few images one is enough for it. On the first of these: "
            f"“{next(iter(warned.values()))}”"
        )
    return found


def constant(results: Results, part: Part) -> list[str]:
    """A warning if networks of a part have found the constant classifier, whose gradient is 0."""
    chance = 100 / results.networks.dataset(results.setting).num_classes
    rows = [
        row.label
        for row in results.setting.of(part)
        if min(results.accuracy(row, "clean").values()) < 1.5 * chance
        or min(results.accuracy(row, "l1").values()) < 1e-3
    ]
    what = "Networks among these have found the constant classifier, or nearly so, whose gradient norm is 0 and whose accuracies mean nothing"
    return [f"**{what}: {', '.join(rows)}.**"] if rows else []


def _attacked(results: Results) -> int:
    return results.setting.attacked or len(results.networks.dataset(results.setting).test_labels)


def training(results: Results) -> list[str]:
    """What the training table means."""
    found = [
        "**Schedules.** At a moderate rate with warm-up, cosine and a ramp of the penalty, ReLU need not be worse on such small "
        "networks: the published collapse belongs to deep pretrained ones. What remains is that smooth networks reach a smaller penalty.",
        "**Labels.** With hard labels a network can make its gradient small by being sure: ∇L is a sum of logit gradients weighted by p - q, "
        "which goes to 0 with 1 - p_y. The penalty then switches itself off. Smoothed and mixed labels keep p - q away from 0.",
        "**Warm-up.** The study calls an adaptive optimizer and a small initial rate essential. Rates here are chosen high so that it matters.",
    ]
    doubts = {
        row.labels: results.cell(measures.confidence, row)["doubt"]
        for row in results.setting.of("training")
        if row.name.startswith("labels_gradient_norm")
    }
    if "hard" in doubts and "mixed" in doubts:
        hard, mixed = (np.mean(doubts[labels]) for labels in ("hard", "mixed"))
        found[1] += (
            f" Here the median of 1 - p_y on training images is {hard:.2g} after gradient-norm training with hard labels and {mixed:.2g} with mixed ones."
        )
    return found


def geometry(results: Results) -> list[str]:
    """What the geometry table means."""
    return [
        "Per image and by pixels in [0, 1], with the image's class as label. ‖H‖₂ is a lower bound from 20 power iterations, C = ‖H‖₂ / (‖∇L‖₂ + 1e-6), averaged as a "
        f"ratio; the linearity error is for one pair of uniform points in the ball of radius {pixels(results.setting.eps)}. Values from 2 power iterations (figure A.3) and "
        "from 20 cannot be compared, and where a network has ReLUs its curvature is that of cross-entropy alone. Claims "
        "compare means of logarithms, since a few images dominate plain means."
    ]


def edges(results: Results) -> list[str]:
    """What the edge table means; the controls are the point."""
    options = dict(results.setting.edge_options)
    which = (
        f"Gaussian derivatives, sigma {options['sigma']}"
        if options
        else "the released code's filters, of the normalised image"
    )
    found = [
        f"Correlations are between log edge energy ({which}) and log saliency (largest |∇ logit of the label| over channels) or |∇L|, over the pixels of an "
        "image, averaged over images. Alignment trains 2 - 2 cos(∇ logit, map) of a class drawn from softmax(logits/0.5), beside cross-entropy; the gradient's "
        "length is free.",
        "**Common mode.** A function of the image that is added to all logits changes neither predictions nor the loss nor any attack on it, but turns the gradients "
        "of all logits wherever it likes. So the alignment can be satisfied without touching the classifier, and a small value "
        "proves nothing. The column gives ‖∇ mean logit‖ / ‖∇ logit‖: near 1 the logits' gradients are little but this common mode.",
    ]
    rows = {row.target: row for row in results.setting.of("edges") if row.method == "edges"}
    controls = {target: row for target, row in rows.items() if target not in ("edges", "magnitude")}
    if "edges" in rows and controls:
        ours, others = (
            [float(np.mean(list(results.robust(row).values()))) for row in group]
            for group in ([rows["edges"]], controls.values())
        )
        better = sum(other >= ours[0] for other in others)
        shares = [
            np.mean(list(results.mean(statistics.edge_agreement, row, "common").values())) for row in controls.values()
        ]
        found.append(
            f"**Are edges the cause?** The study has no control. Here {better} of {len(others)} other signed maps, the same for all classes, do at least "
            f"as well as edges under AutoAttack ({min(others):.1f} to {max(others):.1f} % against {ours[0]:.1f} %); the common mode makes up "
            f"{min(shares):.2f} to {max(shares):.2f} of the gradients there. "
            + (
                "A map that says nothing about edges is enough: whatever makes these networks more robust, it is not that their gradients look like edges. "
                if better == len(others)
                else ""
            )
            + "Whether the published result survives such controls is unknown."
        )
    return found


COLOUR = (
    "A measurement without a claim: on ImageNet the adversarially trained network has a fat left tail of tiny gradients in the green "
    "channel, which neither natural nor gradient-norm training shows. No direction is expected at this scale. In float32 the gradient carries "
    "the rounding of p - q, 6e-8 where p is near 1."
)
