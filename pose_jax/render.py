"""Draws poses as a video: what was filmed with its keypoints, beside the people in 3D.

    python -m pose_jax.render poses.npz --video=clip.mp4 --output=out.mp4
    python -m pose_jax.render poses.npz --truth=truth.npz --output=out.mp4
    python -m pose_jax.render poses.npz --frame=120 --output=out.png

POSES is a file of `python -m pose_jax.video` or of `python -m pose_jax.predict`. Left limbs are
blue, right ones orange, trunks in the colour of their person. Measured poses (--truth) are drawn in
grey over the predicted ones, or beside them. A frame is drawn and encoded before the next is read,
so that memory does not grow with the length of the video.
"""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
from absl import flags

from pose_jax import motion
from pose_jax.drawing import film, lettering
from pose_jax.drawing.bones import bones, side
from pose_jax.drawing.comparison import ALIGNS, Align, compare, mean_error
from pose_jax.drawing.figure import Figure, draw_figures, draw_floor
from pose_jax.drawing.overlay import draw_overlay
from pose_jax.drawing.palette import THEMES, Colour, Theme, error_colour
from pose_jax.drawing.perspective import View
from pose_jax.drawing.stage import Stage, stage
from pose_jax.motion import Scene
from train_jax import command_line
from train_jax.errors import UserError

