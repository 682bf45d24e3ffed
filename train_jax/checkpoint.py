"""Checkpoints of a run: written in the background, complete or absent, readable by anybody.

A run's checkpoints lie in one directory, each in a directory named by its step that holds two
items: `state`, the arrays, and `meta`, a JSON object that says what they are. `train_jax.stored`
knows the details of what lies there, `train_jax.restore` reads it.
"""

import contextlib
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import logging
from etils import epath

from train_jax import hosts, stored
from train_jax.errors import UserError
from train_jax.restore import read_arrays, restore_params, restore_parts
from train_jax.stored import (
    FORMAT_VERSION,
    DamagedCheckpoint,
    PathLike,
    find,
    read_meta,
    read_params_shapes,
)

__all__ = [
    "FORMAT_VERSION",
    "Checkpoints",
    "DamagedCheckpoint",
    "find",
    "read_meta",
    "read_params_shapes",
    "require_writable",
    "restore_params",
    "restore_parts",
    "save_once",
]

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one run: the only writer of its directory.

    Every process of the run makes the same calls. Use it as a context manager, or call `close`:
    a save that is still under way when the interpreter ends is lost.
    """

    def __init__(
        self, directory: PathLike, *, keep_last: int | None = 2, keep_every: int | None = None
    ) -> None:
        """Touches nothing yet.

        Args:
            directory: created at the first save.
            keep_last: how many of the newest to keep; None for all.
            keep_every: keeps those whose step is a multiple of this forever.
        """
        if keep_last is not None and keep_last < 1:
            raise UserError(f"keep_last is {keep_last}; keep at least one checkpoint.")
        if keep_every is not None and keep_every < 1:
            raise UserError(f"keep_every is {keep_every}; give a number of steps, or None.")
        self.directory = stored.as_path(directory)
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._manager: Any = None
        self._saving: int | None = None
        self._damaged: list[int] = []

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An exception under way is the better story than a save that failed because of it.
        with contextlib.suppress(UserError) if kind else contextlib.nullcontext():
            self.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in increasing order."""
        return stored.complete_steps(self.directory)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts to save, and returns as soon as `state` may change or be donated.

        It first waits for the save before it. Until the new checkpoint is complete no older one
        is removed. A step that is saved already is left as it is.

        Args:
            step: number of updates done.
            state: tree of `jax.Array`s.
            meta: JSON object; `format_version` and `step` are added.

        Raises:
            UserError: this save could not start, or the one before it has failed.
        """
        self.wait()
        self._set_damaged_aside()
        with _naming("Saving a checkpoint", self.directory):
            if self._manager is None:
                self._manager = self._make_manager()
            if step in self._manager.all_steps():
                return
            args = stored.orbax().args
            items = args.Composite(
                state=args.PyTreeSave(state),
                meta=args.JsonSave({**meta, "format_version": FORMAT_VERSION, "step": step}),
            )
            self._saving = step
            self._manager.save(step, args=items, force=True)

    def restore(self, step: int, abstract_state: T) -> tuple[T, dict[str, Any]]:
        """Reads one checkpoint.

        Args:
            step: one of `steps()`.
            abstract_state: tree of `jax.ShapeDtypeStruct`s; their shardings say where each array
              goes and need not be those it was saved with.

        Returns:
            The state, of the structure of `abstract_state` and bitwise as saved, and the meta.

        Raises:
            DamagedCheckpoint: bytes are missing or wrong.
            UserError: there is no such step, it does not fit `abstract_state`, or newer code wrote
              it.
        """
        directory = self.directory / str(step)
        if not directory.is_dir():
            raise UserError(
                f"{self.directory} holds no checkpoint of step {step}; it has {self.steps()}."
            )
        stored.require_files(directory, contents=True)
        meta = read_meta(directory)
        return read_arrays(directory, abstract_state, whole=True), meta

    def restore_latest(self, abstract_state: T) -> tuple[T, dict[str, Any]] | None:
        """Reads the newest checkpoint that can be read; None if the run has none.

        Damaged ones are named in a warning and passed over; they are renamed, not overwritten,
        when the run saves again.

        Raises:
            UserError: none of them can be read, or the newest readable one does not fit.
        """
        faults: list[DamagedCheckpoint] = []
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, abstract_state)
            except DamagedCheckpoint as fault:
                logging.warning("%s Trying the one before it.", fault)
                faults.append(fault)
                self._damaged.append(step)
            else:
                return found
        if faults:
            raise UserError(
                f"None of the {len(faults)} checkpoints in {self.directory} can be read; the "
                f"newest: {faults[0]}"
            )
        return None

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            UserError: it has failed.
        """
        if self._manager is not None:
            with _naming("Saving a checkpoint", self.directory):
                self._manager.wait_until_finished()
                self._manager.check_for_errors()

    def close(self) -> None:
        """Waits, then gives back threads and files. Safe to call again."""
        if self._manager is not None:
            try:
                self.wait()
            finally:
                manager, self._manager = self._manager, None
                # It would raise the same error once more.
                with contextlib.suppress(Exception):
                    manager.close()

    def _make_manager(self) -> Any:
        ocp = stored.orbax()
        policies = ocp.checkpoint_managers
        keep = [policies.LatestN(self._keep_last)]
        if self._keep_every:
            keep.append(policies.EveryNSteps(self._keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._on_complete,
                # Made in the background, one that cannot be made leaves threads that wait for it,
                # for minutes, and the end of the process waits for them.
                create_directories_asynchronously=False,
                barrier_sync_fn=_barrier_unless_failed() if jax.process_count() > 1 else None,
            ),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _on_complete(self) -> None:
        """Called in the background on process 0, just before the checkpoint gets its name."""
        for child in self.directory.iterdir():
            if child.name.split(".", 1)[0] == str(self._saving) and "damaged" not in child.name:
                stored.write_inventory(child)

    def _set_damaged_aside(self) -> None:
        """Frees the names of damaged steps, which the run is about to pass again."""
        if not self._damaged:
            return
        if hosts.is_main():
            for step in self._damaged:
                aside = self.directory / f"{step}.damaged-{uuid.uuid4().hex[:8]}"
                (self.directory / str(step)).rename(aside)
                logging.warning("Renamed the damaged checkpoint of step %d to %s.", step, aside)
        hosts.barrier("damaged checkpoints set aside")
        self._damaged.clear()
        if self._manager is not None:
            self._manager.reload()


def save_once(directory: PathLike, state: Any, meta: Mapping[str, Any], *, step: int = 0) -> None:
    """Writes a single checkpoint and waits for it, for converters.

    Args:
        directory: must hold no checkpoints yet.
        state: tree of arrays, such as `{"params": params}`.
        meta: JSON object.
        step: name of the checkpoint.

    Raises:
        UserError: the directory cannot be written or already holds checkpoints.
    """
    require_writable(directory)
    with Checkpoints(directory, keep_last=None) as checkpoints:
        if checkpoints.steps():
            raise UserError(
                f"{directory} already holds checkpoints; remove them or choose another directory."
            )
        checkpoints.save(step, state, meta)


def require_writable(path: PathLike) -> None:
    """Creates a directory and proves that files can be written there, before hours of training.

    Raises:
        UserError: it cannot be created or written.
    """
    directory = stored.as_path(path)
    probe = directory / f".write_test_{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({stored.brief(error)}); choose another directory or mend "
            "its permissions."
        ) from error


def _barrier_unless_failed() -> Callable[..., None]:
    """Orbax's barrier between processes, at which one that could not save its part does not wait.

    Orbax lets it wait there, for others that wait for it elsewhere, until they lose patience after
    20 minutes. Without that it says what is wrong and ends, which ends the others.
    """
    wait = stored.orbax().multihost.get_barrier_sync_fn()

    def barrier(*, key: str, timeout_ms: int) -> None:
        if sys.exception() is None:  # else called on the way out, to say that the save has ended
            wait(key=key, timeout_ms=timeout_ms)

    return barrier


@contextlib.contextmanager
def _naming(action: str, path: epath.Path) -> Iterator[None]:
    """Turns a fault of the storage into one sentence; the cause stays attached."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"{action} in {path} failed ({stored.brief(error)}); checkpoints that were complete "
            "before are intact, so mend the storage (space, permissions, network) and start again."
        ) from error
