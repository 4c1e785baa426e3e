"""The preset ``small``: which networks are trained on which data, and how. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .rows import Row, Setting

LABELS = {
    "plain": "plain",
    "at": "AT",
    "kw": "KW",
    "ibp": "IBP",
    "crown_ibp": "CROWN-IBP",
    "mmr": "MMR",
    "mmr_at": "MMR+at",
    "l_per": "L-PER",
    "l_per_at": "L-PER+at",
    "i_per": "I-PER",
    "i_per_at": "I-PER+at",
}
"""The published methods."""


def methods(
    eps: float,
    beta: float,
    gamma: tuple[float, float],
    weight: tuple[float, float],
    *,
    beta_at: float | None = None,
    first_eps: float | None = None,
    alpha: float | None = None,
) -> tuple[Row, ...]:
    """One row for each published method.

    Args:
        eps: radius to defend against.
        beta: of PER, and of PER+at unless ``beta_at`` is given.
        gamma, weight: of MMR and of MMR+at.
        beta_at: of PER+at.
        first_eps: where the radius starts that is doubled four times; a sixteenth of ``eps`` by default.
        alpha: of PER; 1.5 times ``eps`` by default.
    """
    first_eps = eps / 16 if first_eps is None else first_eps
    alpha = 1.5 * eps if alpha is None else alpha
    rows = [_row("plain", "plain"), _row("at", "at"), _row("kw", "kw", first_eps=first_eps)]
    rows += [_row("ibp", "ibp"), _row("crown_ibp", "crown_ibp")]
    rows += [
        _row("mmr", "mmr", gamma=gamma[0], weight=weight[0]),
        _row("mmr_at", "mmr_at", gamma=gamma[1], weight=weight[1]),
    ]
    for letter, bounds in (("l", "fast-lin"), ("i", "fast-lin-interval")):
        options: dict[str, Any] = {"bounds": bounds, "alpha": alpha, "first_eps": first_eps}
        rows += [
            _row(f"{letter}_per", "per", beta=beta, **options),
            _row(f"{letter}_per_at", "per_at", beta=beta if beta_at is None else beta_at, **options),
        ]
    return tuple(rows)


def mnist() -> tuple[Setting, ...]:
    """10,000 images of MNIST with FC1 of 256 units, and 2,000 with the CNN: section 8.10."""
    shared: dict[str, Any] = {"dataset": "mnist", "norm": "linf", "eps": 0.1, "tested": 1000}
    every = {row.name: row for row in methods(0.1, 0.1, (0.1, 0.1), (2.0, 1.0))}
    rows = [every[name] for name in ("plain", "at", "kw", "ibp", "l_per_at")]
    rows += [
        replace(every["l_per_at"], name=f"l_per_at_{beta:g}", label=f"L-PER+at, β = {beta:g}", beta=beta, theirs=None)
        for beta in (0.5, 2.0)
    ]
    fc1 = Setting(
        name="fc1",
        title="MNIST, FC1-256, ReLU, l∞, ε = 0.1",
        rows=tuple(rows),
        widths=(256,),
        theirs="mnist_fc1_linf",
        epochs=20,
        examples=10_000,
        exact_images=50,
        exact_seconds=5.0,
        search_to=0.4,
        search_images=100,
        **shared,
    )
    tuned: dict[str, Any] = {"start": "at", "first_eps": None, "subset": 20}
    cnn = Setting(
        name="cnn",
        title="MNIST, CNN, ReLU, l∞, ε = 0.1",
        rows=(
            every["plain"],
            every["at"],
            replace(every["kw"], subset=20),
            replace(every["ibp"], subset=20),
            replace(every["l_per_at"], beta=0.03, **tuned),
        ),
        channels=(16, 32),
        widths=(100,),
        theirs="mnist_cnn_linf",
        same=True,
        seeds=(0,),
        epochs=10,
        final_share=0.1,
        examples=2_000,
        search_to=0.4,
        search_images=20,
        batch=20,
        **shared,
    )
    return (fc1, cnn)


def _row(name: str, method: Any, **options: Any) -> Row:
    return Row(name, LABELS[name], method, theirs=name, **options)


def without(rows: tuple[Row, ...], *names: str) -> tuple[Row, ...]:
    """The rows but those of these names."""
    return tuple(row for row in rows if row.name not in names)


SAME = ("i_per", "i_per_at")
"""With one hidden layer they are L-PER and L-PER+at."""
NOT_SMOOTH = ("kw", "mmr", "mmr_at")
"""Methods that the study has for ReLU alone."""


def digits() -> tuple[Setting, ...]:
    """The bundled digits, 8x8 pixels: sections 8.1 to 8.5, 8.8 and 8.9 of the small-scale reproduction."""
    shared: dict[str, Any] = {"dataset": "digits", "pooled_test": 397, "epochs": 80, "exact_seconds": 2.0}
    linf = methods(0.1, 2.0, (0.1, 0.1), (2.0, 1.0))
    sharp = Setting(
        name="linf",
        title="FC1-256, ReLU, l∞, ε = 0.1",
        norm="linf",
        eps=0.1,
        rows=without(linf, *SAME),
        widths=(256,),
        theirs="mnist_fc1_linf",
        exact_images=60,
        search_to=0.4,
        search_images=100,
        **shared,
    )
    deep = Setting(
        name="deep",
        title="two hidden layers of 64, ReLU, l∞, ε = 0.05",
        norm="linf",
        eps=0.05,
        rows=without(methods(0.05, 0.5, (0.05, 0.05), (2.0, 1.0)), "crown_ibp", "mmr", "mmr_at"),
        widths=(64, 64),
        exact_images=60,
        search_to=0.4,
        search_images=100,
        **shared,
    )
    l2 = Setting(
        name="l2",
        title="FC1-128, ReLU, l2, ε = 0.3",
        norm="l2",
        eps=0.3,
        rows=without(methods(0.3, 1.0, (0.6, 0.45), (1.5, 0.5)), *SAME),
        widths=(128,),
        theirs="mnist_fc1_l2",
        search_to=1.2,
        search_images=100,
        **shared,
    )
    smooth = without(linf, *NOT_SMOOTH, *SAME)
    smooths = tuple(
        replace(
            sharp,
            name=name,
            title=f"FC1-128, {name}, l∞, ε = 0.1",
            rows=smooth,
            widths=(128,),
            activation=name,
            theirs=f"mnist_fc1_{name}_linf",
            exact_images=0,
            search_to=None,
        )
        for name in ("sigmoid", "tanh")
    )
    return (sharp, deep, l2, *smooths)


SMALL: dict[str, Callable[[], tuple[Setting, ...]]] = {"digits": digits, "mnist": mnist}
