"""Sequences in pieces: every frame once, with the very context that it has in its sequence."""

import jax
import numpy as np
import pytest

from pose_jax.data import evaluation
from pose_jax.data.evaluation import cut, evaluation_data
from pose_jax.data.views import View
from pose_jax.models.config import TemporalConfig

LENGTHS = (1, 70, 32, 5, 64, 33)


def views(lengths, *, positions=True, channels=2):
    """Numbers that tell which frame of which view they are of."""
    made = []
    for i, n in enumerate(lengths):
        frame = (1000 * (i + 1) + np.arange(n, dtype=np.float32))[:, None, None]
        x = frame + np.zeros((n, 4, channels), np.float32)
        y = frame + 0.5 + np.zeros((n, 5, 3), np.float32)
        made.append(View("S9", f"Walking {i}", "a", x, y if positions else None, None))
    return made


def batches(data):
    """What the network gets, as the evaluation loop makes it."""
    resident = jax.device_put(data.resident)
    expand = jax.jit(data.expand)
    for batch in data.start(np.arange(data.batch_size)):
        yield jax.tree.map(np.asarray, expand(resident, jax.device_put(batch)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("most", [16, 8192])
@pytest.mark.parametrize("shards", [1, 8])
def test_every_frame_once_with_its_context(monkeypatch, causal, most, shards):
    monkeypatch.setattr(evaluation, "POSES_PER_PIECE", most)
    model = TemporalConfig(widths=(3, 3), joints_in=4, joints_out=5, causal=causal)
    data = evaluation_data(views(LENGTHS), model, shards=shards)
    assert data.batch_size % shards == 0
    seen, moving = [], []
    for batch in batches(data):
        assert len(batch["view"]) == data.batch_size
        for i, t in np.argwhere(batch["mask"]):
            view = batch["view"][i, t]
            number = batch["positions"][i, t + 1, 0, 0] - 0.5
            frame = int(number) - 1000 * (view + 1)
            assert batch["frame"][i, t] == frame
            seen.append((view, frame))
            # Pose t + 1 comes of these frames; beyond the ends the first or last one is repeated.
            window = batch["keypoints"][i, t + 1 : t + 1 + model.receptive_field, 0, 0]
            around = np.arange(frame - model.pad_before, frame + model.pad_after + 1)
            wanted = np.clip(around, 0, LENGTHS[view] - 1) + 1000 * (view + 1)
            np.testing.assert_array_equal(window, wanted)
            if batch["moving"][i, t]:
                moving.append((view, frame))
                assert batch["positions"][i, t, 0, 0] == number - 0.5
        assert not (batch["moving"] & ~batch["mask"]).any()
    every = [(i, t) for i, n in enumerate(LENGTHS) for t in range(n)]
    assert sorted(seen) == every
    assert sorted(moving) == [(i, t) for i, t in every if t > 0]


def test_without_positions_and_with_confidences():
    model = TemporalConfig(widths=(3, 3), joints_in=4)
    data = evaluation_data(views((7, 3), positions=False, channels=3), model, shards=1)
    (batch,) = batches(data)
    assert batch.keys() == {"keypoints", "view", "frame", "mask", "moving"}
    assert batch["keypoints"].shape == (1, 7 + 9 + 3 + 9, 4, 3)


@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("poses", [1, 100, 8192, 8193, 543_000])
def test_pieces_cover_all_poses_at_little_cost(poses, shards):
    length = cut(poses, shards)
    pieces = -(-poses // length)
    assert 0 < length <= evaluation.POSES_PER_PIECE
    batches = -(-pieces // shards)
    assert batches * shards * length <= max(1.01 * poses, poses + shards)
    assert batches == -(-poses // (shards * evaluation.POSES_PER_PIECE))
