"""Windows cut on the device are the original generator's batches, in its order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.data.training import training_data
from pose_jax.data.views import View
from pose_jax.data.windows import make_windows
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import H36M_17
from train_jax.data import placement
from train_jax.data.placement import to_device, to_reside
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding

MIRRORS = {"keypoint_mirror": H36M_17.mirror, "pose_mirror": H36M_17.mirror}


@pytest.fixture(scope="module")
def sequences(request):
    file = np.load(request.path.parents[2] / "data" / "pose" / "generator_input.npz")
    assert sorted(file["kps_left"]) == sorted(H36M_17.left)
    return [
        View("S1", f"Walking {i}", "camera", file[f"p2/{i}"], file[f"p3/{i}"], file[f"cam/{i}"])
        for i in range(len(file["lengths"]))
    ]


def batches(windows, batch_size, order="original", seed=0, steps=None, start=0):
    data = training_data(
        windows, None, batch_size=batch_size, seed=seed, order=order, content="test"
    )
    resident = {name: jnp.asarray(x) for name, x in data.resident.items()}
    expand = jax.jit(data.expand)
    steps = steps or 2 * data.examples_per_epoch // batch_size
    for batch in itertools.islice(data.start(start, np.arange(batch_size)), steps):
        yield {name: np.asarray(x) for name, x in expand(resident, batch).items()}


@pytest.mark.parametrize("case", ["causal", "chunk8"])
def test_batches_are_those_of_the_original(sequences, data_dir, case):
    fixture = np.load(data_dir / "pose" / f"generator_chunked_{case}.npz")
    chunk, pad = int(fixture["kw/chunk_length"]), int(fixture["kw/pad"])
    widths = {13: (3, 3, 3), 4: (3, 3)}[pad]
    model = TemporalConfig(widths=widths, causal="kw/causal_shift" in fixture)
    windows = make_windows(sequences, model, chunk=chunk, **MIRRORS)
    batch_size, per_epoch = int(fixture["batch_size"]), int(fixture["num_batches"])
    seen = 0
    for i, batch in enumerate(batches(windows, batch_size)):
        epoch, number = divmod(i, per_epoch)
        if f"e{epoch}/b{number}/p2" not in fixture:
            break
        real = batch["mask"]
        for name, key in (("keypoints", "p2"), ("positions", "p3"), ("intrinsics", "cam")):
            wanted = fixture[f"e{epoch}/b{number}/{key}"]
            assert real.sum() == len(wanted)
            assert real[: len(wanted)].all()
            np.testing.assert_array_equal(batch[name][real], wanted.astype(np.float32))
        seen += 1
    assert seen == 2 * per_epoch


def test_without_mirroring_examples_are_the_frames_in_order(sequences, data_dir):
    fixture = np.load(data_dir / "pose" / "generator_chunked_plain.npz")
    model = TemporalConfig(widths=(3, 3, 3))
    windows = make_windows(sequences, model, flip=False, **MIRRORS)
    arrays = {name: jnp.asarray(x) for name, x in windows.arrays.items()}
    got = windows.gather(arrays, jnp.arange(windows.num_examples, dtype=jnp.int32))
    for name, key in (("keypoints", "p2"), ("positions", "p3"), ("intrinsics", "cam")):
        wanted = [fixture[f"e0/b{i}/{key}"] for i in range(int(fixture["num_batches"]))]
        assert (
            windows.num_examples
            == sum(map(len, wanted))
            == sum(len(s.keypoints) for s in sequences)
        )
        np.testing.assert_array_equal(got[name], np.concatenate(wanted).astype(np.float32))


@pytest.mark.parametrize("order", ["device", "original"])
def test_an_epoch_has_every_window_once_whatever_the_step_it_is_started_at(sequences, order):
    windows = make_windows(sequences, TemporalConfig(widths=(3,)), **MIRRORS)
    arrays = {name: jnp.asarray(x) for name, x in windows.arrays.items()}
    every = windows.gather(arrays, jnp.arange(windows.num_examples, dtype=jnp.int32))
    once = {x.tobytes() for x in np.asarray(every["keypoints"])}
    assert len(once) == windows.num_examples
    steps = -(-windows.num_examples // 16)
    run = list(batches(windows, 16, order, steps=2 * steps))
    rows = np.concatenate([b["keypoints"] for b in run])
    if order == "original":
        rows = rows[np.concatenate([b["mask"] for b in run])]
    epochs = rows[: windows.num_examples], rows[windows.num_examples : 2 * windows.num_examples]
    for epoch in epochs:
        assert {x.tobytes() for x in epoch} >= (once if len(epoch) == len(once) else set())
    assert epochs[0].tobytes() != epochs[1].tobytes()[: epochs[0].nbytes]
    for start in (1, steps + 2):
        later = next(batches(windows, 16, order, steps=1, start=start))
        np.testing.assert_array_equal(later["keypoints"], run[start]["keypoints"])


@pytest.mark.parametrize("limit", [placement.REPLICATED_BYTES, 4096], ids=["replicated", "split"])
def test_windows_are_the_same_over_eight_devices(sequences, monkeypatch, limit):
    windows = make_windows(sequences, TemporalConfig(widths=(3, 3)), **MIRRORS)
    wanted = next(batches(windows, 16, "device", steps=1))
    monkeypatch.setattr(placement, "REPLICATED_BYTES", limit)
    mesh = make_mesh(MeshConfig())
    data = training_data(windows, None, batch_size=16, seed=0, order="device", content="test")
    with jax.set_mesh(mesh):
        resident = to_reside(data.resident, mesh)
        sharding = batch_sharding(mesh)
        batch = to_device(next(data.start(0, np.arange(16))), sharding, 16)
        got = jax.jit(data.expand)(resident, batch)
    spread = not resident["keypoints"].sharding.is_fully_replicated
    assert spread == (limit == 4096)
    for name, x in wanted.items():
        np.testing.assert_array_equal(got[name], x)


def test_unlabelled_windows_have_an_order_of_their_own(sequences):
    model = TemporalConfig(widths=(3,))
    labelled = make_windows(sequences[:1], model, **MIRRORS)
    unlabelled = make_windows(
        [View("S5", s.action, "camera", s.keypoints, None, s.intrinsics) for s in sequences[1:]],
        model,
        **MIRRORS,
    )
    data = training_data(labelled, unlabelled, batch_size=8, seed=0, order="device", content="test")
    resident = {name: jnp.asarray(x) for name, x in data.resident.items()}
    rows = set()
    steps = -(-unlabelled.num_examples // 8)
    for batch in itertools.islice(data.start(0, np.arange(8)), steps):
        examples = data.expand(resident, {k: jnp.asarray(v) for k, v in batch.items()})
        assert examples["keypoints"].shape == examples["unlabelled_keypoints"].shape
        assert "unlabelled_positions" not in examples
        rows |= {x.tobytes() for x in np.asarray(examples["unlabelled_keypoints"])}
    # All of them within an epoch of theirs, though the labelled ones came round several times.
    assert len(rows) == unlabelled.num_examples
