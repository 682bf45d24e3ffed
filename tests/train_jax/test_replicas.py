"""Copies of arrays that differ are found and named; equal ones never are."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import NamedSharding, PartitionSpec

from train_jax import replicas
from train_jax.checkpoint import Checkpoints, restore_params
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.replicas import checksum, make_replica_check
from train_jax.sharding import path_name

MESHES = [
    MeshConfig(),
    MeshConfig(fsdp=8),
    MeshConfig(fsdp=4),
    MeshConfig(2, 2, 2),
    MeshConfig(1, 1, 8),
]


def params_on(mesh):
    """All ways in which our rules lay out a parameter, and every dtype that one may have."""
    key = jax.random.key(0)
    arrays = {
        "whole": (jax.random.normal(key, (8, 24)), ()),
        "split": (jax.random.normal(key, (16, 24)), ("fsdp",)),
        "both": (jax.random.normal(key, (16, 24)), ("fsdp", "tensor")),
        "heads": (jax.random.normal(key, (3, 8)).astype(jnp.bfloat16), (None, "tensor")),
        "joint": (jnp.arange(32, dtype=jnp.int32), (("data", "fsdp"),)),
        "scalar": (jnp.float32(1.5), ()),
        "mask": (jnp.arange(8) > 3, ()),
    }
    return {
        "model": {
            name: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
            for name, (array, spec) in arrays.items()
        }
    }


def with_flipped_bit(array, device, *, element=0, bit=0):
    """The array, of which one device holds a copy with one bit another than the others have."""
    shards = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device == device:
            data.reshape(-1).view(f"u{data.itemsize}")[element] ^= np.array(
                1 << bit, f"u{data.itemsize}"
            )
        shards.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_equal_copies_are_no_fault(mesh):
    mesh = make_mesh(mesh)
    params = params_on(mesh)
    make_replica_check(params, mesh)(params, 7)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_flipped_bit_in_one_copy_is_found_wherever_there_are_copies(mesh):
    """And only there: what one device alone holds cannot be compared."""
    mesh = make_mesh(mesh)
    params = params_on(mesh)
    check = make_replica_check(params, mesh)
    device = mesh.devices.flat[5]
    found = 0
    for name, array in params["model"].items():
        held = {shard.device: str(shard.index) for shard in array.addressable_shards}
        copies = list(held.values()).count(held[device])
        broken = {"model": {**params["model"], name: with_flipped_bit(array, device)}}
        if copies == 1:
            check(broken, 7)
            continue
        found += 1
        with pytest.raises(UserError, match=f"After step 7 the copies of model/{name} ") as error:
            check(broken, 7)
        # Of two copies nobody can tell which is right.
        said = "differ from the others on " if copies > 2 else "differ between "
        assert said in str(error.value)
        assert f"device {device.id} of process 0" in str(error.value)
        assert len(re.findall("device [0-9]", str(error.value))) == (1 if copies > 2 else 2)
    assert found >= 3


def test_every_bit_and_every_element_counts():
    mesh = make_mesh(MeshConfig())
    params = {"w": params_on(mesh)["model"]["whole"]}
    check = make_replica_check(params, mesh)
    device = mesh.devices.flat[0]
    for bit in range(32):
        broken = {"w": with_flipped_bit(params["w"], device, element=5 * bit, bit=bit)}
        with pytest.raises(UserError, match=r"differ from the others on device 0 of process 0:"):
            check(broken, 1)


def test_several_faults_are_one_sentence():
    mesh = make_mesh(MeshConfig())
    params = params_on(mesh)["model"]
    check = make_replica_check(params, mesh)
    for device in mesh.devices.flat[1:3]:
        params["whole"] = with_flipped_bit(params["whole"], device)
        params["scalar"] = with_flipped_bit(params["scalar"], device)
    with pytest.raises(UserError) as error:
        check(params, 3)
    text = str(error.value)
    assert "on device 1 of process 0, device 2 of process 0, and those of 1 other arrays" in text
    assert text.count(". ") == 0


def test_the_checksum_sees_exchanged_elements_and_does_not_depend_on_the_layout():
    x = jax.random.normal(jax.random.key(0), (64, 33))
    assert int(checksum(x)) == int(checksum(jnp.array(x)))
    assert int(checksum(x)) != int(checksum(x[::-1]))
    assert int(checksum(x)) != int(checksum(x.at[3, 3].set(jnp.nan)))
    assert int(checksum(jnp.float32(0.0))) != int(checksum(jnp.float32(-0.0)))


def corrupt_after(monkeypatch, step, device_number, name="params/dense/kernel"):
    """Flips a bit of one copy of an array, as faulty memory would, after that many checks."""
    make, calls = replicas.make_replica_check, []

    def make_check(state, mesh):
        check = make(state, mesh)

        def spoiled(state, at):
            calls.append(at)
            if at >= step:
                device = mesh.devices.flat[device_number]
                state = jax.tree_util.tree_map_with_path(
                    lambda path, x: (
                        with_flipped_bit(x, device, bit=3) if path_name(path) == name else x
                    ),
                    state,
                )
            check(state, at)

        return spoiled

    monkeypatch.setattr("train_jax.loop.make_replica_check", make_check)
    return calls


def test_a_run_with_a_faulty_device_ends_before_it_saves_and_goes_on_without_it(
    tmp_path, monkeypatch
):
    task, config = toy.make_task(), toy.make_config(check_replicas="3 steps")
    fit(task, config, str(tmp_path / "whole"))
    with monkeypatch.context() as faulty:
        calls = corrupt_after(faulty, 8, 2)
        message = "After step 8 .* params/dense/kernel differ from the others on device 2 of"
        with pytest.raises(UserError, match=message):
            fit(task, config, str(tmp_path / "run"))
    # Every 3 steps, and before every save, which comes every 4 steps.
    assert calls == [3, 4, 6, 8]
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4]
    result = fit(task, config, str(tmp_path / "run"))
    assert result.step == 20
    params = [final_params(tmp_path / name) for name in ("whole", "run")]
    chex.assert_trees_all_equal(*params)


@pytest.mark.parametrize(
    "name", ["opt_state/0/trace/dense/bias", "ema/dense/kernel", "model_state/seen"]
)
def test_moments_averages_and_statistics_are_compared_too(tmp_path, monkeypatch, name):
    """A checkpoint would hand them on to all devices."""
    corrupt_after(monkeypatch, 4, 2, name)
    config = toy.make_config(check_replicas="100 percent", ema_decay=0.9)
    with pytest.raises(UserError, match=f"After step 4 the copies of {name} differ from the"):
        fit(toy.make_task(), config, str(tmp_path))
    assert Checkpoints(tmp_path / "checkpoints").latest_step() is None


def final_params(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        assert step == 20
    shapes, _ = jax.eval_shape(toy.make_task().init, jax.random.key(0))
    return jax.tree.map(np.asarray, restore_params(workdir, shapes))


@pytest.mark.parametrize(
    "mesh", [MeshConfig(1, 8), MeshConfig(2, 2, 2), MeshConfig(4, 1, 2)], ids=str
)
def test_a_healthy_run_is_never_ended_on_any_mesh(tmp_path, mesh):
    """Each device adds gradients in the same order, so that all copies have the same bits."""
    config = toy.make_config(
        check_replicas="1 step", mesh=mesh, ema_decay=0.9, accumulate=2, total="6 steps"
    )
    assert fit(toy.make_task(), config, str(tmp_path)).step == 6


def test_a_check_ends_a_dispatch_of_several_steps(tmp_path, monkeypatch):
    calls = corrupt_after(monkeypatch, 99, 0)
    config = toy.make_config(check_replicas="5 steps", steps_per_dispatch=20, log_every="20 steps")
    config = dataclasses.replace(
        config, checkpoint=dataclasses.replace(config.checkpoint, every="20 steps")
    )
    fit(toy.make_task(), config, str(tmp_path))
    assert calls == [5, 10, 15, 20]


def test_without_the_option_nothing_is_compiled_or_compared(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("no check was asked for")

    monkeypatch.setattr("train_jax.loop.make_replica_check", never)
    assert fit(toy.make_task(), toy.make_config(), str(tmp_path)).step == 20


def test_a_run_may_begin_or_end_to_be_checked_when_it_continues(tmp_path):
    fit(toy.make_task(), toy.make_config(), str(tmp_path))
    fit(toy.make_task(), toy.make_config(check_replicas="2 steps"), str(tmp_path))


def test_an_interval_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a duration"):
        fit(toy.make_task(), toy.make_config(check_replicas="often"), str(tmp_path))
