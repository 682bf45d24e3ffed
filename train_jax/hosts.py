"""Several processes that behave as one: start, agreement, and notices to stop.

On one process everything here is free and needs no set-up. On several, `initialize` must run
before anything else touches a device, and every process must make the same calls in the same
order: a process that leaves one out blocks the others.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from train_jax.errors import UserError

PREEMPTED_EXIT_CODE = 75
"""A run that was told to stop, or lost a process, and wants to be started again (EX_TEMPFAIL)."""

# What collectives, the coordination service and its channel say of a process that is gone.
_LOST = ("Gloo", "heartbeat", "Connection reset", "Connection closed", "UNAVAILABLE", "unhealthy")


def initialize(
    coordinator: str | None = None,
    *,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_s: int = 300,
    heartbeat_s: int = 100,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Joins the processes of a run; call it once, before the first use of a device.

    With a coordinator the three values say everything. Without one, a Cloud TPU is recognised by
    its environment and its hosts find each other. Otherwise the run is one process and nothing is
    done.

    Args:
        coordinator: "host:port" of process 0.
        num_processes: how many processes there are.
        process_id: which of them this is, from 0.
        timeout_s: seconds to wait for the others at the start.
        heartbeat_s: seconds of silence after which a process counts as lost and all stop.
        environ: environment variables; those of this process if None.

    Raises:
        UserError: the values are incomplete or contradict each other, or the others do not come.
    """
    environ = os.environ if environ is None else environ
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        if not _on_cloud_tpu(environ):
            return
    elif any(value is None for value in given):
        raise UserError(
            "Several processes need all three of coordinator (host:port), number of processes and "
            f"process id; got {coordinator!r}, {num_processes!r} and {process_id!r}."
        )
    elif num_processes == 1:
        return
    else:
        _check(coordinator, num_processes, process_id)
    # The preemption service turns a SIGTERM on one host into a step at which all of them stop.
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout_s,
            heartbeat_timeout_seconds=heartbeat_s,
        )
    except RuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error) and "UNAVAILABLE" not in str(error):
            raise
        raise UserError(
            f"The processes of this run did not all reach {coordinator or 'the coordinator'} "
            f"within {timeout_s} s; check that every process was started, with the same "
            "coordinator address, and that its port is open."
        ) from error


def is_main() -> bool:
    """Whether this process writes logs and files that exist once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come here; `name` must be the same on all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_agree(mine: bool) -> bool:
    """Whether `mine` is true on every process; all of them get the same answer."""
    if jax.process_count() == 1:
        return mine
    # Not an array of JAX: under a mesh that would be one of all processes, which is not gathered.
    return bool(multihost_utils.process_allgather(np.asarray(mine)).all())


def from_main(number: int) -> int:
    """The number that process 0 gives, on every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception says that another process of the run is gone."""
    text = str(error)
    return isinstance(error, jax.errors.JaxRuntimeError) and any(sign in text for sign in _LOST)


def leave(code: int, *, wait_s: float = 10) -> NoReturn:
    """Ends one of several processes after an error.

    Where all met the same error they take leave of each other. Where they did not, the others wait
    for this one in the middle of a step: it ends, so that they notice.

    Args:
        code: the exit code.
        wait_s: how long to wait for the others.
    """

    def shut_down() -> None:
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()

    # What is wrong has been said; threads that fail because the process ends have nothing to add.
    threading.excepthook = sys.unraisablehook = lambda *_: None
    thread = threading.Thread(target=shut_down, daemon=True)
    thread.start()
    thread.join(wait_s)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end would wait for the others, for minutes


class StopNotice:
    """Learns that the run shall stop, and makes all processes stop at the same step.

    As a context manager it answers SIGTERM and SIGINT while it is entered:

    * on one process the first signal is remembered and the second acts at once, as it would have
      without us;
    * on several, SIGTERM on any host is the preemption service's, which agrees on a step that
      all can reach. An interrupt from the keyboard reaches all hosts or one, so it is left alone.

    Call `should_stop` once per step, on every process, with the same step.
    """

    def __init__(self) -> None:
        self._noticed = threading.Event()
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopNotice":
        # Python only lets its main thread set handlers; a run in another thread has none.
        on_main_thread = threading.current_thread() is threading.main_thread()
        if not self._several and on_main_thread:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()

    def should_stop(self, step: int) -> bool:
        """Whether the run ends after this step; the same on all processes, once true stays true.

        Args:
            step: number of steps done, the same on every process and larger at every call.
        """
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self._noticed.set()
        return self._noticed.is_set()

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._noticed.set()
        self._restore_handlers()
        name = signal.Signals(number).name
        logging.warning(
            "%s: stopping after this step and saving; a second one stops at once.", name
        )

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = (coordinator or "").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"The coordinator is {coordinator!r}; write it as host:port.")
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            f"The process id is {process_id!r}; with {num_processes!r} processes it must be from "
            "0 up to one less than that."
        )


def _on_cloud_tpu(environ: Mapping[str, str]) -> bool:
    """Whether JAX can find the other processes by itself, as it can on Cloud TPU.

    GKE names the workers in the environment, a plain TPU VM has to ask its metadata server. JAX
    marks the environment of a machine with TPUs when it is imported. A notebook's TPU has neither
    others nor such a server.
    """
    if _platforms() == "cpu":
        return False
    slices = environ.get("MEGASCALE_NUM_SLICES", "1")
    if slices.isdigit() and int(slices) > 1:
        return True
    if workers := environ.get("TPU_WORKER_HOSTNAMES"):
        return len(workers.split(",")) > 1
    return environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environ


def _platforms() -> str | None:
    return jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
