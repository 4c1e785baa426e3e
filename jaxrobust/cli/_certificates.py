"""What ``jaxrobust certify`` proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TOGETHER = "all methods together"


class Maps(NamedTuple):
    """A certified radius for each pixel, see :func:`jaxrobust.certify.nonuniform`.

    Attributes:
        rows: ``[m]``, numbers of the images.
        radii: ``[m, *image]``.
        mean_radius: ``[m]``, their geometric mean.
        uniform: ``[m]``, the largest radius that is the same for all pixels.
    """

    rows: np.ndarray
    radii: np.ndarray
    mean_radius: np.ndarray
    uniform: np.ndarray


@dataclass(frozen=True)
class Certificates:
    """What was proved of ``n`` images.

    Attributes:
        labels: ``[n]``.
        predictions: ``[n]``.
        eps: radius of the threat model.
        radii: by method, ``[n]``: from bounds at eps, 0 for misclassified images.
        search_to: largest radius of the search, if there was one.
        searched: by method, ``[n]``: radii found by the search.
        evaluations: by method, ``[n]``: how many times it computed bounds, 0 for misclassified images.
        maps: a radius for each pixel, of some images.
        times: by what was computed, see :meth:`jaxrobust.cli._tasks.Results.times`.
    """

    labels: np.ndarray
    predictions: np.ndarray
    eps: float
    radii: dict[str, np.ndarray]
    search_to: float | None
    searched: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    maps: Maps | None
    times: dict[str, dict[str, float | bool]]

    @property
    def correct(self) -> np.ndarray:
        """Whether images are classified correctly, ``[n]``."""
        return self.predictions == self.labels

    def certified(self, radii: np.ndarray) -> np.ndarray:
        """Whether radii reach eps."""
        return radii >= np.float32(self.eps)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by the names that it has in files."""
        largest = with_together(self.radii)
        arrays = {"labels": self.labels, "predictions": self.predictions}
        arrays |= {"certified": self.certified(_last(largest)), "radius": _last(largest)}
        arrays |= {f"certified_by_{method}": self.certified(radii) for method, radii in self.radii.items()}
        arrays |= {f"radius_by_{method}": radii for method, radii in self.radii.items()}
        if self.searched:
            arrays["searched_radius"] = _last(with_together(self.searched))
            arrays |= {f"searched_radius_by_{method}": radii for method, radii in self.searched.items()}
            arrays |= {f"evaluations_by_{method}": counts for method, counts in self.evaluations.items()}
        if self.maps is not None:
            arrays |= {f"map_{name}": array for name, array in self.maps._asdict().items()}
        return arrays


def with_together(radii: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The radii of each method and, of several, the largest one at the end."""
    return radii if len(radii) < 2 else {**radii, TOGETHER: np.max(list(radii.values()), axis=0)}


def _last(radii: dict[str, np.ndarray]) -> np.ndarray:
    return list(radii.values())[-1]
