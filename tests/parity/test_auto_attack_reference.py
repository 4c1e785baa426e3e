"""AutoAttack beside the reference package's verdicts, point by point: ``benchmarks/autoattack_parity.py`` as a test.

In a process of its own, since the tests' compiler flags make long runs slow.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from reference_networks import CASES, FOLDER  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference's verdicts are not here"),
]


@pytest.mark.parametrize("case", [":".join(case) for case in CASES])
def test_verdicts_of_the_reference(case):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, BENCHMARKS / "autoattack_parity.py", "--cases", case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
