"""Windows cut on the device are the original generator's batches, in its order."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax import cameras
from pose_jax.data.training import Order, training_data
from pose_jax.data.views import PoseDataConfig, View, select
from pose_jax.data.windows import make_windows
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import H36M_17
from train_jax.data import placement
from train_jax.data.placement import to_device, to_reside
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding

MIRRORS: dict[str, Any] = {"keypoint_mirror": H36M_17.mirror, "pose_mirror": H36M_17.mirror}


@pytest.fixture(scope="module")
def sequences(request):
    file = np.load(request.path.parents[2] / "data" / "pose" / "generator_input.npz")
    assert sorted(file["kps_left"]) == sorted(H36M_17.left)
    return [
        View("S1", f"Walking {i}", "camera", file[f"p2/{i}"], file[f"p3/{i}"], file[f"cam/{i}"])
        for i in range(len(file["lengths"]))
    ]


def batches(windows, batch_size, order: Order = "original", steps=None):
    data = training_data(windows, None, batch_size=batch_size, seed=0, order=order, content="test")
    resident = {name: jnp.asarray(x) for name, x in data.resident.items()}
    expand = jax.jit(data.expand)
    steps = steps or 2 * data.examples_per_epoch // batch_size
    for batch in itertools.islice(data.start(0, np.arange(batch_size)), steps):
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


def test_mirrored_examples_obey_the_mirrored_camera():
    """Exactly: an image of the mirrored pose is the mirrored image of the pose."""
    poses = tiny_poses.poses({"S1": {"Walking": 9}}, views=2)
    views = select(poses, PoseDataConfig(keypoints="tiny"), "positions").views
    windows = make_windows(views, TemporalConfig(widths=(3,)), chunk=2, **MIRRORS)
    arrays = {name: jnp.asarray(x) for name, x in windows.arrays.items()}
    numbers = jnp.arange(windows.num_examples, dtype=jnp.int32)
    got = jax.jit(windows.gather)(arrays, numbers)
    positions = got["positions"].at[:, :, 1:].add(got["positions"][:, :, :1])
    image = cameras.project(positions, got["intrinsics"])
    # As exact as pixels of a thousand are.
    np.testing.assert_allclose(image, got["keypoints"][:, 1:3], atol=3e-6)
    per_view = windows.num_examples // 2
    for first in (0, per_view):
        plain, mirrored = (
            {name: x[first + half : first + half + per_view // 2] for name, x in got.items()}
            for half in (0, per_view // 2)
        )
        for name in ("keypoints", "positions"):
            np.testing.assert_array_equal(
                mirrored[name], cameras.flip_pose(plain[name], H36M_17.mirror)
            )
        np.testing.assert_array_equal(
            mirrored["intrinsics"], cameras.flip_intrinsics(plain["intrinsics"])
        )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_frames_beyond_the_ends_are_the_first_and_the_last(causal, chunk):
    """Of sequences that are shorter than a window, or have a single frame, too."""
    lengths = (1, 5, 10)
    views = [
        View("S1", f"Walking {n}", "c", np.full((n, 17, 2), 100.0 * n, np.float32), None, None)
        for n in lengths
    ]
    for view in views:
        view.keypoints[:] += np.arange(len(view.keypoints), dtype=np.float32)[:, None, None]
    model = TemporalConfig(widths=(3, 3), causal=causal)
    windows = make_windows(views, model, chunk=chunk, flip=False, **MIRRORS)
    arrays = {name: jnp.asarray(x) for name, x in windows.arrays.items()}
    numbers = jnp.arange(windows.num_examples, dtype=jnp.int32)
    got = windows.gather(arrays, numbers)["keypoints"][:, :, 0, 0]
    wanted = []
    for n in lengths:
        chunks = -(-n // chunk)
        begin = -((chunks * chunk - n) // 2)
        for i in range(chunks):
            first = begin + i * chunk - (8 if causal else 4)
            frames = np.clip(np.arange(first, first + 8 + chunk), 0, n - 1)
            wanted.append(100 * n + frames)
    np.testing.assert_array_equal(got, np.array(wanted, np.float32))


def test_chunks_have_at_least_one_frame(sequences):
    with pytest.raises(UserError, match="chunk must be at least 1 frame, got 0"):
        make_windows(sequences, TemporalConfig(widths=(3,)), chunk=0, **MIRRORS)
