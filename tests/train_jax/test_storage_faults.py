"""Faults of the storage at every stage of a save: named, and nothing complete is lost."""

import contextlib
import errno
import gc
import json
import logging
import os
import resource
import shutil
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from train_jax import stored
from train_jax.checkpoint import Checkpoints, DamagedCheckpoint
from train_jax.errors import UserError
from train_jax.loop import fit

# Where a save ends early, Orbax leaves coroutines that nobody awaits.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]


@pytest.fixture(autouse=True)
def no_coroutine_is_left():
    """They are complained of when they are collected, which must not be in another test."""
    yield
    gc.collect()


# What Python does to files; the arrays' bytes are written by TensorStore, see the limits below.
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class Faults:
    """Lets the changes of files below a directory fail from a certain one on.

    Hooks cannot be taken back, so that there is one, which does nothing unless it is told to.
    """

    def __init__(self):
        self.directory = None
        self.seen = []
        self.first, self.number = None, errno.ENOSPC
        self.once = False
        self.busy = None
        self.before = None
        self.lock = threading.RLock()
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if self.directory is None or event not in CHANGES or not args:
            return
        if self.busy == threading.get_ident():
            return
        if event == "open" and not _writes(*args):
            return
        if not str(os.fspath(args[0]) if not isinstance(args[0], int) else "").startswith(
            self.directory
        ):
            return
        with self.lock:
            self.seen.append((event, str(args[0])))
            count = len(self.seen) - 1
            if self.before is not None:
                self.busy = threading.get_ident()
                self.before(count)
                self.busy = None
        if self.first is not None and (count == self.first if self.once else count >= self.first):
            raise OSError(self.number, os.strerror(self.number), str(args[0]))

    @contextlib.contextmanager
    def below(self, directory, *, first=None, number=errno.ENOSPC, once=False, before=None):
        """Counts the changes; with ``first``, that one and all after it (or it alone) fail.

        ``before`` is called with the number of each change, before it happens.
        """
        self.seen, self.first, self.number, self.once = [], first, number, once
        self.before = before
        self.directory = str(directory)
        try:
            yield self
        finally:
            self.directory = None


def _writes(path, mode, flags):
    del path
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


FAULTS = Faults()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Orbax reports with a traceback of its own what we say in a sentence."""
    monkeypatch.setattr(logging.getLogger("absl"), "disabled", True)


def make_state(step):
    return {
        "params": {"w": jnp.full((64, 32), step, jnp.float32), "b": jnp.arange(7.0) + step},
        "step": jnp.int32(step),
    }


TARGET = jax.eval_shape(lambda: make_state(0))


def assert_newest_is(directory, *steps):
    """The newest readable checkpoint is one of ``steps``, to the bit."""
    found = Checkpoints(directory).restore_latest(TARGET)
    assert found is not None
    state, meta = found
    assert meta["step"] in steps
    jax.tree.map(np.testing.assert_array_equal, state, make_state(meta["step"]))


def assert_nobody_waits():
    """The end of the process would wait for threads that wait for what will not come."""
    deadline = time.monotonic() + 5
    while [t for t in threading.enumerate() if not t.daemon and t.name.startswith(WAITING)]:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


# The threads of a save; others are pools, which end with the process.
WAITING = ("array_type_handler", "json_save", "serialize", "write_metadata", "async_save")


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def one_saved(tmp_path_factory):
    """A directory with the checkpoint of step 1."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, make_state(1), {})
    return directory


@pytest.fixture(scope="module")
def stages(one_saved, tmp_path_factory):
    """The changes of files that a save consists of."""
    directory = tmp_path_factory.mktemp("stages") / "checkpoints"
    shutil.copytree(one_saved, directory)
    with FAULTS.below(directory) as faults:
        save(directory, 2)
    # The directory of the step and those of its items, files of each, and the name at the end.
    assert len(faults.seen) >= 8
    assert {"open", "os.mkdir", "os.rename"} <= {event for event, _ in faults.seen}
    return len(faults.seen)


def as_left(directory, target):
    """A copy, as the next process finds it once nothing of this one writes there any more."""

    def copy(source, target):
        with contextlib.suppress(FileNotFoundError):  # TensorStore may still be at work
            shutil.copy2(source, target)

    return shutil.copytree(directory, target, copy_function=copy)


def save(directory, step):
    with Checkpoints(directory, keep_last=None) as checkpoints:
        checkpoints.save(step, make_state(step), {})


