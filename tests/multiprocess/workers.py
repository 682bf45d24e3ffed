"""What the processes of a multi-process test do: one function each, started by `launch.py`.

workers.py ADDRESS NUM_PROCESSES PROCESS_ID RESULT_FILE FUNCTION JSON_ARGUMENTS
"""

import errno
import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from train_jax import hosts
from train_jax.checkpoint import Checkpoints
from train_jax.errors import UserError


def mesh_of_all() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def split() -> NamedSharding:
    return NamedSharding(mesh_of_all(), PartitionSpec("data"))


def make_state() -> dict[str, Any]:
    """One array split over all devices, one on each of them."""
    values = np.arange(16 * 3, dtype=np.float32).reshape(16, 3) ** 1.5
    whole = NamedSharding(mesh_of_all(), PartitionSpec())
    return {
        "params": {
            "split": jax.make_array_from_callback(values.shape, split(), lambda i: values[i]),
            "whole": jax.make_array_from_callback((3,), whole, lambda i: values[5][i]),
        }
    }


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def is_our_state(state: Any) -> bool:
    same = jax.tree.map(
        lambda got, want: bool(
            multihost_utils.process_allgather(jnp.array_equal(got, want), tiled=True).all()
        ),
        state,
        make_state(),
    )
    return all(jax.tree.leaves(same))


def who_am_i() -> dict[str, Any]:
    hosts.barrier("all here")
    with jax.set_mesh(mesh_of_all()):  # as in a run
        agree_in_a_run = hosts.all_agree(True)
    return {
        "all agree in a run": agree_in_a_run,
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "main": hosts.is_main(),
        "all agree": hosts.all_agree(True),
        "one does not": hosts.all_agree(jax.process_index() == 0),
    }


def step_until_told(seconds: float) -> dict[str, Any]:
    """Steps of unequal length, so that the processes are not at the same step by themselves."""
    with hosts.StopNotice() as notice:
        until = time.monotonic() + seconds
        step = 0
        while time.monotonic() < until:
            step += 1
            time.sleep(0.01 * (1 + jax.process_index()))
            if notice.should_stop(step):
                assert notice.should_stop(step + 1), "once told, it stays told"
                return {"stopped": step}
            if step == 3:
                print("stepping", flush=True)
    return {"stopped": None}


def save_when_told(directory: str) -> dict[str, Any]:
    """A run in small: on notice all save the same step and ask to be restarted."""
    with hosts.StopNotice() as notice, Checkpoints(directory) as checkpoints:
        state = make_state()
        for step in range(1, 10_000):
            time.sleep(0.01)
            if step == 3:
                print("stepping", flush=True)
            if notice.should_stop(step):
                checkpoints.save(step, state, {"seed": 0})
                checkpoints.wait()
                Path(sys.argv[4]).write_text(json.dumps({"saved": step}))
                sys.exit(hosts.PREEMPTED_EXIT_CODE)
    raise AssertionError("nobody told us")


def save(directory: str, steps: list[int]) -> None:
    with Checkpoints(directory, keep_last=None) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(), {"seed": 0})


def restore(directory: str) -> dict[str, Any]:
    with Checkpoints(directory, keep_last=None) as checkpoints:
        found = checkpoints.restore_latest(abstract(make_state()))
        assert found is not None
        state, meta = found
        # A later save sets aside what was damaged, once.
        checkpoints.save(meta["step"] + 5, state, {"seed": 0})
        checkpoints.wait()
        return {
            "step": meta["step"],
            "ours": is_our_state(state),
            "now": checkpoints.steps(),
        }


def restore_what_one_cannot_read(directory: str) -> dict[str, Any]:
    """Only process 1 meets the fault; none may go on alone."""
    from train_jax import stored

    if jax.process_index() == 1:

        def fails(*_: Any, **__: Any) -> None:
            raise ValueError("DATA_LOSS: seen by one process only")

        stored.orbax().PyTreeCheckpointHandler.restore = fails
    try:
        Checkpoints(directory).restore_latest(abstract(make_state()))
    except UserError as error:
        return {"error": str(error)}
    return {"error": None}


def save_what_one_cannot_write(directory: str, victim: int) -> None:
    """As a command would: the disk of one process is full at the second save."""
    from train_jax import main

    full = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "os.mkdir" or (
            event == "open" and str(args[1]).strip("rb") not in ("", "None")
        )
        if full and writes and str(args[0]).startswith(directory):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

    sys.addaudithook(hook)

    def command() -> int:
        nonlocal full
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(1, make_state(), {})
            checkpoints.wait()
            full = jax.process_index() == victim
            checkpoints.save(2, make_state(), {})
        return 0

    sys.exit(main._run(command))


def find_a_flipped_bit() -> dict[str, Any]:
    """One device of process 1 holds another value than all others."""
    from train_jax.mesh import MeshConfig, make_mesh
    from train_jax.replicas import make_replica_check

    mesh = make_mesh(MeshConfig())
    sharding = NamedSharding(mesh, PartitionSpec())
    broken = jax.devices()[3]
    shards = [
        jax.device_put(np.full(5, 1.0 + (device == broken), np.float32), device)
        for device in jax.local_devices()
    ]
    array = jax.make_array_from_single_device_arrays((5,), sharding, shards)
    with jax.set_mesh(mesh):
        try:
            make_replica_check({"w": array}, mesh)({"w": array}, 9)
        except UserError as error:
            return {"error": str(error), "broken": [broken.id, broken.process_index]}
    return {"error": None, "broken": None}


