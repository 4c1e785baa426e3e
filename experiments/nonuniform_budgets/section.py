"""A setting's part of the report."""

from __future__ import annotations

from functools import partial

from experiments.study import Section

from . import claims, figures, tables
from .networks import Networks
from .outcomes import collect
from .presets import Setting


def run(networks: Networks, setting: Setting) -> Section:
    """Train and certify the setting's networks and report on them."""
    outcomes = collect(networks, setting)
    section = Section(_title(setting), text=_text(networks, setting))
    section.tables = [tables.radii(setting, outcomes), tables.cosines(setting, outcomes), tables.spreads(outcomes)]
    beside = tables.variants(outcomes)
    section.tables += [tables.starts(setting, outcomes), *([] if beside is None else [beside])]
    section.claims = [
        *claims.volumes(setting, outcomes),
        claims.soundness(outcomes),
        *claims.shapes(setting, outcomes),
        *claims.directions(setting, outcomes),
        *claims.spreads(setting, outcomes),
        *claims.maps(setting, outcomes),
    ]
    for name, draw, caption in (
        ("histograms", partial(figures.histograms, outcomes), figures.HISTOGRAMS),
        ("maps", partial(figures.maps, networks, setting, outcomes), figures.MAPS),
        ("training", partial(figures.training, outcomes), figures.TRAINING),
    ):
        path = f"figures/{setting.name}_{name}"
        if draw(networks.run.folder / path):
            section.figures.append((path, caption))
    return section


def _title(setting: Setting) -> str:
    task = "" if setting.classes is None else f", {' against '.join(map(str, setting.classes))}"
    return f"{setting.dataset}{task}, hidden layers {' - '.join(map(str, setting.widths))}"


def _text(networks: Networks, setting: Setting) -> list[str]:
    dataset = networks.dataset(setting)
    decay = f", weight decay {setting.weight_decay:g}" if setting.weight_decay else ""
    text = [
        f"{len(dataset.train_labels)} training and {len(dataset.test_labels)} test images. ReLU networks with hidden layers of "
        f"{', '.join(map(str, setting.widths))} units, Adam with learning rate {setting.learning_rate:g}{decay}, batches of "
        f"{setting.batch_size}, {setting.epochs} epochs, seeds {', '.join(map(str, setting.seeds))}. Robust networks are trained on PGD examples "
        f"alone: {setting.attack_steps} steps of {setting.attack_step:g} times the radius from a random start, inside the pixels' range; the number in "
        f"a row's name is their radius. The first {setting.images} test images that a network classifies correctly are certified by Fast-Lin, with "
        f"{setting.steps} steps of the search; they are not the same for all networks. Ratios are those of means over images, as in table 3.2.",
        "What figures 3.4 and 3.5 show is put into numbers here, which the study does not. Spread: standard deviation over an image's pixels of the decimal "
        "logarithm of their radii. Correlation of neighbours: Moran's I of the logarithms, 0 for a map of noise and near 1 for a smooth one.",
    ]
    if setting.classes is not None:
        text.append(
            "The deciding pixels are the tenth where the mean training images of the two classes differ most, the common stroke the tenth "
            "that is brightest in both. The study sees small radii in the former and large ones in the latter on maps of a robust network, and nothing "
            "but noise on those of a plain one."
        )
    return text
