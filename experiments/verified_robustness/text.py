"""What the report says in words."""

from __future__ import annotations

from experiments.study import pixels
from jaxrobust import data

from . import measures, published
from .recipes import DOUBLINGS, TRAINING_STEPS
from .results import Results
from .rows import Setting


def introduction(preset: str) -> list[str]:
    """How to read the report."""
    beside = (
        "The published numbers beside ours belong to MNIST and larger networks: only signs and rough sizes can be compared. Nothing here was tuned until a "
        "published effect appeared."
        if preset == "small"
        else "One network was published per row."
    )
    return [
        f"Preset `{preset}`. Linear bounds of the margins between logits are half-spaces in which an image keeps its label. PEC takes the distance to "
        "their envelope as a certified radius where the whole ball cannot be certified; PER adds a hinge on these distances to the loss, which does nothing once "
        f"they reach α, so that robust images are left alone. The study says that this certifies more, and costs less clean accuracy, than other training. {beside}",
        "**How to read the tables.** Errors are per cent of test images, mean ± standard error over networks that differ by their seed. CTE: misclassified. PGD: "
        f"misclassified as it is, or under PGD ({measures.PGD_STEPS} steps of ε/10, several random starts). CRE: not certified, by Fast-Lin (Lin; the same as KW and as PEC with the whole "
        "radius), by CROWN (CRO, for sigmoid and tanh), by intervals (IBP), or exactly (MIP). ACB: mean certified radius of a one-shot certifier, ε or 0 for all but PEC. Partial only: not "
        "certified, but with a radius above 0 by PEC. Misclassified images count as errors everywhere.",
        "**One box for everything.** The attacker stays in [0, 1]. Attacks, the first layer's bounds, the margins and the distance to half-spaces know that. In "
        "l2 a linear function is bounded by the better of ball and box, which is valid but not exact, while the distance to a half-space within the box is exact: PEC "
        "certifies more images than Fast-Lin there, and finds larger radii. Certified means a margin above what rounding can do.",
        "**Exact answers** are from mixed-integer programs (HiGHS; the study used MIPVerify). Only images that neither PGD nor bounds decide are solved. What is "
        "undecided when the time is over makes the error a range, from what is broken to what is not proved, and counts against PER in claims.",
        "**What is wrong, or unclear, in text and tables:**\n\n"
        + "\n".join(f"- {text}" for text in published.MISPRINTS),
        f"**What this preset cannot show.** {_NOT_SHOWN[preset]}",
    ]


_NOT_SHOWN = {
    "small": "Convolutions, and what deep networks do to bounds. Digits have 64 pixels, so that bounds are much tighter than for MNIST, and differences between "
    "methods smaller. Differences of a few points: three networks make wide intervals.",
    "paper": "With one seed per row, differences between rows: give --seeds for more. MMR and KW are trained here, where the study took its rivals' networks.",
}


def setting(results: Results) -> str:
    """Data, network and recipe of a setting."""
    found, dataset = results.setting, results.networks.dataset(results.setting)
    tested = len(results.networks.test(found)[1])
    rate = f"Adam at {found.learning_rate:g}" + (
        f", a tenth of it in the last {100 * found.final_share:g} % of the epochs" if found.final_share else ""
    )
    pooled = " (drawn by class with seed 0 from all bundled images)" if found.pooled_test else ""
    return (
        f"{len(dataset.train_labels)} training and {tested} test images{pooled}. {_architecture(found, dataset)} ε = {pixels(found.eps)} in training and test. "
        f"{found.epochs} epochs of {rate}, batches of {found.batch_size}, seeds {', '.join(map(str, found.seeds))}; no weight decay, no augmentation. PGD in training has {TRAINING_STEPS} "
        f"steps of ε/5, in the test {found.restarts} random starts. {_radii(found)} {_weights(found)}"
    )


def _architecture(setting: Setting, dataset: data.Dataset) -> str:
    convolutions = " and ".join(str(number) for number in setting.channels)
    start = f"4x4 convolutions of stride 2 with {convolutions} channels, then " if setting.channels else ""
    hidden = " and ".join(str(number) for number in setting.widths)
    text = f"{start}dense layers with {hidden} units and one of {dataset.num_classes}, {setting.activation}."
    return text[0].upper() + text[1:]


def _radii(setting: Setting) -> str:
    doubled = [row for row in setting.rows if row.first_eps is not None]
    begin, end = (100 * share for share in setting.ramp)
    text = f"The radius of IBP and CROWN-IBP grows linearly between {begin:g} and {end:g} % of the epochs, while the weight of the images' own loss falls from 1 to 0.5."
    if doubled:
        labels = ", ".join(row.label for row in doubled)
        first = doubled[-1].first_eps
        text = f"The radius of {labels} doubles {DOUBLINGS} times, from {first:g}, each fifth of training; PER+at attacks within the current one. {text}"
    return text


def _weights(setting: Setting) -> str:
    parts = []
    for row in setting.rows:
        if row.method in ("per", "per_at"):
            some = f", {row.subset} images of each batch" if row.subset else ""
            start = f", from {setting.row(row.start).label}" if row.start else ""
            parts.append(f"{row.label}: α = {row.alpha:.3g}, β = {row.beta:g}{some}{start}")
        elif row.method in ("mmr", "mmr_at"):
            parts.append(f"{row.label}: γ = {row.gamma:.3g}, λ = {row.weight:g}")
    return "; ".join(parts) + "." if parts else ""


SEARCH = (
    "Algorithm 3.5 halves the interval of each image, and its certificates move the lower end as well, by more than binary search's where they are partial. Binary search "
    "(Fast-Lin, CROWN) needs the same number for every network. Bound calculations are what costs time: PEC has hardly any on top. Radii here are the certified lower ends, "
    "not the middle of the last interval, which the printed algorithm returns and which is not certified."
)
FIGURES = (
    "The study draws figure 3.6 for one image and network, figures 3.8 and 3.9 for CIFAR-10. Here every ReLU setting has a panel. Claims about them are stated in words "
    "there; the measures are ours: mean size of parameters, share of those below 0.01, and share of radii far above the target."
)
SMOOTH = (
    "MMR needs a piecewise linear network, KW and MIP know ReLU alone. Networks are trained on analytic bounds, parallel lines whose slope is the chord's, because gradients go "
    "through them; CRE CRO is judged by CROWN, whose lines have slopes of their own, and the analytic bounds stand beside it. ACB PEC takes the larger radius of the analytic envelope "
    "and of CROWN."
)
