"""Poses as a video."""

import dataclasses
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pose_jax import motion, render
from pose_jax.drawing import film as films
from pose_jax.drawing.palette import LIGHT
from pose_jax.motion import Person, Scene
from pose_jax.render import Look
from pose_jax.skeletons import layout
from tests import commands
from tests.scenes import STANDING, film, scene
from train_jax.errors import UserError

SMALL = Look(width=480, height=300)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def near(image: np.ndarray, colour: tuple[int, int, int], within: int = 24) -> np.ndarray:
    away = np.abs(image.astype(int) - np.array(colour))
    return away.max(axis=-1) <= within


def test_a_film_beside_its_poses(tmp_path):
    """Every frame shows the film's frame of its time, and people; rates may differ."""
    greys = [40, 70, 100, 130, 160, 190]
    video = film(tmp_path / "in.mp4", greys, rate=15)
    bare = dataclasses.replace(scene(frames=12), keypoint_layout=None)
    assert render.write(bare, str(tmp_path / "out.mp4"), video=video, look=SMALL) == 12
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == 30
        assert container.streams.video[0].codec_context.name == "h264"
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 12
    for i, frame in enumerate(frames):
        assert abs(float(frame[150:190, 180:270].mean()) - greys[i // 2]) < 4, i
        assert near(frame[44:, 300:], LIGHT.left, 40).sum() > 30
        assert near(frame[44:, 300:], LIGHT.right, 40).sum() > 30


def test_after_the_end_of_the_film(tmp_path):
    video = film(tmp_path / "in.mp4", [200] * 4)
    shown = films.frames_at(video, 30.0, (32, 18))
    means = [
        None if image is None else image[-1, -1, 0] for image in (next(shown) for _ in range(9))
    ]
    assert all(value is not None and value > 190 for value in means[:4])
    assert means[-2:] == [None, None]


def test_upright(tmp_path):
    """A telephone's film lies on its side, with a note of how to turn it."""
    path = Path(film(tmp_path / "in.mp4", [200] * 3, size=(320, 180)))
    content = path.read_bytes()
    # The matrix in the track's header: the identity becomes a quarter turn clockwise.
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 180 << 16, 0, 1 << 30], ">i4").tobytes()
    track = content.index(b"tkhd")
    at = content.index(identity, track)
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])
    assert films.upright_size(str(path)) == (180, 320)
    image = next(films.frames_at(str(path), 30.0, (90, 160)))
    assert image is not None
    assert image.shape == (160, 90, 3)
    # What was at the upper left is now at the upper right.
    assert image[:60, 60:].mean() < 20
    assert image[:60, :30].mean() > 180


def test_left_is_blue_and_right_is_orange(tmp_path):
    """The person looks away from us, from -y: left, at positive x, is on our right."""
    bare = scene(frames=1, size=None)
    look = Look(width=480, height=480, azimuth=-90, elevation=0)
    render.write_frame(bare, str(tmp_path / "out.png"), 0, look=look)
    image = cv2.imread(str(tmp_path / "out.png"))
    assert image is not None
    left, right = near(image[60:420], LIGHT.left), near(image[60:420], LIGHT.right)
    assert left[:, 240:].sum() > 300
    assert left[:, :235].sum() == 0
    assert right[:, :240].sum() > 300
    assert right[:, 245:].sum() == 0


def test_who_is_not_seen_is_not_drawn():
    (person,) = scene(frames=3, size=None).people
    poses = person.poses.copy()
    poses[1] = np.nan
    poses[2, 11:14] = np.nan  # the left arm
    gaps = dataclasses.replace(scene(frames=3, size=None), people=(Person("Ann", poses),))
    picture = render.Picture(gaps, video=None, truth=None, look=SMALL)
    blue = [near(image[60:260], LIGHT.left).sum() for image in picture.frames()]
    assert blue[1] == 0
    assert 0 < blue[2] < 0.8 * blue[0]


