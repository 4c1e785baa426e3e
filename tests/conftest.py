"""Every test runs on two CPU devices, under strict dtype promotion.

XLA optimises little here: tests compile thousands of small programs and run each a few times.
"""

import gc
import os
from pathlib import Path

from jaxlib.version import __version_info__ as JAXLIB

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = (
    "--xla_force_host_platform_device_count=2",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # Halves the time to compile. XLA aborts at a flag that it does not know, as later versions may not.
    *(["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"] if JAXLIB < (0, 11) else []),
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("MPLBACKEND", "Agg")
gc.set_threshold(100_000, 20, 20)  # with the usual ones a twentieth of the time goes into collecting

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_traceback_in_locations_limit", 0)  # no lines of source in compiled programs: 8 % of the time


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs():
    """Each compiled program maps some ten pieces of memory. Linux allows 65,530 a process; at the next XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def float64():
    """Run one test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)
