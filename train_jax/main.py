"""The command line that the packages share: flags, logging, processes, exit codes.

Exit codes: 0 done, 2 something the user can mend (one sentence on stderr), 75 stopped as asked, or
another process is gone (start the same command again to go on).
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from absl import flags

from train_jax import command_line, config_flag, hosts, process
from train_jax.config import from_config
from train_jax.config_flag import named_config

T = TypeVar("T")

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, where processes do not find each other by themselves (as they "
    "do on Cloud TPU VMs).",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes in all.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def launch(main: Callable[[], int | None], usage: str, argv: Sequence[str] | None = None) -> None:
    """Parses the flags, runs ``main`` and exits with its code.

    Args:
        main: the command, after the flags are parsed and all processes are connected.
        usage: the module docstring of the command, shown by ``--help``.
        argv: the command line; by default that of the process.
    """
    argv = list(sys.argv if argv is None else argv)

    def command() -> int | None:
        command_line.parse(argv, usage, config_flag.__name__, __name__)
        # Not every command has a run's directory.
        process.set_up(flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None)
        hosts.initialize(
            coordinator=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
        )
        return main()

    sys.exit(_run(command))


def _run(command: Callable[[], int | None]) -> int:
    """The exit code of a command, which no other process has to wait for if it failed."""
    try:
        code = command_line.exit_code(command)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        if hosts.is_lost_process(error):
            sys.stderr.write(
                "Error: another process of this run is gone (see its log); start all of them again "
                f"to go on from the last checkpoint ({' '.join(str(error).split())[:160]}).\n"
            )
            hosts.leave(hosts.PREEMPTED_EXIT_CODE, wait_s=0)
        traceback.print_exc()
        hosts.leave(1)
    if code == command_line.USER_ERROR_EXIT_CODE and jax.distributed.is_initialized():
        hosts.leave(code)
    sys.stdout.flush()
    return code


def read_config(cls: type[T]) -> T:
    """The experiment named by ``--config``, checked and frozen.

    Raises:
        UserError: no ``--config``, or one that is not right.
    """
    return from_config(cls, named_config())
