"""AutoAttack beside the reference package's verdicts, point by point.

For each network and norm of the reference folder it runs the standard version's attacks, each alone on all correctly
classified points, and compares

* the robust accuracy of the cascade, which is that of all attacks together since no attack's random numbers depend on
  the others: within 1 point of the reference, and never more than 0.5 above;
* the verdicts of the cascade per point: at least 98 % alike;
* the norms of what FAB-T found, which draws no random numbers: within 0.1 % of the reference's on at least 95 % of the
  points that both broke.

Exits with 1 where one of these does not hold, with 0 and a message where the folder is absent. All points on which a verdict
differs are listed.

    python benchmarks/autoattack_parity.py [--cases mlp_plain:Linf cnn_pgd:L2] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from reference_networks import CASES, FOLDER, load, verdicts

import jaxrobust
from jaxrobust import attacks

KEYS = {"apgd-ce": "apgd_ce", "apgd-t": "apgd_t", "fab-t": "fab_t", "square": "square"}


def compare(name: str, norm: str) -> dict[str, object]:
    network, reference = load(name), verdicts(name, norm)
    logits = np.asarray(network.logits_fn(network.images))
    if not np.abs(logits - reference["logits"]).max() <= 1e-3 * np.abs(reference["logits"]).max():
        raise SystemExit(f"{name}: the logits are not the reference's; the network was ported wrongly")
    threat = getattr(jaxrobust, norm)(float(reference["eps"]))
    begin = time.perf_counter()
    evaluate = attacks.auto_attack(threat, cascade=False, batch_size=len(network.labels))
    result = evaluate(jax.random.key(0), network.logits_fn, network.images, network.labels)
    fab = attacks.auto_attack(threat, "custom", attacks=["fab-t"], batch_size=len(network.labels))
    fab_result = fab(jax.random.key(0), network.logits_fn, network.images, network.labels)
    both = (fab_result.distances > 0) & (reference["fab_t_norm"] > 0)
    relative = np.abs(fab_result.distances[both] / reference["fab_t_norm"][both] - 1)
    robust, expected = result.robust, reference["standard_robust"]
    found = {
        "network": name,
        "norm": norm,
        "eps": float(reference["eps"]),
        "clean": result.clean_accuracy,
        "robust": 100 * float(robust.mean()),
        "robust, reference": 100 * float(expected.mean()),
        "agreement": 100 * float((robust == expected).mean()),
        "fab-t norms alike": 100 * float((relative <= 1e-3).mean()),
        "points that differ": {
            "cascade": np.flatnonzero(robust != expected).tolist(),
            **{a: np.flatnonzero(r != reference[f"{KEYS[a]}_robust"]).tolist() for a, r in result.robust_by.items()},
        },
        "alone": {
            a: [100 * float(r.mean()), 100 * float(reference[f"{KEYS[a]}_robust"].mean())]
            for a, r in result.robust_by.items()
        },
        "seconds": time.perf_counter() - begin,
    }
    difference = found["robust"] - found["robust, reference"]
    found["passed"] = bool(
        abs(difference) <= 1 + 1e-9
        and difference <= 0.5 + 1e-9
        and found["agreement"] >= 98
        and found["fab-t norms alike"] >= 95
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[":".join(case) for case in CASES], metavar="NETWORK:NORM")
    parser.add_argument("--json", type=Path, help="also write the results to a file")
    arguments = parser.parse_args()
    if not FOLDER.is_dir():
        print("the reference folder is absent: nothing to compare with", file=sys.stderr)
        return
    results = []
    for case in arguments.cases:
        found = compare(*case.split(":"))
        results.append(found)
        alone = ", ".join(f"{attack} {ours:.1f} ({theirs:.1f})" for attack, (ours, theirs) in found["alone"].items())
        print(
            f"{found['network']} {found['norm']} eps {found['eps']:g}: robust {found['robust']:.1f} "
            f"(reference {found['robust, reference']:.1f}), verdicts alike {found['agreement']:.1f} %, FAB-T norms alike "
            f"{found['fab-t norms alike']:.1f} %; alone: {alone}; {found['seconds']:.0f} s; "
            f"{'passed' if found['passed'] else 'FAILED'}",
            flush=True,
        )
        print(f"  points that differ: {found['points that differ']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if not all(found["passed"] for found in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
