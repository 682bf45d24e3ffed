"""Rows per process and global arrays, on any mesh and any number of processes."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train_jax.data.dataset import EvalData, eval_positions
from train_jax.data.order import GlobalOrder
from train_jax.data.placement import Prefetch, local_rows, prefetch, to_device
from train_jax.errors import UserError

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2), (1, 1, 8), (1, 2, 1)]


def sharding_of(shape: tuple[int, int, int]) -> NamedSharding:
    mesh = jax.make_mesh(
        shape,
        ("data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
        devices=jax.devices()[: int(np.prod(shape))],
    )
    return NamedSharding(mesh, P(("data", "fsdp")))


class FakeProcess:
    """The view of a sharding that one of several processes has: some devices are its own."""

    def __init__(self, sharding: NamedSharding, devices: set[jax.Device]):
        self.sharding, self.devices = sharding, devices
        self.mesh, self.spec = sharding.mesh, sharding.spec

    def addressable_devices_indices_map(self, shape):
        every = self.sharding.devices_indices_map(shape)
        return {d: index for d, index in every.items() if d in self.devices}


def processes(sharding: NamedSharding, count: int) -> list[FakeProcess]:
    devices = list(sharding.mesh.devices.flat)
    per = len(devices) // count
    return [FakeProcess(sharding, set(devices[p * per : (p + 1) * per])) for p in range(count)]


@pytest.mark.parametrize("shape", MESHES[:5])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_every_number_of_processes_gives_the_same_global_batch(shape, count):
    order, batch, step = GlobalOrder(53, seed=1), 16, 5  # step 5 straddles epochs 1 and 2
    expected = order.indices(step * batch, (step + 1) * batch)
    seen = np.full(batch, -1)
    for process in processes(sharding_of(shape), count):
        rows = local_rows(process, batch)
        assert np.all(np.diff(rows) > 0)
        seen[rows] = order.at(step * batch + rows)
    np.testing.assert_array_equal(seen, expected)


def test_tensor_axis_over_hosts_loads_the_same_rows():
    halves = [local_rows(p, 8) for p in processes(sharding_of((1, 1, 8)), 2)]
    np.testing.assert_array_equal(halves[0], np.arange(8))
    np.testing.assert_array_equal(halves[1], np.arange(8))


@pytest.mark.parametrize("shape", MESHES)
def test_to_device_puts_each_row_where_the_sharding_says(shape):
    sharding = sharding_of(shape)
    image = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    placed = to_device({"image": image, "mask": np.ones(16, bool)}, sharding, 16)
    assert placed["image"].sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(placed["image"], image)
    for shard in placed["image"].addressable_shards:
        np.testing.assert_array_equal(shard.data, image[shard.index])
    assert placed["mask"].dtype == bool


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch size 12 .* 8 data shards"):
        local_rows(sharding_of((2, 4, 1)), 12)
    with pytest.raises(ValueError, match="3 rows"):
        to_device({"x": np.zeros(3)}, sharding_of((2, 2, 2)), 8)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 40])
def test_evaluation_counts_each_example_once(n, count):
    data = EvalData(8, n, lambda rows: iter(()))
    counted = np.zeros(n, int)
    for process in processes(sharding_of((2, 2, 2)), count):
        rows = local_rows(process, 8)
        for step in range(data.num_batches):
            positions = eval_positions(step, rows, batch_size=8)
            np.add.at(counted, positions[positions < n], 1)
    # With the tensor axis inside each process' devices, rows are not repeated between processes.
    np.testing.assert_array_equal(counted, np.ones(n))


def test_prefetch_yields_everything_in_order_and_measures_waiting():
    sharding = sharding_of((8, 1, 1))

    def batches():
        for i in range(5):
            time.sleep(0.02)
            yield {"x": np.full(8, i, np.int32)}

    with prefetch(batches(), sharding, 8) as iterator:
        assert [int(batch["x"][0]) for batch in iterator] == list(range(5))
        assert iterator.waited_s > 0.03
        with pytest.raises(StopIteration):
            next(iterator)


def test_prefetch_raises_in_place_and_goes_on_raising():
    def failing():
        yield 1
        raise UserError("image x.jpg cannot be read")

    iterator = Prefetch(failing())
    assert next(iterator) == 1
    for _ in range(2):
        with pytest.raises(UserError, match=r"x\.jpg"):
            next(iterator)
    iterator.close()


def test_prefetch_closes_an_endless_iterator_in_its_own_thread():
    closed_by = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed_by.append(threading.current_thread().name)

    iterator = Prefetch(endless(), ahead=2)
    next(iterator)
    iterator.close()
    iterator.close()
    assert closed_by == ["prefetch"]
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
    with pytest.raises(StopIteration):
        next(iterator)


def test_prefetch_runs_no_further_ahead_than_told():
    produced = []

    def count():
        for i in range(100):
            produced.append(i)
            yield i

    with Prefetch(count(), ahead=2) as iterator:
        next(iterator)
        time.sleep(0.1)
        assert len(produced) <= 1 + 2 + 1  # taken, queued, in the producer's hands
