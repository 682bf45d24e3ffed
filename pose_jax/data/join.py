"""The ground truth of one file with the detections of another."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pose_jax.cameras import Camera
from pose_jax.data.poses import PoseSet, Recording, check
from train_jax.errors import UserError


def join(positions: PoseSet, keypoints: PoseSet) -> PoseSet:
    """Puts positions and keypoints together by subject and action.

    Detections may run on after the motion capture has stopped, so keypoints are cut at the end to
    the length of the positions. Recordings of ``keypoints`` without positions stay as they are: a
    semi-supervised model learns from them. Views of ``positions`` are replaced.

    Args:
        positions: every recording has positions.
        keypoints: has keypoints for every recording of ``positions``.

    Returns:
        The recordings of ``positions`` in their order, then those with keypoints only; the cameras
        of both, where both describe one the description that knows more.

    Raises:
        UserError: a recording of ``positions`` has no keypoints, keypoints are shorter than the
            positions, frame rates or image sizes differ, or the result does not fit together.
    """
    if abs(positions.fps - keypoints.fps) > 1e-3 * positions.fps:
        raise UserError(
            f"{positions.name} has {positions.fps} frames per second but {keypoints.name} has "
            f"{keypoints.fps}; resample one of them."
        )
    detected = {(found.subject, found.action): found for found in keypoints.recordings}
    joined: list[Recording] = []
    for recording in positions.recordings:
        found = detected.pop((recording.subject, recording.action), None)
        if recording.positions is None or found is None:
            lacking = positions.name if recording.positions is None else keypoints.name
            raise UserError(
                f"{lacking} has nothing for {recording.title}; both files must hold the same "
                "recordings."
            )
        joined.append(_joined(recording, recording.positions, found.views, keypoints.name))
    joined += [dataclasses.replace(found, positions=None) for found in detected.values()]
    sources = dict.fromkeys((positions.source, keypoints.source))
    result = PoseSet(
        name=f"{positions.name}, {keypoints.name}",
        fps=positions.fps,
        skeleton=positions.skeleton,
        keypoint_layout=keypoints.keypoint_layout,
        source="\n".join(filter(None, sources)),
        cameras=_union(positions.cameras, keypoints.cameras),
        recordings=tuple(joined),
    )
    check(result, result.name)
    return result


def _joined(
    recording: Recording, positions: np.ndarray, views: Mapping[str, np.ndarray], name: str
) -> Recording:
    for camera, found in views.items():
        if len(found) < len(positions):
            raise UserError(
                f"{recording.title}, camera {camera}: {len(found)} frames of keypoints in {name} "
                f"for {len(positions)} of positions; detections are missing at the end."
            )
    cut = {camera: found[: len(positions)] for camera, found in views.items()}
    return dataclasses.replace(recording, views=cut)


def _union(
    one: Mapping[str, Mapping[str, Camera]], other: Mapping[str, Mapping[str, Camera]]
) -> dict[str, dict[str, Camera]]:
    cameras = {subject: dict(found) for subject, found in one.items()}
    for subject, found in other.items():
        of_subject = cameras.setdefault(subject, {})
        for name, camera in found.items():
            known = of_subject.setdefault(name, camera)
            if (known.width, known.height) != (camera.width, camera.height):
                raise UserError(
                    f"Camera {name} of {subject} has images of {known.width}x{known.height} in one "
                    f"file and of {camera.width}x{camera.height} in the other."
                )
            if _knowledge(camera) > _knowledge(known):
                of_subject[name] = camera
    return cameras


def _knowledge(camera: Camera) -> int:
    return (camera.focal is not None) + (camera.orientation is not None)