@pytest.mark.parametrize(
    ("number", "once"), [(errno.ENOSPC, False), (errno.EACCES, False), (errno.EIO, True)]
)
def test_a_fault_at_any_stage_is_named_and_leaves_the_checkpoint_before(
    one_saved, stages, tmp_path, number, once
):
    named = 0
    for first in range(stages):
        directory = tmp_path / str(first)
        shutil.copytree(one_saved, directory)
        before = contents(directory)
        fault = None
        with FAULTS.below(directory, first=first, number=number, once=once):
            try:
                save(directory, 2)
            except UserError as error:
                fault = str(error)
        if fault is None:
            # What failed was not needed, or was tried again: then all is there.
            assert_newest_is(directory, 2)
        else:
            named += 1
            assert os.strerror(number) in fault, first
            assert str(directory) in fault
            assert "mend the storage" in fault
            # A single fault in Orbax's own notes does not keep the rest from being complete.
            assert_newest_is(directory, *((1, 2) if once else (1,)))
        assert contents(directory).items() >= before.items()
        assert_nobody_waits()
        again = as_left(directory, tmp_path / f"{first}-again")
        save(again, 2)
        assert_newest_is(again, 2)
        assert Checkpoints(again).steps() == [1, 2]
    assert named >= (1 if once else stages // 2)


def test_what_a_process_killed_at_any_stage_leaves_behind_is_continued(one_saved, tmp_path):
    """SIGKILL leaves what lies on the disk at that moment, of which copies are taken."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)

    def snapshot(number):
        as_left(directory, tmp_path / str(number))

    with FAULTS.below(directory, before=snapshot) as faults:
        save(directory, 2)
    assert len(faults.seen) >= 8
    for number in range(len(faults.seen)):
        left = tmp_path / str(number)
        assert Checkpoints(left).steps() == [1]
        assert_newest_is(left, 1)
        save(left, 2)
        assert_newest_is(left, 2)
        # What the killed process left behind is gone.
        assert sorted(path.name for path in left.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("limit", [0, 1, 64, 512])
def test_a_disk_that_is_full_after_any_number_of_bytes(one_saved, tmp_path, limit):
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)
    before = contents(directory)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=r"(?i)file too large") as error:
            save(directory, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(directory) in str(error.value)
    assert_newest_is(directory, 1)
    assert contents(directory).items() >= before.items()
    again = as_left(directory, tmp_path / "again")
    save(again, 2)
    assert_newest_is(again, 2)


def test_a_checkpoint_torn_at_any_byte_is_passed_over_and_named(one_saved, tmp_path):
    """Every file that a checkpoint consists of, cut at many lengths, or missing."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)
    save(directory, 2)
    torn = stored.as_path(directory / "2")
    for path in [path for path in contents(directory / "2") if path.parent != directory / "2"]:
        whole = path.read_bytes()
        name = str(path.relative_to(directory / "2"))
        for length in sorted({*range(0, len(whole), 23), len(whole) - 1} - {-1}):
            path.write_bytes(whole[:length])
            with pytest.raises(DamagedCheckpoint, match=f"{name} has {length} bytes") as error:
                stored.require_files(torn, contents=False)
            assert str(torn) in str(error.value)
        assert_newest_is(directory, 1)
        path.unlink()
        with pytest.raises(DamagedCheckpoint, match=f"{name} is missing"):
            stored.require_files(torn, contents=False)
        assert_newest_is(directory, 1)
        path.write_bytes(whole)
    assert_newest_is(directory, 2)


def test_a_torn_list_of_files_is_a_fault_too(one_saved, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)
    save(directory, 2)
    listed = directory / "2" / "files.json"
    whole = listed.read_bytes()
    for length in range(len(whole)):
        listed.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint, match=r"files\.json"):
            stored.require_files(stored.as_path(directory / "2"), contents=True)
    assert_newest_is(directory, 1)


def test_what_lies_beside_the_items_may_be_torn_or_missing(one_saved, tmp_path):
    """Orbax keeps notes of its own there, which nobody needs to read the arrays."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)
    beside = [path for path in contents(directory / "1") if path.parent == directory / "1"]
    for path in beside:
        if path.name != "files.json":
            path.write_bytes(path.read_bytes()[:3])
            assert_newest_is(directory, 1)
            path.unlink()
            assert_newest_is(directory, 1)


def test_in_a_bucket_a_checkpoint_without_its_marker_is_not_complete(
    one_saved, tmp_path, monkeypatch
):
    """A bucket has no rename in one motion; the last file written says that all are there."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(one_saved, directory)
    save(directory, 2)
    monkeypatch.setattr(stored, "_is_remote", lambda _: True)
    path = stored.as_path(directory)
    assert stored.complete_steps(path) == [1, 2]
    (directory / "2" / "commit_success.txt").unlink()
    assert stored.complete_steps(path) == [1]


def test_a_slow_storage_holds_up_the_next_save_and_not_the_training(tmp_path, monkeypatch):
    write, order, may_write = stored.write_inventory, [], threading.Event()

    def slowly(directory):
        may_write.wait(60)
        order.append("written")
        write(directory)

    monkeypatch.setattr(stored, "write_inventory", slowly)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        order.append("training goes on")
        assert checkpoints.steps() == []
        threading.Timer(0.2, may_write.set).start()
        checkpoints.save(2, make_state(2), {})
        order.append("second save begun")
    assert order == ["training goes on", "written", "second save begun", "written"]
    assert_newest_is(tmp_path, 2)


def test_an_unwritable_workdir_is_said_before_training(tmp_path):
    read_only = FAULTS.below(tmp_path, first=0, number=errno.EROFS)
    said = pytest.raises(UserError, match=r"run cannot be written .*Read-only file system")
    with read_only, said:
        fit(toy.make_task(), toy.make_config(), str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_a_disk_that_fills_up_ends_and_goes_on_to_the_same_bits(tmp_path):
    task, config = toy.make_task(), toy.make_config()
    whole, run = tmp_path / "whole", tmp_path / "run"
    fit(task, config, str(whole))
    with FAULTS.below(run / "checkpoints" / "8.", first=3) as faults:
        with pytest.raises(UserError, match=r"No space left.*mend the storage"):
            fit(task, config, str(run))
        assert len(faults.seen) > 3
    assert Checkpoints(run / "checkpoints").steps() == [4]
    assert fit(task, config, str(run)).step == 20
    for name in ("loss", "val/loss"):
        assert records(run, name) == records(whole, name)


def records(workdir, key):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[key]) for line in lines if key in line]
