"""A page on which poses can be turned, played and compared: one file of HTML, no network.

    python -m pose_jax.viewer poses.npz --video=clip.mp4 --truth=truth.npz --output=page.html

`page` is its text, `write` makes the file, and `show` puts it into a notebook's cell.
"""

import html
import json
from importlib import resources
from typing import Any, Literal

import numpy as np

from pose_jax.drawing.comparison import Align, compare
from pose_jax.drawing.stage import stage
from pose_jax.motion import Scene
from pose_jax.viewer import packed
from pose_jax.viewer.embedded_film import embed
from train_jax.errors import UserError

Theme = Literal["auto", "light", "dark"]
THEMES: tuple[Theme, ...] = ("auto", "light", "dark")

MEBIBYTE = 2**20


def page(
    scene: Scene,
    *,
    video: str | None = None,
    truth: Scene | None = None,
    title: str = "Poses",
    align: Align = "root",
    largest_error: float = 150.0,
    video_limit: float = 12.0,
    theme: Theme = "auto",
) -> str:
    """The page of a scene.

    Args:
        scene: people, and their keypoints.
        video: the film the scene was made of; a small copy becomes part of the page.
        truth: what was measured; errors are shown beside it.
        title: of the page.
        align: how poses are compared, see :data:`pose_jax.drawing.comparison.Align`.
        largest_error: mm; what is beyond has the last colour.
        video_limit: of the film in MiB; a film that cannot be made so small is left out.
        theme: "auto": that of the reader's system.

    Returns:
        HTML, for a file or an iframe.

    Raises:
        UserError: there is nobody in the scene, the truth is of another body, or there is no video
            to decode.
    """
    if not scene.people:
        raise UserError("There is nobody in this scene; nothing can be shown.")
    frames = max(len(person.poses) for person in scene.people)
    film, note = None, ""
    if video is not None:
        limit = int(video_limit * MEBIBYTE)
        film, note = embed(video, scene.frames_per_second, frames, limit)
    data = {
        "title": title,
        "fps": scene.frames_per_second,
        "frames": frames,
        "layout": packed.skeleton(scene.layout),
        "truth_layout": packed.skeleton(truth.layout) if truth is not None else None,
        "keypoint_layout": packed.skeleton(scene.keypoint_layout),
        "size": scene.size,
        "video": film,
        "video_note": note,
        "azimuth": -70,
        "elevation": 14,
        "largest_error": largest_error,
        "colours": packed.colours(),
        "error_colours": packed.error_colours(),
        **_people(scene, truth, align, frames),
    }
    return _filled(
        {
            "theme": html.escape(theme),
            "title": html.escape(title),
            "style": _source("viewer.css"),
            # Inside a script, "<" could end it: names come from files.
            "scene": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
            "three": _source("three.min.js"),
            "program": _source("viewer.js"),
        }
    )


def write(scene: Scene, path: str, **options: Any) -> int:
    """Writes the page of a scene.

    Args:
        scene: see `page`.
        path: of the file.
        **options: those of `page`.

    Returns:
        Its size in bytes.

    Raises:
        UserError: see `page`; or the file cannot be written.
    """
    content = page(scene, **options).encode()
    try:
        with open(path, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error
    return len(content)


def show(scene: Scene, *, height: int = 620, **options: Any) -> Any:
    """The page of a scene as the output of a notebook's cell.

    Args:
        scene: see `page`.
        height: of the output, pixels.
        **options: those of `page`.

    Returns:
        What IPython displays.

    Raises:
        UserError: see `page`.
    """
    from IPython.display import HTML

    content = html.escape(page(scene, **options))
    style = f"width:100%;height:{int(height)}px;border:0;border-radius:10px"
    # IPython takes every text that begins with a frame for a mistake.
    return HTML(f'<div><iframe srcdoc="{content}" style="{style}" allowfullscreen></iframe></div>')


def _people(scene: Scene, truth: Scene | None, align: Align, frames: int) -> dict[str, Any]:
    compared = compare(scene, truth, align)
    # 16 bits hold pixels to a quarter on frames of up to 8,000 pixels.
    unit = max(0.25, max(scene.size or (0,)) / 16_000)
    people, poses = [], []
    for person, other in zip(scene.people, compared, strict=True):
        missing = frames - len(person.poses)
        poses.append(np.pad(person.poses, ((0, missing), (0, 0), (0, 0)), constant_values=np.nan))
        one: dict[str, Any] = {"name": person.name, "poses": packed.places(person.poses)}
        if other is not None:
            one["truth"] = packed.places(other.poses)
            one["errors"] = packed.errors(other.errors)
        if person.keypoints is not None and scene.keypoint_layout is not None:
            one["keypoints"] = packed.keypoints(person.keypoints, unit)
            if person.confidence is not None:
                one["confidence"] = packed.confidences(person.confidence)
        people.append(one)
    centres = stage(poses, scene.frames_per_second).centres
    return {"people": people, "keypoint_unit": unit, "centres": packed.text(centres, "<f4")}


def _filled(parts: dict[str, str]) -> str:
    """The page with its parts; what stands in one is not looked at again."""
    text = _source("page.html")
    pieces = []
    for name, part in parts.items():
        before, text = text.split(f"@{name}@", 1)
        pieces += [before, part]
    return "".join([*pieces, text])


def _source(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
