"""Every test runs on 8 simulated devices, with JAX at its strictest."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Compiling is most of a test's time: programs are kept from one run to the next.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "vit-pose-jax-test-cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import flags

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Benchmarks and commands define absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data_dir() -> Path:
    """The fixtures computed by the original implementations."""
    return DATA
