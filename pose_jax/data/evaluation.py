"""Evaluation data: all sequences as one, in pieces of one length, so that one program measures all.

No convolution of the network pads, so a piece with its context gives the very poses that the whole
sequence gives. Pieces do not end where sequences do, which would fill up every last piece: of 2,000
frames at a time, a third of the work. The poses of windows that begin in one sequence and end in
the next are not counted. Pieces overlap by one pose, from which their first velocity is computed.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax.data.views import View
from pose_jax.data.windows import edge_extended
from pose_jax.models.config import TemporalConfig
from train_jax.data.dataset import DeviceBatch, EvalData, eval_positions

# Poses of a piece, at most: enough to keep an accelerator busy, little enough for its memory.
POSES_PER_PIECE = 8192


def cut(poses: int, shards: int) -> int:
    """The length of the pieces of so many poses, which leaves little for the last batch to fill up.

    Args:
        poses: of all sequences, and those between them.
        shards: pieces of a batch.
    """
    batches = -(-poses // (shards * POSES_PER_PIECE))
    return -(-poses // (shards * batches))


def evaluation_data(views: Sequence[View], model: TemporalConfig, *, shards: int) -> EvalData:
    """Every frame of every view, once.

    Args:
        views: sequences, with positions or without.
        model: its receptive field, and whether that lies in the past.
        shards: in how many parts a batch is split.

    Returns:
        Batches of one piece per shard that expand to ``keypoints`` float32 (b, length +
        receptive_field, joints, channels), ``positions`` float32 (b, length + 1, joints, 3) where
        the views have them, and of each pose of a piece, (b, length): ``view`` and ``frame`` int32,
        ``mask`` bool: whether it counts, and ``moving`` bool: whether there is a pose before. Pose
        0 of ``positions``, and of what the network gives, is the one before the piece.
    """
    # One frame more in front for the pose before.
    before, after = model.pad_before + 1, model.pad_after
    keypoints = [edge_extended(view.keypoints, before, after) for view in views]
    frames = np.array([len(view.keypoints) for view in views], np.int32)
    starts = np.cumsum([0, *(len(part) for part in keypoints[:-1])]).astype(np.int32)
    poses = int(starts[-1] + frames[-1])
    length = cut(poses, shards)
    pieces = -(-poses // length)
    rows_of = {"keypoints": pieces * length + model.receptive_field}
    parts = {"keypoints": keypoints}
    if all(view.positions is not None for view in views):
        # In the place of the pose of the window that begins there.
        parts["positions"] = [
            np.pad(edge_extended(view.positions, 1, 0), [(0, before + after - 1), (0, 0), (0, 0)])
            for view in views
            if view.positions is not None
        ]
        rows_of["positions"] = pieces * length + 1
    joints = {name: part[0].shape[1] for name, part in parts.items()}
    arrays = {name: _joined(part, rows_of[name]) for name, part in parts.items()}

    def start(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        for step in range(-(-pieces // shards)):
            piece = eval_positions(step, rows, batch_size=shards)
            mask = piece < pieces
            yield {"piece": np.where(mask, piece, 0).astype(np.int32), "mask": mask}

    def expand(resident: DeviceBatch, batch: DeviceBatch) -> DeviceBatch:
        first = batch["piece"] * length

        def piece(name: str, size: int) -> jax.Array:
            offsets = jnp.arange(size, dtype=jnp.int32)
            x = resident[name][first[:, None] + offsets[None]]
            return x.reshape(len(first), size, joints[name], -1)

        # Pose 0 of a sequence is that of its second window.
        row = first[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        view = (resident["starts"][None, None] <= row[..., None]).sum(-1, dtype=jnp.int32) - 1
        frame = row - resident["starts"][view]
        mask = batch["mask"][:, None] & (frame < resident["frames"][view])
        sizes = {"keypoints": length + model.receptive_field, "positions": length + 1}
        return {
            **{name: piece(name, sizes[name]) for name in parts},
            "view": view,
            "frame": frame,
            "mask": mask,
            "moving": mask & (frame > 0),
        }

    return EvalData(
        batch_size=shards,
        num_examples=pieces,
        start=start,
        resident={**arrays, "starts": starts, "frames": frames},
        expand=expand,
    )


def _joined(parts: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Sequences one after the other, (rows, numbers of a frame), filled up with zeros or cut."""
    joined = np.concatenate(parts)
    joined = joined.reshape(len(joined), -1)[:rows]
    return np.pad(joined, [(0, rows - len(joined)), (0, 0)])
