"""Kills a training run with SIGKILL at random moments and compares its end with that of an undisturbed run.

``jaxrobust train`` trains an MLP on the bundled digits by TRADES, with averaging, augmentation, held-out evaluation and a
checkpoint every few steps. Everything that the two runs leave must be equal bit by bit: training state, best and last
network, metrics and report. Exit code 1 on any difference.

    python benchmarks/kill_resume.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

SETTINGS = (
    "--model mlp --method trades --eps 0.1 --attack-steps 3 --augment crop --epochs {epochs} --batch-size 64 "
    "--checkpoint-every 10 --evaluate-every 2 --log-every 5 --output {output}"
)


def start(output: Path, epochs: int) -> subprocess.Popen[bytes]:
    options = SETTINGS.format(epochs=epochs, output=output).split()
    command = [sys.executable, "-c", "from jaxrobust.cli import jaxrobust; jaxrobust()", "train", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def arrays(output: Path) -> dict[str, np.ndarray]:
    """All arrays of the checkpoints that a run leaves, by name."""
    found = {}
    for series in sorted((output / "checkpoints").iterdir()):
        # The last one: older checkpoints may stay where a finished run is killed while it removes them.
        last = max(int(step.name) for step in series.iterdir() if step.name.isdigit())
        found[f"{series.name}: step"] = np.asarray(last)
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.restore(series / str(last) / "default")
        flat, _ = jax.tree_util.tree_flatten_with_path(tree)
        found |= {f"{series.name}: {path}": np.asarray(leaf) for path, leaf in flat}
    return found


def differences(first: Path, second: Path) -> list[str]:
    one, other = arrays(first), arrays(second)
    wrong = sorted(one.keys() ^ other.keys())
    wrong += [name for name in one.keys() & other.keys() if one[name].tobytes() != other[name].tobytes()]
    for name in ("metrics.jsonl", "report.md"):
        texts = [(folder / name).read_text().replace(str(folder), "") for folder in (first, second)]
        wrong += [name] if texts[0] != texts[1] else []
    return wrong


def undisturbed(output: Path, epochs: int) -> tuple[float, float]:
    """Run to the end; seconds until the first record and in all."""
    begin, first = time.monotonic(), None
    process = start(output, epochs)
    while process.poll() is None:
        if first is None and (output / "timings.jsonl").exists() and (output / "timings.jsonl").stat().st_size:
            first = time.monotonic() - begin
        time.sleep(0.02)
    if process.returncode or first is None:
        sys.exit(f"the undisturbed run ended with exit code {process.returncode}")
    return first, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="of the run; by default it grows with the number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    epochs = arguments.epochs or 20 + 10 * arguments.kills
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        startup, total = undisturbed(whole, epochs)
        print(f"undisturbed: {epochs} epochs in {total:.1f} s, first record after {startup:.1f} s", flush=True)
        reached = []
        for number in range(arguments.kills):
            process = start(killed, epochs)
            time.sleep(moments.uniform(0.3 * startup, startup + 1.2 * (total - startup) / arguments.kills))
            if process.poll() is not None:
                sys.exit(f"the run ended with exit code {process.returncode} after {number} kills; give more --epochs")
            process.send_signal(signal.SIGKILL)
            process.wait()
            steps = [int(step.name) for step in (killed / "checkpoints" / "state").glob("*") if step.name.isdigit()]
            reached.append(max(steps, default=0))
        print(f"killed {arguments.kills} times; whole checkpoints at the kills: {json.dumps(reached)}", flush=True)
        process = start(killed, epochs)
        if process.wait():
            sys.exit(f"the last continuation ended with exit code {process.returncode}")
        wrong = differences(whole, killed)
        for name in wrong:
            print(f"differs: {name}")
        if wrong:
            sys.exit(1)
        print(f"{len(arrays(whole))} arrays, metrics and report are equal bit by bit")


if __name__ == "__main__":
    main()
