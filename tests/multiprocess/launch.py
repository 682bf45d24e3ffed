"""Starts one program in several CPU processes that talk over gloo on localhost.

    with launch.start("checkpoint_saved_by_all", directory, into=tmp_path) as group:
        group.wait_for("saving")
        group.send(1, signal.SIGTERM)
        results = group.finish()

The programs are the functions of `workers.py`. Each process writes its output into files of its
own (gloo is chatty); whatever happens, the group is killed when the block ends.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).with_name("workers.py")
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Finished:
    """How one process ended: exit code (negative: signal), what it returned, what it printed."""

    code: int
    result: Any
    output: str


@dataclasses.dataclass(frozen=True)
class Group:
    """Processes under way; process i writes into `i.out` of the directory."""

    processes: list[subprocess.Popen[bytes]]
    directory: Path
    deadline: float

    def wait_for(self, text: str) -> None:
        """Waits until every process has printed `text`."""
        waiting = set(range(len(self.processes)))
        while waiting:
            waiting = {i for i in waiting if text not in self.output(i)}
            ended = [i for i in waiting if self.processes[i].poll() is not None]
            if ended or time.monotonic() > self.deadline:
                raise AssertionError(f"no {text!r} from {sorted(waiting)}\n{self.outputs()}")
            time.sleep(0.02)

    def send(self, process: int, number: int) -> None:
        """Sends a signal to one process."""
        os.kill(self.processes[process].pid, number)

    def finish(self) -> list[Finished]:
        """Waits for all; fails if they take too long."""
        for process in self.processes:
            try:
                process.wait(max(self.deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"processes still run\n{self.outputs()}") from None
        return [
            Finished(process.returncode, self.result(i), self.output(i))
            for i, process in enumerate(self.processes)
        ]

    def output(self, process: int) -> str:
        return (self.directory / f"{process}.out").read_text(errors="replace")

    def outputs(self) -> str:
        return "\n".join(f"--- {i} ---\n{self.output(i)}" for i in range(len(self.processes)))

    def result(self, process: int) -> Any:
        path = self.directory / f"{process}.json"
        return json.loads(path.read_text()) if path.exists() else None


@contextmanager
def start(
    worker: str,
    *args: Any,
    into: Path,
    num_processes: int = 2,
    devices: int = 2,
    timeout_s: float = 240,
    environ: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
) -> Iterator[Group]:
    """Starts the function `worker` of `workers.py` in `num_processes` processes.

    Args:
        worker: its name.
        *args: JSON values that each process calls it with.
        into: directory for the outputs; a new one per group.
        num_processes: one means one without a coordinator.
        devices: simulated CPU devices of each process.
        timeout_s: of the whole group.
        environ: added to the environment.
        without: variables that are taken out of it.
    """
    into.mkdir(parents=True)
    address = f"localhost:{free_port()}"
    processes = []
    try:
        for i in range(num_processes):
            environment = {
                **{name: x for name, x in os.environ.items() if name not in without},
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                **(environ or {}),
            }
            call = [address, str(num_processes), str(i), str(into / f"{i}.json"), worker]
            with (into / f"{i}.out").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, str(WORKERS), *call, json.dumps(args)],
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=environment,
                    )
                )
        yield Group(processes, into, time.monotonic() + timeout_s)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def run(worker: str, *args: Any, into: Path, **options: Any) -> list[Any]:
    """Runs `worker` to its end in all processes and returns what each returned."""
    with start(worker, *args, into=into, **options) as group:
        finished = group.finish()
        assert [process.code for process in finished] == [0] * len(finished), group.outputs()
    return [process.result for process in finished]


def free_port() -> int:
    """A port below those from which the system takes the ports of connections.

    Of those, one that is free now may be taken by any connection before the coordinator listens.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("", port))
            return port
