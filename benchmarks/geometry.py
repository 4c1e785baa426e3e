"""Time and memory of ``geometry.robustness`` beside native nearest-neighbour searches, and whether all agree.

Every method searches, for each of the first ``--count`` training images, the nearest image of another class:

* ``jaxrobust``: the 8-bit images, first call, compilation included; ``jaxrobust float32``: the same images as float32;
* ``scikit-learn``: ``NearestNeighbors(algorithm="brute")``, class by class against all others, on all cores;
* ``faiss``: ``IndexFlatL2``, likewise (L2 only; it computes in float32 and is not exact); needs ``pip install faiss-cpu``;
* ``scipy``: ``cdist`` in blocks, on one core.

Each runs in a process of its own. Seconds are without imports and the loading of data; CPU seconds are those of all cores,
and tell more on a busy machine. Memory is the largest resident set of the process, in brackets what of it was there before.
Distances that differ from ours by more than 1e-6 are counted, and the largest difference is given in pixels in [0, 1].

    python benchmarks/geometry.py [--dataset mnist] [--count 60000] [--norm both] [--methods jaxrobust scikit-learn faiss]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

METHODS = ("jaxrobust", "jaxrobust float32", "scikit-learn", "faiss", "scipy")
BLOCK = 500


def ours(images: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    from jaxrobust import geometry

    return geometry.robustness(images, labels, norm).distances


def ours_float32(images: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    return ours(images.astype(np.float32) / 255, labels, norm)


def by_class(images: np.ndarray, labels: np.ndarray, search) -> np.ndarray:
    distances = np.empty(len(images))
    for label in np.unique(labels):
        distances[labels == label] = search(images[labels != label], images[labels == label])
    return distances / 255


def sklearn(images: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    metric = {"l2": "euclidean", "linf": "chebyshev"}[norm]

    def search(references: np.ndarray, queries: np.ndarray) -> np.ndarray:
        neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=metric).fit(references)
        return neighbours.kneighbors(queries)[0][:, 0]

    return by_class(images.astype(np.float32), labels, search)


def faiss(images: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    import faiss

    def search(references: np.ndarray, queries: np.ndarray) -> np.ndarray:
        index = faiss.IndexFlatL2(references.shape[1])
        index.add(references)
        return np.sqrt(np.maximum(index.search(queries, 1)[0][:, 0], 0))

    return by_class(images.astype(np.float32), labels, search)


def scipy(images: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    from scipy.spatial.distance import cdist

    metric = {"l2": "sqeuclidean", "linf": "chebyshev"}[norm]

    def search(references: np.ndarray, queries: np.ndarray) -> np.ndarray:
        blocks = (queries[begin : begin + BLOCK] for begin in range(0, len(queries), BLOCK))
        nearest = np.concatenate([cdist(block, references, metric).min(1) for block in blocks])
        return np.sqrt(nearest) if norm == "l2" else nearest

    return by_class(images.astype(np.float64), labels, search)


FUNCTIONS = dict(zip(METHODS, (ours, ours_float32, sklearn, faiss, scipy), strict=True))


def mebibytes() -> float:
    """The largest resident set since the program began. Linux; ``ru_maxrss`` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run(method: str, norm: str, folder: Path) -> None:
    """The measured process."""
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    imports = {"scikit-learn": "sklearn.neighbors", "faiss": "faiss", "scipy": "scipy.spatial"}
    importlib.import_module(imports.get(method, "jaxrobust.geometry"))
    before, cpu, begin = mebibytes(), time.process_time(), time.perf_counter()
    distances = FUNCTIONS[method](images, labels, norm)
    result = {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "before": before,
        "peak": mebibytes(),
    }
    np.save(folder / f"{norm} {method}.npy", distances)
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--norm", default="both", choices=["l2", "linf", "both"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "NORM", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, norm, folder = arguments.one
        run(method, norm, Path(folder))
        return
    from jaxrobust import data

    dataset = data.load(arguments.dataset)
    images = dataset.train_images[: arguments.count].reshape(min(arguments.count, len(dataset.train_images)), -1)
    print(f"{arguments.dataset}, {images.shape[0]} images of {images.shape[1]} features, {os.cpu_count()} cores\n")
    print("| norm | method | seconds | CPU seconds | x ours | peak MiB (before) | differing | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), images)
        np.save(Path(folder, "labels.npy"), dataset.train_labels[: arguments.count])
        for norm in ("l2", "linf") if arguments.norm == "both" else (arguments.norm,):
            first: dict[str, float] = {}
            for method in arguments.methods:
                if method == "faiss" and norm == "linf":
                    continue
                command = [sys.executable, __file__, "--one", method, norm, folder]
                result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                first = first or result
                distances = [np.load(Path(folder, f"{norm} {which}.npy")) for which in (method, arguments.methods[0])]
                differences = np.abs(distances[0] - distances[1])
                print(
                    f"| {norm} | {method} | {result['seconds']:.1f} | {result['cpu_seconds']:.1f} "
                    f"| {result['seconds'] / first['seconds']:.2f} | {result['peak']:.0f} ({result['before']:.0f}) "
                    f"| {np.sum(differences > 1e-6)} | {differences.max():.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
