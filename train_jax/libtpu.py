"""The TPU library on machines without a TPU, where it is installed for its compiler."""

import os
from pathlib import Path


def quieten_without_tpu() -> None:
    """Answers what libtpu asks a TPU machine for, where there is none: it complains loudly else.

    Without effect where there are TPU chips, and on what is set already.
    """
    if not [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/*")]:
        quieten()


def quieten() -> None:
    """The same, wherever it is."""
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
