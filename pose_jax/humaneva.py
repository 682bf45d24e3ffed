"""HumanEva-I: subjects, actions, cameras (L. Sigal et al., "HumanEva", IJCV 2010).

The protocol is that of the video-pose literature: the training half of three subjects to train on,
their validation half to test on, the three colour cameras. The lenses' published model is not used:
poses are learnt from screen coordinates without projecting them back.
"""

import dataclasses
import types
from collections.abc import Mapping

from pose_jax.cameras import Camera
from train_jax.errors import UserError

#: Frames per second of poses and videos.
FPS = 60.0

SUBJECTS_TRAIN = ("Train/S1", "Train/S2", "Train/S3")
SUBJECTS_TEST = ("Validate/S1", "Validate/S2", "Validate/S3")

#: The actions that the literature evaluates; its tables call the first Walk.
ACTIONS = ("Walking", "Jog", "Box")

#: In order; the same image for all.
CAMERAS = tuple(Camera(name, width=640, height=480) for name in ("C1", "C2", "C3"))

Extrinsics = tuple[tuple[float, float, float, float], tuple[float, float, float]]

_DAY_OF_S1_AND_S3: tuple[Extrinsics, ...] = (
    ((0.424207, -0.4983646, -0.5802981, 0.4847012), (4.062227, 0.6632477, 1.528397)),
    ((0.6503354, -0.7481602, -0.0919284, 0.0941766), (0.8448131, -3.8052092, 1.5049929)),
    ((0.0664734, -0.0690535, 0.7416416, -0.6639132), (-0.7976738, 3.9163174, 1.4336602)),
)

#: (orientation, translation) as in `Camera` of each camera in the order of `CAMERAS`, by subject.
EXTRINSICS: Mapping[str, tuple[Extrinsics, ...]] = types.MappingProxyType(
    {
        "S1": _DAY_OF_S1_AND_S3,
        "S2": (
            ((0.4214752, -0.4961493, -0.5838273, 0.4851187), (4.1129121, 0.6264929, 1.5452988)),
            ((0.6501393, -0.7476588, -0.0954617, 0.0959808), (0.923574, -3.8779243, 1.5045518)),
            ((0.0699353, -0.0712403, 0.7421637, -0.662742), (-0.7814915, 3.8388853, 1.4449929)),
        ),
        "S3": _DAY_OF_S1_AND_S3,
    }
)


def cameras(subject: str) -> dict[str, Camera]:
    """The three cameras that recorded a subject, by name and in order.

    Args:
        subject: S1 to S4, or a part of the data of one, such as Validate/S1 or Unlabeled/Train/S1.
            It is not known where the cameras stood for S4.

    Raises:
        UserError: HumanEva has no such subject.
    """
    person = subject.rsplit("/", 1)[-1]
    if person == "S4":
        return {camera.name: camera for camera in CAMERAS}
    if person not in EXTRINSICS:
        raise UserError(f"HumanEva has no subject {subject!r}; give S1 to S4, or Validate/S1.")
    return {
        camera.name: dataclasses.replace(camera, orientation=orientation, translation=translation)
        for camera, (orientation, translation) in zip(CAMERAS, EXTRINSICS[person], strict=True)
    }