def test_errors_are_coloured_and_told():
    bent = np.zeros((17, 3), np.float32)
    bent[13] = 0.4
    truth = dataclasses.replace(
        scene(size=None), people=(Person("Ann", scene().people[0].poses + bent),)
    )
    looks = [dataclasses.replace(SMALL, errors=errors) for errors in (False, True)]
    plain, coloured = (
        render.Picture(scene(size=None), video=None, truth=truth, look=look).draw(0, None)
        for look in looks
    )
    yellow = (0x25, 0xE7, 0xFD)
    assert near(plain[60:240], yellow).sum() == 0
    assert near(coloured[60:240], yellow).sum() > 5


def test_truth_beside_the_prediction():
    look = dataclasses.replace(SMALL, compare="beside")
    picture = render.Picture(scene(size=None), video=None, truth=scene(size=None), look=look)
    image = picture.draw(0, None)
    for half in (image[60:240, :240], image[60:240, 240:]):
        assert near(half, LIGHT.left).sum() > 50


@pytest.mark.parametrize("name", ["humaneva15", "blazepose33", "coco17", "h36m32"])
def test_other_layouts(name):
    body = layout(name)
    poses = np.random.default_rng(0).uniform(0, 1.5, (2, body.num_joints, 3)).astype(np.float32)
    other = Scene((Person("Ann", poses),), body, None, 25.0, None)
    picture = render.Picture(other, video=None, truth=None, look=SMALL)
    assert near(picture.draw(1, None)[60:260], LIGHT.left).sum() > 50


def test_frames_are_not_kept(monkeypatch):
    """A frame is drawn before the next one is decoded."""
    decoded = []

    def frames_at(*_):
        for i in range(100):
            decoded.append(i)
            yield None

    monkeypatch.setattr(films, "frames_at", frames_at)
    monkeypatch.setattr(films, "upright_size", lambda _: (320, 180))
    drawn = render.Picture(scene(frames=50), video="film", truth=None, look=SMALL).frames()
    for _ in range(3):
        next(drawn)
    assert len(decoded) == 3


def test_keypoints_are_where_they_were_found():
    """At the scale that the film is drawn in, also when there is no film."""
    picture = render.Picture(scene(frames=1), video=None, truth=None, look=Look())
    image = picture.draw(0, None)
    scale = 768 / 320
    x, y = 320 / 2 + 40 * STANDING[12, 0], 180 - 80 * STANDING[12, 2]
    patch = image[round(44 + scale * y) - 2 :, round(scale * x) - 2 :][:5, :5]
    assert (patch[..., 0] > patch[..., 2] + 60).any()  # blue


def test_mistakes(tmp_path):
    out = str(tmp_path / "out.mp4")
    with pytest.raises(UserError, match=r"There is no video none\.mp4"):
        render.write(scene(), out, video="none.mp4")
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(UserError, match=r"text.mp4 cannot be read as video"):
        render.write(scene(), out, video=str(tmp_path / "text.mp4"))
    with pytest.raises(UserError, match="There is no frame 12; give one of 0 to 11"):
        render.write_frame(scene(), out, 12)
    with pytest.raises(UserError, match=r"ends in .png or .jpg"):
        render.write_frame(scene(), str(tmp_path / "out.nonsense"), 0)


def test_command(tmp_path):
    motion.write(str(tmp_path / "poses.npz"), scene())
    poses, out = str(tmp_path / "poses.npz"), str(tmp_path / "out.mp4")
    small = ["--width=480", "--height=300"]
    run = commands.shared().run
    done = run("pose_jax.render", poses, f"--output={out}", f"--truth={poses}", *small)
    assert done.code == 0, done.stderr
    assert done.stdout == f"12 frames: {out}\n"
    assert len(frames_of(tmp_path / "out.mp4")) == 12
    done = run("pose_jax.render", poses)
    assert done.code == 2
    assert done.stderr == "Error: --output must be given; name a file to write, such as out.mp4.\n"


def test_nobody():
    empty = dataclasses.replace(scene(), people=())
    with pytest.raises(UserError, match="nobody"):
        render.Picture(empty, video=None, truth=None, look=SMALL)
