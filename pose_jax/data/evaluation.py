"""Evaluation data: whole sequences in pieces of one length, so that one program measures them all.

No convolution of the network pads, so a piece with its context gives the very poses that the whole
sequence gives. Pieces overlap by one pose, from which the first velocity of a piece is computed.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax.data.views import View
from pose_jax.data.windows import edge_extended
from pose_jax.models.config import TemporalConfig
from train_jax.data.dataset import DeviceBatch, EvalData, eval_positions

# Poses per batch of pieces: enough to keep an accelerator busy, little enough for its memory.
POSES_PER_BATCH = 8192


@dataclasses.dataclass(frozen=True)
class Pieces:
    """How sequences are cut.

    Attributes:
        length: poses of a piece that count.
        view: int32 (k,), the sequence of each piece.
        first: int32 (k,), the frame of its first pose that counts.
    """

    length: int
    view: np.ndarray
    first: np.ndarray


def cut(lengths: Sequence[int], receptive_field: int) -> Pieces:
    """The pieces of sequences, of the length that costs least.

    Long pieces waste work at the ends of sequences, short ones repeat their context.
    """
    frames = np.asarray(lengths, np.int64)

    def cost(length: int) -> int:
        return int((-(-frames // length)).sum()) * (length + receptive_field)

    candidates = [n for n in (32, 64, 128, 256, 512, 1024, 2048, 4096) if n < 2 * frames.max()]
    length = min(candidates or [32], key=cost)
    counts = -(-frames // length)
    view = np.repeat(np.arange(len(frames)), counts)
    first = np.concatenate([np.arange(count) * length for count in counts])
    return Pieces(length, view.astype(np.int32), first.astype(np.int32))


def evaluation_data(views: Sequence[View], model: TemporalConfig, *, shards: int) -> EvalData:
    """Every frame of every view, once.

    Args:
        views: sequences, with positions or without.
        model: its receptive field, and whether that lies in the past.
        shards: in how many parts a batch is split.

    Returns:
        Batches of b pieces that expand to ``keypoints`` float32 (b, length + receptive_field,
        joints, channels), ``positions`` float32 (b, length + 1, joints, 3) where the views have
        them, ``view`` int32 (b,),
        ``mask`` bool (b, length): which poses count, and ``moving`` bool (b, length): for which of
        them there is a pose before. Pose 0 is the one before the piece.
    """
    pieces = cut([len(view.keypoints) for view in views], model.receptive_field)
    length = pieces.length
    # One frame more in front for the pose before, and what the last piece hangs over behind.
    before, after = model.pad_before + 1, model.pad_after + length
    keypoints = [edge_extended(view.keypoints, before, after) for view in views]
    positions = [
        edge_extended(view.positions, 1, length) for view in views if view.positions is not None
    ]
    frames = np.array([len(view.keypoints) for view in views], np.int32)
    joints = views[0].keypoints.shape[1]
    arrays = {
        "keypoints": np.concatenate(keypoints).reshape(sum(map(len, keypoints)), -1),
        "keypoints_start": _starts(keypoints),
        "frames": frames,
    }
    if positions:
        arrays["positions"] = np.concatenate(positions).reshape(sum(map(len, positions)), -1)
        arrays["positions_start"] = _starts(positions)
    per_batch = max(POSES_PER_BATCH // (length * shards), 1)
    per_batch = shards * min(per_batch, -(-len(pieces.view) // shards))

    def start(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        for step in range(-(-len(pieces.view) // per_batch)):
            piece = eval_positions(step, rows, batch_size=per_batch)
            mask = piece < len(pieces.view)
            piece = np.where(mask, piece, 0)
            yield {"view": pieces.view[piece], "first": pieces.first[piece], "mask": mask}

    def expand(resident: DeviceBatch, batch: DeviceBatch) -> DeviceBatch:
        view, first = batch["view"], batch["first"]

        def piece(name: str, size: int, joints: int) -> jax.Array:
            rows = resident[f"{name}_start"][view] + first
            offsets = jnp.arange(size, dtype=jnp.int32)
            x = resident[name][rows[:, None] + offsets[None]]
            return x.reshape(len(view), size, joints, -1)

        frame = first[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        mask = batch["mask"][:, None] & (frame < resident["frames"][view][:, None])
        examples = {
            "keypoints": piece("keypoints", length + model.receptive_field, joints),
            "view": view,
            "mask": mask,
            "moving": mask & (frame > 0),
        }
        if positions:
            examples["positions"] = piece("positions", length + 1, positions[0].shape[1])
        return examples

    return EvalData(
        batch_size=per_batch,
        num_examples=len(pieces.view),
        start=start,
        resident=arrays,
        expand=expand,
    )


def _starts(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *(len(part) for part in parts[:-1])]).astype(np.int32)
