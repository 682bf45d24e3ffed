"""Training windows that are cut on the device from sequences that live there.

The whole data set is put on the device once (Human3.6M: 0.6 GB). A training example is then one
integer; its window is cut, mirrored and extended at the edges inside the step. Numbering and order
within an epoch are those of the original implementation: view by view, first all chunks as they
are, then all of them mirrored.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax import cameras
from pose_jax.data.views import View
from pose_jax.models.config import TemporalConfig
from train_jax.data import placement
from train_jax.errors import UserError

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The windows of some views.

    Attributes:
        arrays: what lives on the device, see :func:`make_windows`.
        num_examples: windows of an epoch.
        gather: (arrays on the device, example numbers int32 (b,)) -> examples:
            ``keypoints`` float32 (b, receptive field - 1 + chunk, joints, channels),
            ``positions`` float32 (b, chunk, joints, 3) where the views have them, and
            ``intrinsics`` float32 (b, 9) likewise.
    """

    arrays: dict[str, np.ndarray]
    num_examples: int
    gather: Callable[[Arrays, jax.Array], dict[str, jax.Array]]


def make_windows(
    views: Sequence[View],
    model: TemporalConfig,
    *,
    chunk: int = 1,
    flip: bool = True,
    keypoint_mirror: tuple[int, ...],
    pose_mirror: tuple[int, ...] | None = None,
) -> Windows:
    """Prepares sequences for the device.

    A sequence of n frames has ceil(n / chunk) chunks; what they hang over is split between both
    ends. Missing frames repeat the first or the last one.

    Args:
        views: the sequences; all have positions or none has, and so for intrinsics.
        model: its receptive field, and whether that lies in the past (causal).
        chunk: output frames of an example.
        flip: whether every chunk appears a second time, mirrored.
        keypoint_mirror: permutation of the keypoints that swaps left and right.
        pose_mirror: the same of the pose's joints; not needed without positions.
    """
    if chunk < 1:
        raise UserError(f"chunk must be at least 1 frame, got {chunk}.")
    lengths = np.array([len(view.keypoints) for view in views], np.int64)
    chunks = -(-lengths // chunk)
    overhang = (chunks * chunk - lengths) // 2
    # Edge frames are really there, so that every window is one contiguous slice.
    before, after = model.pad_before + chunk, model.pad_after + chunk
    keypoints = [edge_extended(view.keypoints, before, after) for view in views]
    starts = np.cumsum([0, *(len(k) for k in keypoints[:-1])])
    first = np.cumsum([0, *chunks[:-1]]) * (2 if flip else 1)
    arrays = {
        "keypoints": np.concatenate(keypoints).reshape(starts[-1] + len(keypoints[-1]), -1),
        "first_example": first.astype(np.int32),
        "chunks": chunks.astype(np.int32),
        "start": (starts + chunk - overhang).astype(np.int32),
    }
    joints = views[0].keypoints.shape[1]
    if with_positions := all(view.positions is not None for view in views):
        positions = [
            edge_extended(view.positions, chunk, chunk)
            for view in views
            if view.positions is not None
        ]
        ends = np.cumsum([len(p) for p in positions])
        arrays["positions"] = np.concatenate(positions).reshape(ends[-1], -1)
        arrays["pose_start"] = (np.array([0, *ends[:-1]]) + chunk - overhang).astype(np.int32)
    if with_intrinsics := all(view.intrinsics is not None for view in views):
        arrays["intrinsics"] = np.stack([np.asarray(view.intrinsics) for view in views])
    length = model.receptive_field - 1 + chunk

    def gather(arrays: Arrays, example: jax.Array) -> dict[str, jax.Array]:
        # The last view whose first example is not beyond this one.
        begins = arrays["first_example"]
        view = (begins[None] <= example[:, None]).sum(1, dtype=jnp.int32) - 1
        within = example - begins[view]
        mirrored = within >= arrays["chunks"][view]
        number = within - jnp.where(mirrored, arrays["chunks"][view], 0)

        def cut(name: str, start: str, length: int, joints: int) -> jax.Array:
            rows = arrays[start][view] + number * chunk
            x = _slices(arrays[name], rows, length)
            return x.reshape(len(example), length, joints, -1)

        def mirror_some(x: jax.Array, mirror: Sequence[int]) -> jax.Array:
            return jnp.where(mirrored[:, None, None, None], cameras.flip_pose(x, mirror), x)

        x = cut("keypoints", "start", length, joints)
        examples = {"keypoints": mirror_some(x, keypoint_mirror) if flip else x}
        if with_positions:
            assert pose_mirror is not None
            y = cut("positions", "pose_start", chunk, len(pose_mirror))
            examples["positions"] = mirror_some(y, pose_mirror) if flip else y
        if with_intrinsics:
            k = arrays["intrinsics"][view]
            flipped = cameras.flip_intrinsics(k)
            examples["intrinsics"] = jnp.where(mirrored[:, None], flipped, k) if flip else k
        return examples

    return Windows(arrays, int(chunks.sum()) * (2 if flip else 1), gather)


def edge_extended(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """A sequence (t, ...) with its first and last frame repeated."""
    return np.pad(x, [(before, after), (0, 0), (0, 0)], mode="edge")


def _slices(buffer: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """Rows [start, start + length) of a buffer (n, c) for starts (b,): (b, length, c)."""
    if buffer.nbytes > placement.REPLICATED_BYTES:
        # Split over the devices: single rows can be looked up where they are, and be exchanged.
        offsets = jnp.arange(length, dtype=jnp.int32)
        return buffer[starts[:, None] + offsets[None]]
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(buffer, start, length))(starts)
