"""The report from made-up cells: claims, tables, text and figures without any training."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from experiments.gradient_norm import (
    claims,
    gradient_claims,
    presets,
    published,
    section,
    tables,
    text,
    training_claims,
)
from experiments.gradient_norm.networks import Networks
from experiments.gradient_norm.results import Results

IMAGES, POINTS = 6, 4


class MadeUp:
    """Stands for a run: every cell is made of random numbers around a level that its row decides."""

    def __init__(self, setting, folder, levels):
        self.setting, self.folder, self.levels = setting, folder, levels

    def cell(self, name, compute):
        kind, _, row = name.split("/")
        row, rng = self.setting.row(row), np.random.default_rng(zlib.crc32(name.encode()))
        level, seeds = self.levels(row), len(row.seeds)

        def values(centre, count=None, spread=0.01):
            return (centre + spread * rng.standard_normal(seeds if count is None else count)).tolist()

        def arrays(centre, *shape):
            return np.abs(centre * (1 + 0.1 * rng.standard_normal((seeds, *shape))))

        if kind == "train":
            epochs = max(row.epochs, 1)
            return {
                "history": {
                    name: np.abs(rng.standard_normal((seeds, epochs))).tolist() for name in ("accuracy", "penalty")
                }
            }
        if kind == "accuracy":
            robust = {"robust": np.ones((seeds, IMAGES), bool)}
            numbers = {"clean": values(97), "pgd": values(level + 1), "l1": values(6 - level / 20)}
            return {**numbers, "images": IMAGES, "arrays": robust}
        if kind == "auto_attack":
            one = {"robust": values(level, len(row.judged_seeds)), "warnings": [["a warning"]]}
            low = {"robust": values(level / 2, len(row.judged_seeds)), "warnings": []}
            return {"radii": {f"{radius:g}": one if radius == 1 else low for radius in row.radii}, "images": IMAGES}
        if kind == "norms":
            robust = np.arange(IMAGES) % 2 == 0
            pictures = {name: rng.random((8, 8, 8, 1)) - 0.5 for name in ("gradients", "perturbations", "images")}
            l1 = np.where(robust, 1.0, 3.0) + 0.1 * rng.random((seeds, IMAGES))
            return {"arrays": {"l1": l1, "robust": np.tile(robust, (seeds, 1)), **pictures}}
        if kind == "curve":
            return {"radii": [0.0, 0.1], "accuracy": [[97.0, level]] * seeds}
        if kind == "masking":
            passed = {"loss": True, "black_box": row.activation != "relu"}
            return {"networks": [{"accuracy": {"clean": 97.0}, "passed": passed, "tiny_gradients": 0.0}]}
        if kind == "confidence":
            return {"doubt": values(0.1), "l1": values(2)}
        if kind == "geometry":
            size = {"natural": 100.0}.get(row.method, 1.0)
            return {"arrays": {name: arrays(size, IMAGES) for name in ("l2", "hessian", "curvature", "linearity")}}
        if kind == "profile":
            return {
                "positions": np.linspace(0, 0.2, POINTS).tolist(),
                "arrays": {name: arrays(1.0, POINTS) for name in ("loss", "l1", "curvature")},
            }
        if kind == "edge_agreement":
            correlation = {"natural": 0.1}.get(row.method, 0.5)
            common = 0.95 if row.method == "edges" else 0.3
            maps = {name: rng.random((4, 8, 8)) for name in ("edge_maps", "saliency_maps")}
            return {
                "arrays": {
                    "saliency": arrays(correlation, IMAGES),
                    "gradient": arrays(correlation, IMAGES),
                    "common": arrays(common, IMAGES),
                    **maps,
                }
            }
        assert kind == "channels"
        histogram = rng.integers(1, 9, (4, 96))
        return {
            "arrays": {
                "quantiles": np.full((4, 2), 1e-3),
                "zeros": np.zeros(4),
                "below": np.zeros((4, 2)),
                "histogram": histogram,
            }
        }


def level(row):
    """AutoAttack accuracy of the made-up networks."""
    if row.method == "natural":
        return 20.0
    if row.method == "edges":
        return 30.0 if row.target == "magnitude" else 60.0 + (row.target != "edges")
    gap = {"relu": 10.0 if row.method == "gradient_norm" else 2.0}.get(row.activation, 0.0)
    if row.name.startswith("warmup"):
        gap += 5.0 * (row.warmup_epochs == 0)
    if row.name.startswith("labels"):
        gap += {"hard": 20.0, "smoothed": 10.0, "mixed": 0.0}[row.labels]
    return {"gradient_norm": 88.0, "adversarial": 90.0}[row.method] - gap


def results(setting, folder, levels=level):
    return Results(Networks(MadeUp(setting, folder, levels)), setting)


def by_text(found):
    return {claim.text: claim for claim in found}


@pytest.fixture
def digits():
    return presets.digits()


def test_claims_of_robustness_follow_the_numbers(digits, tmp_path):
    found = by_text(claims.robustness(results(digits, tmp_path)))
    verdicts = {name: claim.verdict for name, claim in found.items()}
    assert verdicts["AutoAttack, gradient norm at least 30 points above natural training"] == "holds"
    assert verdicts["AutoAttack, PGD-3 training above gradient norm"] == "holds"
    assert verdicts["AutoAttack, gradient norm: GELU above ReLU"] == "holds"
    gain = found["AutoAttack, the gain from ReLU to GELU is larger for gradient norm than for PGD-3 training"]
    assert gain.verdict == "holds"
    assert gain.published == "+22.14 (table 4.4)"
    assert gain.ours.startswith("+8.0")
    share = found["AutoAttack, gradient norm at least 90 % of PGD-3 training"]
    assert share.published.startswith("91.9 %")
    assert share.ours.startswith("97.8 %")
    smaller = "mean ‖∇L‖₁, gradient norm, GELU smaller by more than two orders of magnitude (difference of log10)"
    assert verdicts[smaller] == "does not hold"
    assert not found["PGD-40, all images, gradient norm: GELU above ReLU"].counted
    masking = found["gradient norm masks no gradients: every check of the battery is passed"]
    assert masking.verdict == "does not hold"
    assert "ReLU: black_box" in masking.ours


def test_equal_activations_do_not_show_a_gain(digits, tmp_path):
    def flat(row):
        return level(replace(row, activation="gelu"))

    found = by_text(claims.robustness(results(digits, tmp_path, flat)))
    gain = found["AutoAttack, the gain from ReLU to GELU is larger for gradient norm than for PGD-3 training"]
    assert gain.verdict != "holds"


def test_claims_of_training_follow_the_numbers(digits, tmp_path):
    found = by_text(training_claims.training(results(digits, tmp_path)))
    assert found["gradient norm, PGD-40, all images: mixed labels above smoothed labels"].verdict == "holds"
    assert not found["gradient norm, PGD-40, all images: mixed labels above smoothed labels"].counted
    assert found["gradient norm, GELU, adamw 0.02: PGD-40, all images, warm-up helps"].verdict == "holds"
    crash = next(claim for name, claim in found.items() if name.startswith("SGD crashes"))
    assert crash.verdict == "does not hold"


def test_claims_of_geometry_and_edges_follow_the_numbers(digits, tmp_path):
    found = by_text(gradient_claims.geometry(results(digits, tmp_path)))
    smaller = [claim for name, claim in found.items() if "below natural training" in name]
    assert len(smaller) == 8
    assert {claim.verdict for claim in smaller} == {"holds"}
    found = by_text(gradient_claims.edges(results(digits, tmp_path)))
    assert found["AutoAttack, aligned with edges above not aligned"].verdict == "holds"
    causes = {name: claim for name, claim in found.items() if name.startswith("edges are the cause")}
    assert len(causes) == 5
    assert {claim.verdict for claim in causes.values()} == {"does not hold"}
    assert not any(claim.counted for claim in causes.values())
    negative = next(claim for name, claim in found.items() if "negative" in name)
    assert negative.verdict == "does not hold"


def test_a_constant_classifier_is_called_out(digits, tmp_path):
    def collapsed(row):
        return 120.0 if row.name == "warmup_adamw_relu_0" else level(row)  # makes the mean norm 0

    assert text.constant(results(digits, tmp_path), "training") == []
    (warning,) = text.constant(results(digits, tmp_path, collapsed), "training")
    assert "gradient norm, ReLU, adamw 0.02, no warm-up" in warning


def test_the_text_counts_the_controls_that_do_as_well(digits, tmp_path):
    assert "5 of 5 other signed maps" in text.edges(results(digits, tmp_path))[-1]


@pytest.mark.parametrize(
    "part",
    [
        "training",
        *(pytest.param(part, marks=pytest.mark.slow) for part in ("robustness", "geometry", "edges", "colour")),
    ],
)
def test_sections_have_their_tables_and_figures(part, digits, tmp_path):
    setting = presets.cifar10() if part == "colour" else digits
    networks = Networks(MadeUp(setting, tmp_path, level))
    if part == "colour":
        networks.dataset = lambda setting: Networks(None).dataset(digits)
    found = section.PARTS[part](networks, setting)
    figures = {"robustness": 3, "training": 0, "geometry": 2, "edges": 2, "colour": 1}[part]
    assert len(found.figures) == figures
    assert all((tmp_path / f"{path}.png").exists() for path, _ in found.figures)
    assert "| --- |" in found.markdown().replace("|---|", "| --- |")
    assert (len(found.claims) > 0) == (part != "colour")


def test_a_setting_with_few_rows_still_reports(digits, tmp_path):
    rows = tuple(row for row in digits.of("robustness") if row.name == "gradient_norm_relu")
    alone = replace(digits, rows=(("robustness", rows),))
    found = section.robustness(Networks(MadeUp(alone, tmp_path, level)), alone)
    assert [claim.verdict for claim in found.claims] == ["does not hold"]  # the made-up masking of ReLU


def test_published_rows_stand_beside(digits, tmp_path):
    rows = {row[0]: row for row in tables.methods(results(digits, tmp_path)).rows}
    assert rows["gradient norm, ReLU"][-4:] == ["16.94", "6.82", "", ""]
    assert rows["natural, GELU"][-2:] == ["84.19", "0.00 / 0.00 / 0.00"]
    assert len(tables.norms(results(digits, tmp_path)).rows) == 3 + 2 * len(published.TABLE_4_1)
