"""What every command sets up in its process before it does anything."""

import logging as std_logging
import os
from pathlib import Path

import jax
from absl import logging

from train_jax.mesh import use_a_device_per_core
from train_jax.stored import as_path


def set_up(workdir: str | None = None) -> None:
    """Logging, the cache of compiled programs, a CPU's devices; before any device is used.

    Args:
        workdir: of a run, where the command is one.

    Raises:
        UserError: the cache is to be in a bucket, and what reads buckets is not installed.
    """
    _set_up_logging()
    _set_up_compilation_cache(workdir)
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


def _set_up_compilation_cache(workdir: str | None) -> None:
    """Keeps compiled programs between processes; JAX_COMPILATION_CACHE_DIR says where.

    A run in a bucket has them there by default: of its processes only the first writes programs,
    so the others find them where they share a place, and the slice that takes the place of a
    preempted one comes with empty disks. Otherwise they are in the user's cache directory.
    """
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if directory is None and workdir is not None and "://" in workdir:
        directory = f"{workdir}/xla"
    if directory is None:
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        directory = str(Path(home) / "vit-pose-jax" / "xla")
    if "://" in directory:
        as_path(directory)  # refuses what cannot be reached
    jax.config.update("jax_compilation_cache_dir", directory)
