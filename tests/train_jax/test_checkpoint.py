"""Checkpoints: bitwise, complete or absent, and clear about what is wrong with them."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train_jax import checkpoint, stored
from train_jax.checkpoint import Checkpoints, DamagedCheckpoint
from train_jax.errors import UserError


class Moments(NamedTuple):
    mu: Any
    empty: Any = ()


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any = None


MESH_8 = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
MESH_4X2 = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
META = {"seed": 3, "config": {"model": "tiny"}, "ledger": {"core_seconds": 12.5}}


def make_state(seed=0, *, ema=False, rows=16):
    key = jax.random.key(seed)
    params = {
        "head": {
            "kernel": jax.random.normal(key, (rows, 8)),
            "bias": jnp.arange(8, dtype=jnp.float32) / 7,
        }
    }
    moments = Moments(mu=jax.tree.map(lambda p: p.astype(jnp.bfloat16), params))
    average = jax.tree.map(lambda p: p + 1, params) if ema else None
    state = State(jnp.int32(seed), params, ((), moments), average)
    return jax.device_put(state, NamedSharding(MESH_8, PartitionSpec()))


def abstract(tree, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


def assert_same_bits(tree, wanted):
    assert jax.tree.structure(tree) == jax.tree.structure(wanted)
    for got, want in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        assert got.dtype == want.dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def save(directory, *steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), META)


def test_what_is_restored_is_bitwise_what_was_saved(tmp_path):
    state = make_state(7, ema=True)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore_latest(abstract(state)) is None
        checkpoints.save(7, state, META)
        checkpoints.wait()
        restored, meta = checkpoints.restore(7, abstract(state))
        assert checkpoints.latest_step() == 7
    assert_same_bits(restored, state)
    assert meta == {**META, "format_version": checkpoint.FORMAT_VERSION, "step": 7}
    assert restored.params["head"]["kernel"].sharding == state.params["head"]["kernel"].sharding


def test_a_checkpoint_moves_to_another_mesh(tmp_path):
    """From 8-way data parallel to 4 x 2 with the kernel split over the second axis."""
    save(tmp_path, 1)
    split = NamedSharding(MESH_4X2, PartitionSpec("fsdp"))
    target = abstract(make_state(1), NamedSharding(MESH_4X2, PartitionSpec()))
    target.params["head"]["kernel"] = abstract(target.params["head"]["kernel"], split)
    restored, _ = Checkpoints(tmp_path).restore(1, target)
    assert_same_bits(restored, make_state(1))
    assert restored.params["head"]["kernel"].sharding == split
    assert restored.params["head"]["bias"].sharding.mesh == MESH_4X2


def test_donation_after_save_does_not_reach_the_checkpoint(tmp_path):
    """The next step overwrites the state's buffers while the save is still writing."""
    state = jax.device_put(
        {"split": jnp.zeros((2048, 512)), "whole": jnp.zeros((256, 512)), "one": jnp.zeros(())},
        {
            "split": NamedSharding(MESH_8, PartitionSpec("data")),
            "whole": NamedSharding(MESH_8, PartitionSpec()),
            "one": NamedSharding(MESH_8, PartitionSpec()),
        },
    )
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep_last=None) as checkpoints:
        for number in range(4):
            checkpoints.save(number, state, META)
            for _ in range(3):
                state = step(state)
        checkpoints.wait()
        for number in range(4):
            restored, _ = checkpoints.restore(number, abstract(state))
            for leaf in jax.tree.leaves(restored):
                np.testing.assert_array_equal(np.unique(leaf), 3.0 * number)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_last": 2}, [5, 6]),
        ({"keep_last": 1, "keep_every": 3}, [3, 6]),
        ({"keep_last": 2, "keep_every": 4}, [4, 5, 6]),
        ({"keep_last": None}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_which_checkpoints_are_kept(tmp_path, options, kept):
    save(tmp_path, *range(1, 7), **options)
    assert Checkpoints(tmp_path).steps() == kept


def test_saving_a_step_again_changes_nothing(tmp_path):
    save(tmp_path, 1, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, make_state(9), {"seed": 99})
    assert checkpoint.read_meta(tmp_path)["seed"] == META["seed"]


def test_nothing_is_written_before_the_first_save(tmp_path):
    with Checkpoints(tmp_path / "later") as checkpoints:
        checkpoints.wait()
    assert not (tmp_path / "later").exists()


VICTIM = """
import sys, time
import jax, jax.numpy as jnp
from train_jax import checkpoint, stored

directory, stage = sys.argv[1:]
write_inventory = stored.write_inventory

def stop_here(*_):
    print("saving", flush=True)
    time.sleep(600)

def stop_when_complete(directory):
    if stage == "before it gets its name":
        write_inventory(directory)
    stop_here()

checkpoints = checkpoint.Checkpoints(directory)
checkpoints.save(1, {"params": {"w": jnp.ones((1024, 1024))}}, {})
checkpoints.wait()
stored.write_inventory = stop_when_complete
checkpoints.save(2, {"params": {"w": jax.random.normal(jax.random.key(0), (1024, 1024))}}, {})
if stage == "as soon as the state may change":
    stop_here()
checkpoints.wait()
"""


@pytest.mark.parametrize(
    "stage",
    ["as soon as the state may change", "before the inventory", "before it gets its name"],
)
def test_a_process_killed_during_a_save_leaves_the_checkpoint_before_it(tmp_path, stage):
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path), stage],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ) as victim:
        try:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"saving\n"
        finally:
            os.kill(victim.pid, signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    target = {"params": {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        found = checkpoints.restore_latest(target)
        assert found is not None
        state, meta = found
        assert meta["step"] == 1
        np.testing.assert_array_equal(state["params"]["w"], 1.0)
        checkpoints.save(2, state, {})
    # What the killed process left behind is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def files_of(directory):
    return sorted(
        path for path in directory.rglob("*") if path.is_file() and path.parent != directory
    )


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize("fault", ["missing", "empty", "half", "one byte short", "one bit flipped"])
def test_every_missing_cut_or_changed_file_is_found_and_named(tmp_path, fault):
    save(tmp_path / "good", 1)
    for path in files_of(tmp_path / "good" / "1"):
        name = path.relative_to(tmp_path / "good")
        if name.name == "commit_success.txt":
            continue
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "good", torn)
        size = path.stat().st_size
        if fault == "missing":
            (torn / name).unlink()
        elif fault == "one bit flipped":
            content = bytearray(path.read_bytes())
            content[size // 2] ^= 16
            (torn / name).write_bytes(content)
        else:
            cut(torn / name, {"empty": 0, "half": size // 2, "one byte short": size - 1}[fault])
        with pytest.raises(DamagedCheckpoint) as error:
            Checkpoints(torn).restore(1, abstract(make_state(1)))
        assert str(name.relative_to("1")) in str(error.value)
        assert str(torn / "1") in str(error.value)
        assert "use an older one" in str(error.value)
        shutil.rmtree(torn)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_an_inventory_damage_is_found_on_reading(tmp_path):
    """Orbax itself notices, with coroutines that nobody awaits."""
    save(tmp_path, 1)
    (tmp_path / "1" / "files.json").unlink()
    largest = max(files_of(tmp_path / "1"), key=lambda path: path.stat().st_size)
    cut(largest, largest.stat().st_size // 2)
    with pytest.raises(DamagedCheckpoint, match="is damaged"):
        Checkpoints(tmp_path).restore(1, abstract(make_state(1)))


def test_a_torn_newest_checkpoint_falls_back_and_is_not_overwritten(tmp_path, caplog):
    save(tmp_path, 10, 20, keep_last=None)
    torn = max(files_of(tmp_path / "20"), key=lambda path: path.stat().st_size)
    cut(torn, 1)
    remains = torn.read_bytes()
    with Checkpoints(tmp_path, keep_last=3) as checkpoints:
        with caplog.at_level(logging.WARNING):
            found = checkpoints.restore_latest(abstract(make_state()))
        assert found is not None
        assert_same_bits(found[0], make_state(10))
        assert found[1]["step"] == 10
        assert torn.name in caplog.text
        assert "has 1 bytes instead of" in caplog.text
        assert checkpoints.steps() == [10, 20]  # reading moves nothing
        checkpoints.save(15, make_state(15), META)
        checkpoints.save(20, make_state(21), META)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 15, 20]
        assert_same_bits(checkpoints.restore(20, abstract(make_state()))[0], make_state(21))
    (aside,) = tmp_path.glob("20.damaged-*")
    assert (aside / torn.relative_to(tmp_path / "20")).read_bytes() == remains


def test_if_none_can_be_read_the_newest_is_named(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / str(step) / "meta" / "metadata").unlink()
    with pytest.raises(UserError, match="None of the 2 checkpoints") as error:
        Checkpoints(tmp_path).restore_latest(abstract(make_state()))
    assert str(tmp_path / "2") in str(error.value)


def test_a_device_without_memory_is_no_damage(tmp_path, monkeypatch):
    """A run must not go back to an older checkpoint because of it."""
    save(tmp_path, 1, 2)
    ocp = stored.orbax()

    def out_of_memory(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", out_of_memory)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        Checkpoints(tmp_path).restore_latest(abstract(make_state()))


def with_other_head(state):
    state.params["head"]["kernel"] = jax.ShapeDtypeStruct((16, 10), jnp.float32)
    return state


def without_bias(state):
    del state.params["head"]["bias"]
    return state


def with_more(state):
    state.params["extra"] = state.params["head"]["bias"]
    return state


def in_float32(state):
    return abstract(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), state),
        NamedSharding(MESH_8, PartitionSpec()),
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (with_other_head, r"params/head/kernel is float32\[16,8\] there and float32\[16,10\] here"),
        (without_bias, "params/head/bias is not known here"),
        (with_more, "params/extra is missing there"),
        (in_float32, r"opt_state/1/mu/head/bias is bfloat16\[8\] there and float32\[8\] here"),
    ],
)
def test_a_state_of_another_model_is_refused(tmp_path, change, fault):
    save(tmp_path, 1, 2)
    with pytest.raises(UserError, match=fault) as error:
        Checkpoints(tmp_path).restore_latest(change(abstract(make_state())))
    assert not isinstance(error.value, DamagedCheckpoint)
    assert str(tmp_path / "2") in str(error.value)
    assert "init_from" in str(error.value)


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as future:
        future.setattr(checkpoint, "FORMAT_VERSION", 9)
        save(tmp_path, 2)
    for read in (
        lambda: Checkpoints(tmp_path).restore_latest(abstract(make_state())),
        lambda: checkpoint.read_meta(tmp_path),
        lambda: checkpoint.read_params_shapes(tmp_path),
    ):
        with pytest.raises(UserError, match="format 9 and this train_jax reads up to 1; install"):
            read()


def test_a_foreign_checkpoint_is_refused(tmp_path):
    """Orbax, but of somebody else's making."""
    ocp = stored.orbax()
    with ocp.CheckpointManager(tmp_path / "theirs") as manager:
        manager.save(3, args=ocp.args.Composite(state=ocp.args.PyTreeSave({"w": np.ones(3)})))
    with pytest.raises(UserError, match="train_jax did not write it; give"):
        checkpoint.read_params_shapes(tmp_path / "theirs")
    (tmp_path / "other" / "5" / "meta").mkdir(parents=True)
    (tmp_path / "other" / "5" / "meta" / "metadata").write_text(json.dumps({"a": 1}))
    with pytest.raises(UserError, match="names no format_version"):
        checkpoint.read_meta(tmp_path / "other")


def test_paths_that_hold_no_checkpoint_are_refused(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"")
    for name, fault in [
        ("nowhere", "does not exist"),
        (".", "holds no complete checkpoint"),
        ("weights.npz", "is a file, not a checkpoint directory"),
    ]:
        with pytest.raises(UserError, match=fault) as error:
            checkpoint.find(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(UserError, match=r"no checkpoint of step 5; it has \[\]"):
        Checkpoints(tmp_path).restore(5, abstract(make_state()))


def test_an_unwritable_directory_is_noticed_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written .* choose another directory"):
        checkpoint.require_writable(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="/proc/run cannot be written"):
        checkpoint.require_writable("/proc/run")
    checkpoint.require_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_buckets_say_what_they_need(monkeypatch):
    monkeypatch.setattr(stored.importlib.util, "find_spec", lambda _: None)
    for use in (Checkpoints, checkpoint.find, checkpoint.require_writable, checkpoint.read_meta):
        with pytest.raises(UserError, match="gs://bucket/run is in a bucket, which needs gcsfs"):
            use("gs://bucket/run")


def test_a_save_that_fails_in_the_background_is_reported(tmp_path, monkeypatch):
    """No file may grow past 64 KiB, as on a disk that is full; the checkpoint before stays."""
    monkeypatch.setattr(logging.getLogger("absl"), "disabled", True)
    large = {"params": {"w": jax.random.normal(jax.random.key(0), (256, 1024))}}
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        checkpoints.save(2, large, META)
        with pytest.raises(UserError, match="File too large") as error:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)
    assert "mend the storage" in str(error.value)
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1]


def test_parameters_are_read_from_every_path_people_have(tmp_path):
    save(tmp_path / "run" / "checkpoints", 1, 2)
    wanted = make_state(2).params
    for path in ("run", "run/checkpoints", "run/checkpoints/2"):
        restored = checkpoint.restore_params(tmp_path / path, abstract(wanted))
        assert_same_bits(restored, wanted)
        assert checkpoint.read_meta(tmp_path / path)["step"] == 2
    old = checkpoint.restore_params(tmp_path / "run" / "checkpoints" / "1", abstract(wanted))
    assert_same_bits(old, make_state(1).params)


def test_shapes_are_read_without_arrays(tmp_path):
    save(tmp_path, 1)
    shapes = checkpoint.read_params_shapes(tmp_path)
    assert shapes == {
        "head": {
            "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
            "kernel": jax.ShapeDtypeStruct((16, 8), jnp.float32),
        }
    }


def test_averaged_parameters_are_preferred_where_there_are_some(tmp_path):
    plain, averaged = make_state(1), make_state(2, ema=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, plain, META)
        checkpoints.save(2, averaged, META)
    target = abstract(plain.params)
    read = lambda step, **how: checkpoint.restore_params(tmp_path / step, target, **how)  # noqa: E731
    assert_same_bits(read("2", prefer_ema=True), averaged.ema)
    assert_same_bits(read("2"), averaged.params)
    assert_same_bits(read("1", prefer_ema=True), plain.params)


def test_some_parameters_are_read_without_the_others(tmp_path):
    """Transfer leaves the head; what is not asked for is not read, even if it is damaged."""
    save(tmp_path, 1)
    bias = {"head": {"bias": jax.ShapeDtypeStruct((8,), jnp.bfloat16)}}
    restored = checkpoint.restore_params(tmp_path, bias)
    assert restored["head"]["bias"].dtype == jnp.bfloat16
    with pytest.raises(UserError, match="params/tail is missing there"):
        checkpoint.restore_params(tmp_path, {"tail": bias["head"]["bias"]})
    with pytest.raises(UserError, match="holds no 'model_state'"):
        checkpoint.restore_parts(tmp_path, {"model_state": bias})


def test_a_converter_writes_one_checkpoint_and_never_over_another(tmp_path):
    params = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    checkpoint.save_once(tmp_path / "converted", {"params": params}, {"source": "B_16.npz"})
    assert checkpoint.read_meta(tmp_path / "converted")["source"] == "B_16.npz"
    restored = checkpoint.restore_params(
        tmp_path / "converted", {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    )
    np.testing.assert_array_equal(restored["w"], params["w"])
    with pytest.raises(UserError, match="already holds checkpoints"):
        checkpoint.save_once(tmp_path / "converted", {"params": params}, {})


def test_orbax_does_not_narrate(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        save(tmp_path, 1, 2, 3)
        Checkpoints(tmp_path).restore_latest(abstract(make_state()))
    assert [record for record in caplog.records if "orbax" in record.pathname] == []


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every": 0}])
def test_keeping_nothing_is_refused(tmp_path, options):
    with pytest.raises(UserError, match="keep_"):
        Checkpoints(tmp_path, **options)


def test_saving_returns_before_the_files_are_written(tmp_path, monkeypatch):
    write = stored.write_inventory

    def slowly(directory):
        time.sleep(0.5)
        write(directory)

    monkeypatch.setattr(stored, "write_inventory", slowly)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), META)
        assert not (Path(tmp_path) / "1").exists()
        checkpoints.wait()
        assert checkpoints.steps() == [1]
