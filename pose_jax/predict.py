"""Lifts 2D keypoints to 3D with a trained model.

    python -m pose_jax.predict keypoints.npz --checkpoint=DIR --output=poses.npz

KEYPOINTS is a file of `python -m pose_jax.prepare` (custom: your own video's detections). The
result is an .npz without pickled objects:

    meta            JSON: format, skeleton, joints, parents, fps, space, checkpoint, and for every
                    sequence its subject, action and camera
    poses/000000    float32 (frames, joints, 3), metres, of the first sequence

Poses have the axes of the camera (x right, y down, z forward). Their space is "root": relative to
the root, which the pose network alone cannot place; with a trajectory network "camera": where the
camera sees them; and "world" where it is also known where all the cameras stand.
"""

import json
import sys
from typing import Any

import numpy as np
from absl import flags, logging
from etils import epath

from pose_jax import cameras
from pose_jax.data import store
from pose_jax.data.framewise import in_blocks
from pose_jax.data.views import PoseDataConfig, Views, select
from pose_jax.lifter import Lifter, lift, load_lifter
from train_jax import command_line, process
from train_jax.checkpoint import require_writable
from train_jax.errors import UserError

FORMAT = "pose_jax poses 1"


def predict(
    keypoints: str,
    checkpoint: str,
    output: str,
    *,
    flip: bool = True,
    longest_side: bool | None = None,
) -> str:
    """Lifts every view of a file.

    Args:
        keypoints: file of keypoints.
        checkpoint: of a lifter.
        output: file to write.
        flip: see :func:`pose_jax.lifter.lift`.
        longest_side: how pixels are normalised; None: as in training.

    Returns:
        A line on what was written.

    Raises:
        UserError: a file is missing or faulty, the joints are other than the model's, or the output
            exists.
    """
    store.refuse_existing(output)
    require_writable(epath.Path(output).parent)
    poses = store.load(keypoints)
    lifter = load_lifter(checkpoint)
    if longest_side is None:
        longest_side = lifter.longest_side
    config = PoseDataConfig(keypoints=keypoints, longest_side=longest_side)
    views = select(poses, config, "keypoints")
    _require_fit(lifter, views, keypoints)
    lifter.warn_of_rate(views.fps)
    results, space = lift(lifter, views.views, flip=flip), "root"
    if lifter.has_trajectory:
        places = [poses.cameras[view.subject][view.camera] for view in views.views]
        space = "camera"
        if all(camera.orientation is not None for camera in places):
            space = "world"
            results = [
                in_blocks(lambda x, c=camera: cameras.camera_to_world(x, *cameras.place(c)), result)
                for result, camera in zip(results, places, strict=True)
            ]
    meta = {
        "format": FORMAT,
        "skeleton": lifter.skeleton.name,
        "joints": lifter.skeleton.joints,
        "parents": lifter.skeleton.parents,
        "fps": poses.fps,
        "space": space,
        "checkpoint": checkpoint,
        "sequences": [
            {"subject": view.subject, "action": view.action, "camera": view.camera}
            for view in views.views
        ],
    }
    arrays: dict[str, Any] = {f"poses/{i:06}": result for i, result in enumerate(results)}
    with store.replacing(output) as stream:
        np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)
    frames = sum(map(len, results))
    return f"{frames:,} poses of {len(results)} sequences ({space} space): {output}"


def _require_fit(lifter: Lifter, views: Views, path: str) -> None:
    found, wanted = views.keypoint_layout.name, lifter.keypoint_layout.name
    if found != wanted:
        raise UserError(
            f"{path} has {found} keypoints, the model reads {wanted}; name a model for them, or "
            "keypoints of that layout."
        )
    if views.views[0].keypoints.shape[-1] < lifter.model.features:
        raise UserError(f"{path} has no confidences, which the model reads; add them.")


def _command() -> None:
    (keypoints,) = command_line.parse(sys.argv, __doc__ or "", arguments=("KEYPOINTS",))
    given = flags.FLAGS
    checkpoint, output = given.checkpoint, given.output
    if not checkpoint or not output:
        raise UserError(
            "--checkpoint and --output must both be given; name the model and a file to write."
        )
    process.set_up()
    logging.set_verbosity(logging.WARNING)
    report = predict(
        keypoints, checkpoint, output, flip=given.flip, longest_side=given.longest_side
    )
    sys.stdout.write(f"{report}\n")


def _define_flags() -> None:
    """Not on import, because other commands have flags of the same names."""
    flags.DEFINE_string("checkpoint", None, "A run's directory, or one checkpoint of it.")
    flags.DEFINE_string("output", None, "The .npz file to write; must not exist.")
    flags.DEFINE_bool("flip", True, "Average with the pose of the mirror image.")
    flags.DEFINE_bool(
        "longest_side",
        None,
        "Normalise pixels by the longest side of the image instead of its width, or not; as in the "
        "model's training unless given. Use it for upright video and a model trained without.",
    )


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(_command))
