"""Human3.6M: subjects, actions, cameras (C. Ionescu et al., "Human3.6M", TPAMI 2014).

The protocol is that of the video-pose literature: five subjects to train on, two to test on, all
four cameras, every frame. Recordings are licensed; these are their published calibration and their
conventions.
"""

import dataclasses
import types
from collections.abc import Mapping

from pose_jax.cameras import Camera
from train_jax.errors import UserError

#: Frames per second of poses and videos.
FPS = 50.0

SUBJECTS_TRAIN = ("S1", "S5", "S6", "S7", "S8")
SUBJECTS_TEST = ("S9", "S11")
#: Their videos are public, their poses are not: keypoints for training without labels.
SUBJECTS_UNLABELLED = ("S2", "S3", "S4")

#: In the order of the literature's tables. Every subject performs each twice.
ACTIONS = (
    "Directions",
    "Discussion",
    "Eating",
    "Greeting",
    "Phoning",
    "Photo",
    "Posing",
    "Purchases",
    "Sitting",
    "SittingDown",
    "Smoking",
    "Waiting",
    "WalkDog",
    "Walking",
    "WalkTogether",
)

#: Actions whose files have another name than the literature uses.
RAW_NAMES: Mapping[str, str] = types.MappingProxyType(
    {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
)

#: (subject, recording) whose poses are corrupt. The subject's other take of the action is good.
DROPPED = (("S11", "Directions"),)

#: The lenses, the same for all subjects, in the order in which the literature numbers the cameras.
CAMERAS = (
    Camera(
        "54138969",
        width=1000,
        height=1002,
        focal=(1145.0494, 1143.7811),
        center=(512.5415, 515.4515),
        radial=(-0.20709892, 0.24777518, -0.0030751503),
        tangential=(-0.0009756989, -0.0014244716),
    ),
    Camera(
        "55011271",
        width=1000,
        height=1000,
        focal=(1149.6757, 1147.5917),
        center=(508.84863, 508.0649),
        radial=(-0.19421363, 0.24040854, 0.0068199756),
        tangential=(-0.0016190266, -0.0027408944),
    ),
    Camera(
        "58860488",
        width=1000,
        height=1000,
        focal=(1149.1407, 1148.799),
        center=(519.81586, 501.40265),
        radial=(-0.20833819, 0.255488, -0.0024604974),
        tangential=(0.001484387, -0.0007599993),
    ),
    Camera(
        "60457274",
        width=1000,
        height=1002,
        focal=(1145.5114, 1144.7739),
        center=(514.9682, 501.88202),
        radial=(-0.19838409, 0.21832368, -0.008947807),
        tangential=(-0.0005872056, -0.001813362),
    ),
)

Extrinsics = tuple[tuple[float, float, float, float], tuple[float, float, float]]

#: (orientation, translation) as in `Camera` of each camera in the order of `CAMERAS`, by subject:
#: the cameras were moved a little between recordings. Translations are metres.
EXTRINSICS: Mapping[str, tuple[Extrinsics, ...]] = types.MappingProxyType(
    {
        "S1": (
            ((0.14070565, -0.15007018, -0.7552408, 0.62232804), (1.841107, 4.9552847, 1.5634454)),
            ((0.6157188, -0.7648363, -0.14833826, 0.11794741), (1.7612786, -5.078007, 1.606265)),
            (
                (0.14651473, -0.14647852, 0.76530236, -0.60941756),
                (-1.8467777, 5.2150464, 1.4919724),
            ),
            ((0.58340085, -0.7853162, 0.14548823, -0.14749594), (-1.7947897, -3.722699, 1.5748927)),
        ),
        "S5": (
            ((0.14673772, -0.16237096, -0.7551893, 0.6178939), (2.0973916, 4.880945, 1.6057324)),
            ((0.61597586, -0.7626792, -0.15728192, 0.1189815), (2.0317008, -5.167933, 1.6129231)),
            ((0.14291371, -0.12907842, 0.7678385, -0.6110143), (-1.6205948, 5.1716587, 1.496437)),
            ((0.592048, -0.7814218, 0.12747486, -0.15036418), (-1.6371737, -3.8673174, 1.5470332)),
        ),
        "S6": (
            ((0.13378978, -0.15692396, -0.75710905, 0.61988795), (1.9354518, 4.9502456, 1.6180839)),
            ((0.61471975, -0.7628813, -0.16174768, 0.11819245), (1.969804, -5.128739, 1.6327788)),
            ((0.15299481, -0.13529131, 0.76460963, -0.6112781), (-1.7695964, 5.1853613, 1.4769934)),
            ((0.59161013, -0.7804774, 0.1283227, -0.15615939), (-1.7216687, -3.8841313, 1.5404879)),
        ),
        "S7": (
            ((0.14352418, -0.16313368, -0.75483286, 0.6188825), (1.974513, 4.9263545, 1.5978326)),
            ((0.6141673, -0.76382625, -0.15966456, 0.117792994), (1.9370585, -5.11979, 1.6315665)),
            ((0.1455006, -0.12874816, 0.76605165, -0.61271393), (-1.7418112, 5.2082495, 1.4648246)),
            ((0.5912848, -0.78217643, 0.12445474, -0.15196487), (-1.7347106, -3.8324214, 1.548583)),
        ),
        "S8": (
            ((0.14110588, -0.15589868, -0.75619173, 0.61964405), (2.1506519, 4.896161, 1.6119047)),
            ((0.61696017, -0.7647668, -0.1484635, 0.11158158), (2.2199656, -5.148453, 1.6130441)),
            ((0.1471444, -0.1337712, 0.76701283, -0.61003697), (-1.5712216, 5.1370186, 1.4981761)),
            (
                (0.59278244, -0.78258705, 0.12147816, -0.14631996),
                (-1.4769133, -3.8967412, 1.5479722),
            ),
        ),
        "S9": (
            ((0.15540588, -0.15548216, -0.75320953, 0.6199595), (2.0444585, 4.935117, 1.4812275)),
            ((0.6187845, -0.7634735, -0.14132239, 0.11933968), (1.9909597, -5.1238105, 1.5688048)),
            ((0.13357827, -0.13671005, 0.76894546, -0.61007386), (-1.6709922, 5.211986, 1.528388)),
            ((0.5879399, -0.7823407, 0.14276144, -0.1479487), (-1.6960435, -3.8270999, 1.5914127)),
        ),
        "S11": (
            ((0.15232472, -0.1544232, -0.75475633, 0.619107), (2.0984402, 4.9265547, 1.5002786)),
            ((0.61894494, -0.7600917, -0.15300633, 0.12552583), (2.0831824, -4.912173, 1.5610786)),
            ((0.14943229, -0.15650228, 0.7681234, -0.60263044), (-1.6098153, 5.177336, 1.5378967)),
            ((0.58942515, -0.7818877, 0.13991211, -0.14715362), (-1.590738, -3.854169, 1.5780176)),
        ),
    }
)


def cameras(subject: str) -> dict[str, Camera]:
    """The four cameras that recorded a subject, by name and in order.

    Those of `SUBJECTS_UNLABELLED` have a lens but no place: without poses it is of no use.

    Raises:
        UserError: Human3.6M has no such subject with public videos.
    """
    if subject in SUBJECTS_UNLABELLED:
        return {camera.name: camera for camera in CAMERAS}
    if subject not in EXTRINSICS:
        known = ", ".join((*SUBJECTS_TRAIN, *SUBJECTS_TEST, *SUBJECTS_UNLABELLED))
        raise UserError(f"Human3.6M has no subject {subject!r} to use; give one of {known}.")
    return {
        camera.name: dataclasses.replace(camera, orientation=orientation, translation=translation)
        for camera, (orientation, translation) in zip(CAMERAS, EXTRINSICS[subject], strict=True)
    }


def recording_name(raw: str) -> str:
    """The literature's name of a recording from that of its file: WalkingDog 1 is WalkDog 1."""
    action, *take = raw.split(" ", 1)
    return " ".join((RAW_NAMES.get(action, action), *take))


def action_of(recording: str) -> str:
    """The action of a recording, its first word: that of Walking 1 is Walking, and not WalkDog.

    Raises:
        UserError: the name is empty.
    """
    words = recording.split()
    if not words:
        raise UserError("A recording has an empty name; name it by its action, such as Walking 1.")
    return words[0]
