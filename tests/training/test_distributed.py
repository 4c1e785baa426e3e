"""One device, eight devices and two processes train the same network."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("_distributed_worker.py")


def run(folder, *arguments, processes=1):
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--folder", folder, "--port", port, "--processes", processes, *arguments]
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, *map(str, options), "--index", str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    run(folder, "--devices", 1, 8)
    run(folder, "--devices", 8, processes=2)
    return folder


def assert_same_network(first, second):
    with np.load(first) as one, np.load(second) as other:
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["plain", "norm"])
@pytest.mark.parametrize("other", ["1_processes_8_devices", "2_processes_8_devices"])
def test_the_same_network_on_any_devices(trained, other, kind):
    assert_same_network(trained / f"1_processes_1_devices_{kind}.npz", trained / f"{other}_{kind}.npz")


@pytest.mark.parametrize("begun", ["1_processes_8_devices", "2_processes_8_devices"])
def test_a_checkpoint_continues_on_another_number_of_devices(trained, tmp_path, begun):
    for kind in ("plain", "norm"):
        shutil.copytree(trained / f"half_{begun}_{kind}", tmp_path / f"half_1_processes_1_devices_{kind}")
    run(tmp_path, "--devices", 1, "--continue")
    for kind in ("plain", "norm"):
        name = f"1_processes_1_devices_{kind}.npz"
        assert_same_network(trained / name, tmp_path / name)
