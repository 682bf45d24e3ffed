"""What every command sets up in its process before it does anything."""

import logging as std_logging
import os
from pathlib import Path

import jax
from absl import logging

from train_jax.mesh import use_a_device_per_core


def set_up() -> None:
    """Logging, the cache of compiled programs, a CPU's devices; before any device is used."""
    _set_up_logging()
    _set_up_compilation_cache()
    use_a_device_per_core()


def _set_up_logging() -> None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(None)
    # Their progress notes are for their developers; what goes wrong, we say ourselves.
    logging.get_absl_logger().addFilter(_is_not_tfds)
    for name in ("orbax", "jax", "etils", "tensorstore"):
        std_logging.getLogger(name).setLevel(std_logging.WARNING)


def _is_not_tfds(record: std_logging.LogRecord) -> bool:
    return f"{os.sep}tensorflow_datasets{os.sep}" not in record.pathname


def _set_up_compilation_cache() -> None:
    """Keeps compiled programs between processes; JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "vit-pose-jax" / "xla"))
