"""Small scenes of people who swing their arms, and films of known grey."""

from pathlib import Path

import av
import numpy as np

from pose_jax.motion import Person, Scene
from pose_jax.skeletons import layout

#: A standing person, metres; the layout is h36m17. The left side is at positive x.
STANDING = np.array(
    [
        *([0, 0, 0.95], [-0.13, 0, 0.95], [-0.13, 0, 0.5], [-0.13, 0, 0.06]),
        *([0.13, 0, 0.95], [0.13, 0, 0.5], [0.13, 0, 0.06]),
        *([0, 0, 1.2], [0, 0, 1.45], [0, 0, 1.58], [0, 0, 1.7]),
        *([0.16, 0, 1.42], [0.3, 0, 1.2], [0.4, 0, 1.0]),
        *([-0.16, 0, 1.42], [-0.3, 0, 1.2], [-0.4, 0, 1.0]),
    ],
    np.float32,
)


def scene(
    people: int = 1,
    frames: int = 12,
    rate: float = 30.0,
    size: tuple[int, int] | None = (320, 180),
    names: tuple[str, ...] = ("Ann", "Bob", "Cem"),
) -> Scene:
    """People side by side, 1.5 m apart, whose wrists go up and down; with keypoints if ``size``."""
    skeleton = layout("h36m17")
    swing = 0.3 * np.sin(2 * np.pi * np.arange(frames) / 12)
    found = []
    for i in range(people):
        poses = np.repeat(STANDING[None], frames, axis=0)
        poses[:, :, 0] += 1.5 * i
        poses[:, [13, 16], 2] += swing[:, None].astype(np.float32)
        keypoints, confidence = None, None
        if size is not None:
            x = size[0] / 2 + 40 * poses[..., 0]
            keypoints = np.stack([x, size[1] - 80 * poses[..., 2]], axis=-1).astype(np.float32)
            confidence = np.full(keypoints.shape[:2], 0.9, np.float32)
        found.append(Person(names[i], poses.astype(np.float32), keypoints, confidence))
    return Scene(tuple(found), skeleton, skeleton if size else None, rate, size)


def film(path: Path, greys: list[int], rate: int = 30, size: tuple[int, int] = (320, 180)) -> str:
    """A video whose frames are plain, of these greys; the upper left quarter is black."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            image = np.full((size[1], size[0], 3), grey, np.uint8)
            image[: size[1] // 2, : size[0] // 2] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)
