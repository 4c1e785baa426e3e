"""One style for all figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrobust.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (4.0, 3.2), **options: Any) -> Any:
    """Figure and axes (always a 2-D array), each panel of the given size in inches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "figure.dpi": 150,
            "svg.hashsalt": "jaxrobust",
            "pdf.fonttype": 42,
        }
    )
    width, height = size
    return plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
        **options,
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``path`` as PNG and PDF, without dates, and close the figure."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "ModDate": None},
    }
    for suffix, entries in metadata.items():
        write_atomically(
            path.with_name(path.name + suffix),
            lambda temporary, entries=entries: figure.savefig(temporary, metadata=entries),  # type: ignore[misc]
        )
    plt.close(figure)
