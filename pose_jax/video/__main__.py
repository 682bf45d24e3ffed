"""From a video to the 3D motion of the people in it.

    python -m pose_jax.video clip.mp4 --output=out/
    python -m pose_jax.video clip.mp4 --output=out/ --smooth --person=2 --checkpoint=DIR
    python -m pose_jax.video clip.mp4 --output=out/ --keypoints=detections.json --layout=coco17
    python -m pose_jax.video - < stream.ts          (a pipe: JSON lines, pose after pose)
    python -m pose_jax.video --camera=0

It writes poses.npz (see pose_jax/motion.py), poses.json, poses.csv, a .bvh per person, poses.mp4
and page.html. People and keypoints are found by BlazePose (pip install -e '.[video]'), whose models
are fetched once from the package index; keypoints of any other detector are read from a file of the
kinds that `python -m pose_jax.prepare custom --help` lists. A small lifter comes with the package;
--checkpoint names another (published weights after python -m pose_jax.convert).

Poses are in metres, z up. The camera is taken to be level: how it is pitched cannot be known from a
video, nor its field of view (--fov). Everybody's feet are put on the floor at 0.
"""

import json
import sys

from absl import flags, logging

from pose_jax.lifter import Lifter, load_lifter
from pose_jax.video import packaged, pipeline, stream
from train_jax import command_line, process
from train_jax.errors import UserError


def _command() -> None:
    live = any(word.startswith(("--camera", "-camera")) for word in sys.argv[1:])
    rest = command_line.parse(sys.argv, __doc__ or "", arguments=() if live else ("VIDEO",))
    given = flags.FLAGS
    process.set_up()
    logging.set_verbosity(logging.WARNING)
    if given.smooth and (live or rest == ["-"]):
        raise UserError("--smooth needs the whole video; leave it out for a pipe or a camera.")
    if live or rest == ["-"]:
        for line in stream.lines(
            camera=given.camera,
            lifter=_lifter(given.checkpoint),
            blazepose=given.blazepose,
            field_of_view=given.fov,
        ):
            sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
            sys.stdout.flush()
        return
    if not given.output:
        raise UserError("Give --output=DIRECTORY, where the results go.")
    report = pipeline.run(
        rest[0],
        given.output,
        lifter=_lifter(given.checkpoint),
        options=pipeline.Options(
            keypoints=given.keypoints,
            layout=given.layout,
            person=given.person,
            smooth=given.smooth,
            flip=given.flip,
            field_of_view=given.fov,
            blazepose=given.blazepose,
            detect_every=given.detect_every,
            frames=given.frames,
            render=given.render,
            page=given.page,
        ),
    )
    sys.stdout.write(f"{report}\n")


def _lifter(checkpoint: str | None) -> Lifter:
    return packaged.load() if checkpoint is None else load_lifter(checkpoint)


def _define_flags() -> None:
    flags.DEFINE_string("output", None, "Directory for the results; made if it is not there.")
    flags.DEFINE_string("checkpoint", None, "A lifter; the packaged one unless given.")
    flags.DEFINE_string("keypoints", None, "A detector's file, instead of running BlazePose.")
    flags.DEFINE_string("layout", None, "Of those keypoints: coco17, openpose25, ...")
    flags.DEFINE_integer("person", None, "Only this person: 1 is the first that appears.")
    flags.DEFINE_bool("smooth", False, "Smooth the poses (One Euro filter).")
    flags.DEFINE_bool("flip", True, "Average with the pose of the mirror image.")
    flags.DEFINE_float("fov", 60.0, "The camera's field of view along the longer side, degrees.")
    flags.DEFINE_string("blazepose", None, "Directory of its two .tflite files, or a wheel.")
    flags.DEFINE_integer("detect_every", 15, "Frames after which new people are looked for.")
    flags.DEFINE_integer("frames", None, "Stop after so many frames of the model's rate.")
    flags.DEFINE_integer("camera", None, "Number of a camera to read instead of a file.")
    flags.DEFINE_bool("render", True, "Write poses.mp4.")
    flags.DEFINE_bool("page", True, "Write page.html.")


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(_command))