#: Pixels: the strip above the panels, and the space around what is written into them.
_STRIP, _SPACE = 44, 16
_LABELS = {"over": "Prediction and ground truth", "beside": "Prediction"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How a scene is shown.

    Attributes:
        azimuth: where the spectator stands around the people, degrees from the x axis towards y.
        elevation: how high, degrees.
        theme: "light" or "dark".
        compare: whether measured poses are "over" the predicted ones or "beside" them.
        align: see :data:`pose_jax.drawing.comparison.Align`.
        errors: colours predicted joints by their error.
        largest_error: mm; what is beyond has the last colour.
        width: of the picture, pixels.
        height: of the picture, at most.
        title: written above it.
    """

    azimuth: float = -70.0
    elevation: float = 14.0
    theme: Literal["light", "dark"] = "light"
    compare: Literal["over", "beside"] = "over"
    align: Align = "root"
    errors: bool = False
    largest_error: float = 150.0
    width: int = 1280
    height: int = 720
    title: str = ""


def write(
    scene: Scene,
    path: str,
    *,
    video: str | None = None,
    truth: Scene | None = None,
    look: Look | None = None,
) -> int:
    """Writes a scene as an mp4, in the scene's frame rate.

    Args:
        scene: people and their keypoints.
        path: of the file.
        video: the film the scene was made of.
        truth: what was measured.
        look: how it is shown.

    Returns:
        How many frames there are.

    Raises:
        UserError: the video cannot be read or the file not be written.
    """
    picture = Picture(scene, video=video, truth=truth, look=look or Look())
    with film.encoder(path, scene.frames_per_second, picture.size) as add:
        for image in picture.frames():
            add(image)
    return picture.num_frames


def write_frame(
    scene: Scene,
    path: str,
    frame: int,
    *,
    video: str | None = None,
    truth: Scene | None = None,
    look: Look | None = None,
) -> None:
    """Writes one frame of a scene as a picture; its file name says the format (.png, .jpg).

    Raises:
        UserError: there is no such frame, the video cannot be read, the file not be written.
    """
    picture = Picture(scene, video=video, truth=truth, look=look or Look())
    if not 0 <= frame < picture.num_frames:
        raise UserError(f"There is no frame {frame}; give one of 0 to {picture.num_frames - 1}.")
    shown = None
    if video is not None:
        for i, image in enumerate(picture.film()):
            if i == frame:
                shown = image
                break
    try:
        written = cv2.imwrite(path, picture.draw(frame, shown))
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"{path} cannot be written; give a file name that ends in .png or .jpg.")


@dataclasses.dataclass(frozen=True)
class _Box:
    x: int
    y: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


class Picture:
    """Frames of a scene, drawn one at a time.

    Attributes:
        size: (width, height) of a frame, even numbers.
        num_frames: how many there are.
    """

    def __init__(self, scene: Scene, *, video: str | None, truth: Scene | None, look: Look) -> None:
        if not scene.people:
            raise UserError("There is nobody in this scene; nothing can be drawn.")
        self._scene, self._video, self._look = scene, video, look
        self._theme: Theme = THEMES[look.theme]
        self._compared = compare(scene, truth, look.align)
        self._truth = truth
        self.num_frames = max(len(person.poses) for person in scene.people)
        self._film_box, self._boxes = self._places()
        last = self._boxes[-1]
        self.size = (_even(last.x + last.width), _even(last.y + last.height))
        self._stage = self._set_stage()
        self._extent = self._stage.extent
        first = self._boxes[0]
        self._distance = self._stage.distance(
            first.width, first.height, look.azimuth, look.elevation
        )
        self._blank = self._background()

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 (height, width, 3) BGR, one after the other."""
        film_frames = self.film()
        for i in range(self.num_frames):
            yield self.draw(i, next(film_frames))

    def film(self) -> Iterator[np.ndarray | None]:
        """What the video shows at every frame, as large as it is drawn; None without."""
        if self._video is None or self._film_box is None:
            while True:
                yield None
        box = self._film_box
        rate = self._scene.frames_per_second
        yield from film.frames_at(self._video, rate, (box.width, box.height))

    def draw(self, frame: int, filmed: np.ndarray | None) -> np.ndarray:
        """One frame.

        Args:
            frame: which.
            filmed: what `film` gave for it.

        Returns:
            uint8 (height, width, 3), BGR.
        """
        image = self._blank.copy()
        if self._film_box is not None:
            panel = self._film_box.of(image)
            if filmed is not None:
                panel[:] = filmed
            draw_overlay(panel, self._scene, frame)
        self._draw_world(image, frame)
        time = f"{frame / self._scene.frames_per_second:.2f} s"
        at = (self.size[0] - _SPACE, 28)
        lettering.write(image, time, at, self._theme.quiet, size=16, anchor="right")
        return image

    def _places(self) -> tuple[_Box | None, list[_Box]]:
        """Where the film and the views of the world are."""
        look, size = self._look, self._scene.size
        if self._video is not None:
            size = film.upright_size(self._video)
        beside = look.compare == "beside" and self._truth is not None
        has_film = self._video is not None or (
            size is not None and any(p.keypoints is not None for p in self._scene.people)
        )
        full = look.height - _STRIP
        if not has_film or size is None:
            x, box, high = 0, None, full
        else:
            ratio = size[0] / size[1]
            share = 0.46 if beside else 0.6
            high = min(full, round(share * look.width / ratio))
            x = _even(round(high * ratio))
            box = _Box(0, _STRIP, x, _even(high))
        high = _even(high)
        count = 2 if beside else 1
        each = (look.width - x) // count
        return box, [_Box(x + i * each, _STRIP, each, high) for i in range(count)]

    def _set_stage(self) -> Stage:
        poses = [_padded(person.poses, self.num_frames) for person in self._scene.people]
        poses += [_padded(one.poses, self.num_frames) for one in self._compared if one is not None]
        return stage(poses, self._scene.frames_per_second)

    def _background(self) -> np.ndarray:
        theme, look = self._theme, self._look
        image = np.empty((self.size[1], self.size[0], 3), np.uint8)
        image[:] = theme.page
        lettering.write(image, look.title, (_SPACE, 29), theme.text, size=19, weight=600)
        if self._film_box is not None:
            self._film_box.of(image)[:] = 24
        return image

    def _draw_world(self, image: np.ndarray, frame: int) -> None:
        scene, look, theme = self._scene, self._look, self._theme
        first = self._boxes[0]
        view = View(
            self._stage.centres[frame], self._distance, look.azimuth, look.elevation,
            first.width, first.height,
        )  # fmt: skip
        blank = first.of(image)
        draw_floor(blank, view, theme, self._extent)
        for box in self._boxes[1:]:
            box.of(image)[:] = blank
        figures, measured, labels = [], [], []
        for i, (person, compared) in enumerate(zip(scene.people, self._compared, strict=True)):
            if frame >= len(person.poses):
                continue
            errors = compared.errors[frame] if compared is not None and look.errors else None
            figures.append(self._figure(person.poses[frame], i, errors))
            labels.append((person.name, person.poses[frame], theme.people[i % len(theme.people)]))
            if compared is not None:
                measured.append(self._measured(compared.poses[frame]))
        if len(self._boxes) == 1:
            figures += measured
        else:
            draw_figures(self._boxes[1].of(image), view, theme, measured)
        panel = first.of(image)
        draw_figures(panel, view, theme, figures)
        if len(scene.people) > 1:
            for name, pose, colour in labels:
                pixels, _ = view.place(pose)
                if np.isfinite(pixels).all(axis=1).any():
                    top = pixels[np.nanargmin(pixels[:, 1])]
                    at = (float(np.nanmean(pixels[:, 0])), float(top[1]) - 18)
                    lettering.write(panel, name, at, colour, size=15, weight=600, anchor="middle")
        self._annotate(image, frame)

    def _figure(self, pose: np.ndarray, person: int, errors: np.ndarray | None) -> Figure:
        layout, theme = self._scene.layout, self._theme
        pairs = bones(layout)
        if errors is None:
            middle = theme.people[person % len(theme.people)]
            colours: dict[str, Colour] = {
                "left": theme.left, "right": theme.right, "middle": middle
            }  # fmt: skip
            limbs = [colours[side(layout, a, b)] for a, b in pairs]
            joints = [colours[side(layout, i)] for i in range(layout.num_joints)]
        else:
            joints = [self._error(error) for error in errors]
            limbs = [self._error(np.mean([errors[a], errors[b]])) for a, b in pairs]
        return Figure(pose, pairs, limbs, joints)

    def _error(self, error: Any) -> Colour:
        if not np.isfinite(error):
            return self._theme.truth
        return error_colour(float(error) / self._look.largest_error)

    def _measured(self, pose: np.ndarray) -> Figure:
        assert self._truth is not None
        layout, theme = self._truth.layout, self._theme
        pairs = bones(layout)
        if len(self._boxes) == 1:
            grey = theme.truth
            return Figure(pose, pairs, [grey] * len(pairs), [grey] * len(pose), 0.5, False)
        colours = {"left": theme.left, "right": theme.right, "middle": theme.truth}
        limbs = [colours[side(layout, a, b)] for a, b in pairs]
        return Figure(pose, pairs, limbs, [colours[side(layout, i)] for i in range(len(pose))])

    def _annotate(self, image: np.ndarray, frame: int) -> None:
        """What the panels show, the colours, and how large the error is."""
        theme, first = self._theme, self._boxes[0]
        has_truth = any(one is not None for one in self._compared)
        words = [_LABELS[self._look.compare] if has_truth else "3D", "Ground truth"]
        for box, text in zip(self._boxes, words, strict=False):
            at = (box.x + _SPACE, box.y + 22)
            lettering.write(image, text, at, theme.quiet, size=15)
        if has_truth:
            known = [one.errors[frame] for one in self._compared
                     if one is not None and frame < len(one.errors)]  # fmt: skip
            error = mean_error(np.concatenate(known)) if known else np.nan
            text = f"Mean error {error:.1f} mm" if np.isfinite(error) else "No ground truth here"
            at = (first.x + first.width - _SPACE, first.y + 22)
            lettering.write(image, text, at, theme.text, size=15, weight=600, anchor="right")
        y = first.y + first.height - _SPACE
        if has_truth and self._look.errors:
            self._colour_bar(image, first.x + _SPACE, y)
            return
        x = first.x + _SPACE
        entries = [("Left", theme.left), ("Right", theme.right)]
        if has_truth and len(self._boxes) == 1:
            entries.append(("Ground truth", theme.truth))
        for text, colour in entries:
            cv2.circle(image, (x + 5, y - 5), 5, colour, -1, cv2.LINE_AA)
            lettering.write(image, text, (x + 17, y), theme.quiet, size=14)
            x += 17 + lettering.width(text, 14) + 18

    def _colour_bar(self, image: np.ndarray, x: int, y: int) -> None:
        width, theme, largest = 180, self._theme, self._look.largest_error
        for i in range(width):
            image[y - 28 : y - 18, x + i] = error_colour(i / (width - 1))
        for share, anchor in ((0.0, "left"), (0.5, "middle"), (1.0, "right")):
            text = f"{share * largest:.0f}" + (" mm" if share == 1 else "")
            at = (x + share * width, y)
            lettering.write(image, text, at, theme.quiet, size=13, anchor=anchor)


def _even(value: int) -> int:
    """H.264 in 4:2:0 halves both sides."""
    return value // 2 * 2


def _padded(poses: np.ndarray, frames: int) -> np.ndarray:
    if len(poses) == frames:
        return poses
    rest = np.full((frames - len(poses), *poses.shape[1:]), np.nan, poses.dtype)
    return np.concatenate([poses, rest])


def _command() -> None:
    (poses,) = command_line.parse(sys.argv, __doc__ or "", arguments=("POSES",))
    given = flags.FLAGS
    if not given.output:
        raise UserError("--output must be given; name a file to write, such as out.mp4.")
    scene = motion.read(poses)
    look = Look(
        azimuth=given.azimuth, elevation=given.elevation, theme=given.theme, compare=given.compare,
        align=given.align, errors=given.errors, largest_error=given.largest_error,
        width=given.width, height=given.height, title=given.title,
    )  # fmt: skip
    sources: dict[str, Any] = {
        "video": given.video,
        "truth": motion.read(given.truth) if given.truth else None,
        "look": look,
    }
    if given.frame is not None:
        write_frame(scene, given.output, given.frame, **sources)
        sys.stdout.write(f"Frame {given.frame}: {given.output}\n")
    else:
        frames = write(scene, given.output, **sources)
        sys.stdout.write(f"{frames:,} frames: {given.output}\n")


def _define_flags() -> None:
    """Not on import, because other commands have flags of the same names."""
    plain = Look()
    flags.DEFINE_string("output", None, "The .mp4 to write, or with --frame the .png.")
    flags.DEFINE_string("video", None, "The film that the poses were found in.")
    flags.DEFINE_string("truth", None, "Measured poses, a file like POSES.")
    flags.DEFINE_integer("frame", None, "Draw only this frame, as a picture; 0 is the first.")
    flags.DEFINE_string("title", plain.title, "Written above the picture.")
    flags.DEFINE_float(
        "azimuth", plain.azimuth, "Where to look from, degrees around the people from the x axis."
    )
    flags.DEFINE_float("elevation", plain.elevation, "From how high, degrees; 0 to 90.", 0, 90)
    flags.DEFINE_enum("theme", plain.theme, list(THEMES), "Colours of the picture.")
    flags.DEFINE_enum(
        "compare", plain.compare, ["over", "beside"], "Where measured poses are drawn."
    )
    flags.DEFINE_enum(
        "align",
        plain.align,
        list(ALIGNS),
        "Whether poses are compared with their roots at one place, or where they stand.",
    )
    flags.DEFINE_bool("errors", plain.errors, "Colour joints by their error.")
    flags.DEFINE_float(
        "largest_error", plain.largest_error, "Error of the last colour, mm.", lower_bound=1
    )
    flags.DEFINE_integer("width", plain.width, "Pixels.", lower_bound=320, upper_bound=7680)
    flags.DEFINE_integer("height", plain.height, "Pixels, at most.", 240, 4320)


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(_command))
