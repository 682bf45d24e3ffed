"""Runs commands of the packages as users do, in processes of their own that start warm.

    finished = commands.shared().run("vit_jax.train", "--config=tests/tiny.py", ...)

Importing JAX, TFDS and Orbax takes seconds. One process does it once, and is forked for each
command before it has touched a device; the fork then runs the module as `python -m` would. A
command is a process like any other: it has its own flags, signals and exit code.
"""

import atexit
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# What the commands import, but not the commands: they define flags, as __main__.
_SERVER = """
import json, os, runpy, sys, traceback
import jax, orbax.checkpoint, tensorboardX, tensorflow_datasets
import train_jax.main, vit_jax.task, vit_jax.data.digits, sklearn.datasets, pose_jax.task

def child(request):
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
    jax.config.update("jax_num_cpu_devices", request["devices"])
    sys.modules.update(dict.fromkeys(request["missing"]))
    sys.argv = [f"{request['module'].replace('.', '/')}.py", *request["args"]]
    code = 1
    try:
        runpy.run_module(request["module"], run_name="__main__")
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    import atexit
    atexit._run_exitfuncs()
    os._exit(code)

for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        reply = os.waitpid(request["wait"], os.WNOHANG if request["poll"] else 0)
        reply = os.waitstatus_to_exitcode(reply[1]) if reply[0] else None
    else:
        reply = os.fork()
        if reply == 0:
            child(request)
    print(json.dumps(reply), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a command ended: exit code (negative: signal), and what it printed."""

    code: int
    stdout: str
    stderr: str


@dataclasses.dataclass
class Command:
    """A command under way."""

    server: "Commands"
    pid: int
    directory: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"wait": self.pid, "poll": True})
        return self.code

    def wait_until(self, condition: Callable[[], Any], *, timeout_s: float = 240) -> None:
        """Waits for something that the command does."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"ended with {self.code} before that\n{self._output()}")
            time.sleep(0.002)

    def send(self, number: int) -> None:
        """Sends a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self, *, timeout_s: float = 240) -> Finished:
        """Waits for the end."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still runs after {timeout_s} s\n{self._output()}")
            time.sleep(0.01)
        assert self.code is not None
        return Finished(self.code, self._read("stdout"), self._read("stderr"))

    def _read(self, name: str) -> str:
        return (self.directory / name).read_text(errors="replace")

    def _output(self) -> str:
        return "\n".join(f"--- {name} ---\n{self._read(name)}" for name in ("stdout", "stderr"))


class Commands:
    """The warm process."""

    def __init__(self) -> None:
        # Not captured by pytest, which would close it.
        self._directory = tempfile.TemporaryDirectory(prefix="commands-")
        self._count = 0
        environ = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environ,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> Any:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self, module: str, *args: str, devices: int = 1, missing: Sequence[str] = ()
    ) -> Command:
        """Starts `python -m module args...` in the root of the repository.

        Args:
            module: with a `__main__` guard.
            *args: its command line.
            devices: simulated CPU devices.
            missing: modules that it finds not installed.
        """
        self._count += 1
        directory = Path(self._directory.name) / str(self._count)
        directory.mkdir()
        request = {
            "module": module,
            "args": list(args),
            "devices": devices,
            "missing": list(missing),
            "stdout": str(directory / "stdout"),
            "stderr": str(directory / "stderr"),
        }
        for name in ("stdout", "stderr"):
            (directory / name).touch()
        return Command(self, self.ask(request), directory)

    def run(self, module: str, *args: str, **options: Any) -> Finished:
        """Starts a command and waits for its end."""
        return self.start(module, *args, **options).finish()

    def close(self) -> None:
        """Ends the warm process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._directory.cleanup()


@functools.cache
def shared() -> Commands:
    """The one of this test session."""
    return Commands()