def place_a_batch(batch_size: int) -> dict[str, Any]:
    from train_jax.data import placement

    sharding = split()
    rows = placement.local_rows(sharding, batch_size)
    batch = placement.to_device(
        {"image": (rows[:, None] * 10 + np.arange(2)).astype(np.int32)}, sharding, batch_size
    )
    whole = multihost_utils.process_allgather(batch["image"], tiled=True)
    total = jax.jit(lambda x: x.sum())(batch["image"])
    return {"rows": rows.tolist(), "whole": whole.tolist(), "total": int(total)}


def load_images(data_dir: str, shape: list[int]) -> dict[str, Any]:
    """Training batches 13 to 15 and one evaluation, on a mesh of the given shape."""
    from train_jax.data.placement import local_rows, prefetch
    from train_jax.sharding import batch_sharding
    from vit_jax.data.pipeline import DataConfig, eval_data, train_data
    from vit_jax.data.preprocess import InceptionCrop, Squash

    mesh = jax.make_mesh(
        tuple(shape),
        ("data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    sharding = batch_sharding(mesh)
    options = {"source": "digits", "data_dir": data_dir, "threads": 1}
    train = train_data(
        DataConfig(split="train", preprocess=InceptionCrop(16), **options), batch_size=96, seed=1
    )
    rows = local_rows(sharding, 96)
    checks = []
    # 1,437 examples: batch 14 straddles two epochs.
    with prefetch(train.start(13, rows), sharding, 96) as batches:
        for _ in range(3):
            batch = next(batches)
            whole = {
                key: multihost_utils.process_allgather(value, tiled=True)
                for key, value in batch.items()
            }
            checks.append([zlib.crc32(whole[key].tobytes()) for key in sorted(whole)])
    test = eval_data(DataConfig(split="test", preprocess=Squash(8), **options), batch_size=32)
    counted, steps = 0, 0
    count = jax.jit(lambda mask: mask.sum())
    with prefetch(test.start(local_rows(sharding, 32)), sharding, 32) as batches:
        for batch in batches:
            counted, steps = counted + int(count(batch["mask"])), steps + 1
    return {"rows": rows.tolist(), "checks": checks, "counted": counted, "steps": steps}


def train_toy(workdir: str, fsdp: int, pause_s: float = 0) -> dict[str, Any]:
    """A run of 20 steps, all of them logged, as a command would do it.

    Args:
        workdir: continued where it holds a checkpoint, of which there is one every 4 steps.
        fsdp: over how many devices the kernel is split.
        pause_s: before every batch; "stepping" is printed after a few.
    """
    import dataclasses

    import toy

    from train_jax import main, sharding
    from train_jax.loop import fit
    from train_jax.mesh import MeshConfig, make_mesh
    from train_jax.program import make_program
    from train_jax.train_config import CheckpointConfig

    sharding.MIN_FSDP_SIZE = 0
    task = toy.make_task()

    def start(first, rows):
        for step, batch in enumerate(task.train_data.start(first, rows), start=first):
            time.sleep(pause_s)
            if step == first + 5:
                print("stepping", flush=True)
            yield batch

    config = toy.make_config(
        mesh=MeshConfig(fsdp=fsdp),
        log_every="1 steps",
        check_replicas="6 steps",
        checkpoint=CheckpointConfig(every="4 steps", keep_last=10),
    )
    slowly = dataclasses.replace(task, train_data=dataclasses.replace(task.train_data, start=start))
    kernel = make_program(task, config, make_mesh(config.mesh)).abstract.params["dense"]["kernel"]

    def command() -> int:
        result = fit(slowly, config, workdir)
        report = {"step": result.step, "spec": list(kernel.sharding.spec)}
        Path(sys.argv[4]).write_text(json.dumps(report))
        return hosts.PREEMPTED_EXIT_CODE if result.preempted else 0

    sys.exit(main._run(command))


def compile_something() -> dict[str, int]:
    """How many programs this process asks the cache for, and how many it finds there."""
    from train_jax import process

    found = {"compile_requests_use_cache": 0, "cache_hits": 0}

    def listen(event: str, **_: Any) -> None:
        name = event.rpartition("/")[2]
        if event.startswith("/jax/compilation_cache/") and name in found:
            found[name] += 1

    process.set_up()
    jax.monitoring.register_event_listener(listen)
    total = jax.jit(jnp.sum)(jax.device_put(np.ones(16, np.float32), split()))
    assert float(total) == 16
    # Nobody leaves before all have looked, and process 0 has written.
    hosts.barrier("compiled")
    return {"asked": found["compile_requests_use_cache"], "found": found["cache_hits"]}


def die_or_wait(seconds: float) -> None:
    print("alive", flush=True)
    time.sleep(seconds)


def main() -> None:
    address, num_processes, process_id, result, function, args = sys.argv[1:]
    if int(num_processes) > 1:
        hosts.initialize(
            address,
            num_processes=int(num_processes),
            process_id=int(process_id),
            timeout_s=150,
            heartbeat_s=int(os.environ.get("HEARTBEAT_S", "60")),
        )
    value = globals()[function](*json.loads(args))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    main()
