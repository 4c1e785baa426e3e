"""Whether the input keeps up: images per second of the training stream, and its memory over millions of images.

A synthetic ``.npz`` of ``--synthetic`` CIFAR-size images, with the layout of the published generated sets, is written
to a temporary folder in constant memory, and removed at the end. Batches are made of 20 % of 50,000 original images in
memory and of 80 % from that file. A generated image holds its number, which tells its label: labels are checked.

* memory: ``--batches`` batches of 2048 are read. ``RssAnon`` (Linux), what the process keeps for itself, must stay
  within 64 MiB of what it was after a tenth of them. The allocator is told to give large blocks back when they are
  freed, so that a leak shows: by default glibc keeps blocks of the size of a batch in a heap per thread, which level
  off some 150 MiB higher. ``RssFile`` are pages of the map, which the kernel keeps while nobody needs the room.
* speed: for batches of 512 and 2048, images per second of the stream, and of a jitted standard training step of CNN4.
  The stream must be at least 5 times as fast. Rounds of both are interleaved, the read-ahead buffer is emptied before
  each, and medians are reported. Beside them is the time of augmentation (crop, flip, rotation), a part of the step
  in training. The file has just been written and mostly lies in the page cache: the stream's speed is that of memory,
  not of a disk.

    python benchmarks/input.py [--synthetic 2000000] [--batches 10000] [--rounds 5] [--folder /tmp]

The exit code is 1 if memory or speed fails.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import data, models, optimizers, training

SHAPE, CLASSES, ORIGINALS = (32, 32, 3), 10, 50_000
CHUNK = 10_000
TOLERANCE = 64 << 10  # KiB
FASTER = 5.0
FIELDS = ("VmRSS", "RssAnon", "RssFile")


def show(record: dict[str, object]) -> None:
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}), flush=True)


def write(path: Path, count: int) -> None:
    """Random images, stored uncompressed, whose first four bytes are their number; labels are the numbers modulo 10."""
    pixels = np.random.default_rng(0).integers(0, 256, (CHUNK, *SHAPE), dtype=np.uint8)
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {"image": ("|u1", (count, *SHAPE)), "label": ("<i8", (count,))}
    with zipfile.ZipFile(path, "w") as archive:
        for name, (descr, shape) in kinds.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
                for begin in range(0, count, CHUNK):
                    numbers = np.arange(begin, min(begin + CHUNK, count), dtype="<i8")
                    if name == "image":
                        pixels[: len(numbers)].reshape(len(numbers), -1)[:, :4] = numbers.astype("<u4")[:, None].view(
                            np.uint8
                        )
                        file.write(pixels[: len(numbers)].data)
                    else:
                        file.write((numbers % CLASSES).data)


def batches(generated: data.Generated, size: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (ORIGINALS, *SHAPE), dtype=np.uint8)
    labels = rng.integers(CLASSES, size=ORIGINALS)
    return data.batches(images, labels, size, seed=0, epochs=10**6, generated=generated)


def status() -> dict[str, int]:
    """Memory of this process in KiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {field: int(lines[field].split()[0]) for field in FIELDS}


def memory(generated: data.Generated, count: int) -> bool:
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
    stream = batches(generated, 2048)
    drawn = int(generated.fraction * 2048)
    seen = np.zeros(len(generated.labels), bool)
    samples: list[dict[str, int]] = []
    every = max(count // 100, 1)
    begin = time.perf_counter()
    for number in range(1, count + 1):
        batch = next(stream)
        rows = batch["images"][-drawn:].reshape(drawn, -1)[:, :4].copy().view("<u4")[:, 0]
        if (batch["labels"][-drawn:] != rows % CLASSES).any():
            raise RuntimeError(f"batch {number} has labels of other images")
        seen[rows] = True
        if number % every == 0 and number >= count / 10:
            samples.append(status())
    passed = max(sample["RssAnon"] for sample in samples) - samples[0]["RssAnon"] <= TOLERANCE
    seconds = time.perf_counter() - begin
    print(f"{'MiB':8} {'first':>8} {'last':>8} {'max':>8}   {len(samples)} samples")
    for field in FIELDS:
        values = [sample[field] / 1024 for sample in samples]
        print(f"{field:8} {values[0]:8.1f} {values[-1]:8.1f} {max(values):8.1f}")
    show(
        {
            "memory": "passed" if passed else "FAILED", "batches": count, "images_read": count * 2048,
            "generated_images_seen": int(seen.sum()), "of": len(seen), "seconds": seconds,
        }
    )  # fmt: skip
    return passed


def speed(generated: data.Generated, size: int, rounds: int) -> bool:
    stream = batches(generated, size)
    batch = next(stream)
    model, optimizer = models.CNN4(classes=CLASSES), optimizers.sgd(0.1)
    state = training.init_state(model, jax.random.key(0), jnp.asarray(data.to_float(batch["images"][:1])), optimizer)
    step = jax.jit(training.make_train_step(training.linen_apply(model), training.standard(), optimizer))
    augment = jax.jit(data.compose(data.random_crop, data.random_flip, data.random_rotation(15)))
    floats = jax.device_put(data.to_float(batch["images"]))
    jax.block_until_ready((step(state, batch), augment(jax.random.key(0), floats)))
    reads, steps = 100_000 // size, max(4096 // size, 2)
    times = []
    for _ in range(rounds):
        for _ in range(20):  # more than are read ahead
            next(stream)
        marks = [time.perf_counter()]
        for _ in range(reads):
            next(stream)
        marks.append(time.perf_counter())
        for _ in range(steps):
            jax.block_until_ready(step(state, batch))
        marks.append(time.perf_counter())
        for _ in range(steps):
            jax.block_until_ready(augment(jax.random.key(0), floats))
        marks.append(time.perf_counter())
        read, stepped, augmented = np.diff(marks) / (reads, steps, steps)
        times.append((read, stepped, augmented, stepped / read))
    read, stepped, augmented, ratio = (float(statistics.median(column)) for column in zip(*times, strict=True))
    show(
        {
            "speed": "passed" if ratio >= FASTER else "FAILED", "batch": size, "stream_images_per_s": size / read,
            "step_images_per_s": size / stepped, "ratio": ratio, "ratio_min": min(row[3] for row in times),
            "stream_ms": 1e3 * read, "step_ms": 1e3 * stepped, "augment_ms": 1e3 * augmented,
        }
    )  # fmt: skip
    return ratio >= FASTER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    arguments = parser.parse_args()
    show({"backend": jax.default_backend(), "jax": jax.__version__, "synthetic": arguments.synthetic})
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        need, free = int(1.05 * arguments.synthetic * (np.prod(SHAPE) + 8)), shutil.disk_usage(folder).free
        if free < need:
            sys.exit(
                f"{need / 1e9:.3g} GB are needed in {folder}, {free / 1e9:.3g} GB are free: use --folder or --synthetic"
            )
        path = Path(folder) / "generated.npz"
        begin = time.perf_counter()
        write(path, arguments.synthetic)
        written = time.perf_counter() - begin
        begin = time.perf_counter()
        generated = data.Generated(*data.open_npz(path, num_classes=CLASSES), fraction=0.8)
        opened = time.perf_counter() - begin
        show({"file_gb": path.stat().st_size / 1e9, "write_s": written, "open_s": opened})
        passed = [memory(generated, arguments.batches)]
        passed += [speed(generated, size, arguments.rounds) for size in (512, 2048)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
