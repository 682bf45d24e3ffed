"""How many frames a second does pose_jax.render draw and encode?

    python benchmarks/pose_render.py [--video=clip.mp4] [--frames=300] [--rounds=3]

A scene of people who swing their arms, with keypoints and a truth, beside a film: decoding, drawing
and encoding are all within the time. Without --video the film is made, 1280x720 H.264. The best
round counts; beside it stand what CPU time would allow on two cores, the original's 3.9 frames/s
(matplotlib), and the aim of 30.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Runs from a checkout that nobody has installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from pose_jax import render
from pose_jax.drawing import film
from pose_jax.motion import Person, Scene
from pose_jax.skeletons import H36M_17

ORIGINAL, AIM, RATE = 3.9, 30.0, 30.0


def people(count: int, frames: int, size: tuple[int, int]) -> Scene:
    """People in a row with limbs that swing."""
    time_of = np.arange(frames)[:, None, None] / RATE
    rest = np.linspace(0, 1.7, 17)[None, :, None] * (0, 0, 1) + 0.15 * np.sin(
        np.arange(17)[None, :, None] * (1, 2, 0)
    )
    swing = 0.1 * np.sin(2 * np.pi * time_of + np.arange(17)[None, :, None])
    found = []
    for i in range(count):
        poses = (rest + swing + (1.2 * i, 0, 0)).astype(np.float32)
        points = poses[..., [0, 2]] * (size[1] / 4, -size[1] / 3) + (size[0] / 3, size[1] * 0.9)
        sure = np.ones(points.shape[:2], np.float32)
        found.append(Person(f"Person {i + 1}", poses, points.astype(np.float32), sure))
    return Scene(tuple(found), H36M_17, H36M_17, RATE, size)


def make_film(path: str, frames: int, size: tuple[int, int]) -> None:
    """A film with something that moves."""
    base = np.linspace(0, 200, size[0], dtype=np.uint8)[None, :, None]
    image = np.broadcast_to(base, (size[1], size[0], 3))
    with film.encoder(path, RATE, size) as add:
        for i in range(frames):
            add(np.ascontiguousarray(np.roll(image, 7 * i, axis=1)))


def main() -> None:
    """Prints a line per number of people."""
    parser = argparse.ArgumentParser(description="Frames a second of pose_jax.render.")
    parser.add_argument("--video")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        video = given.video or f"{directory}/in.mp4"
        if given.video is None:
            make_film(video, given.frames, (1280, 720))
        size = film.upright_size(video)
        for count in (1, 2):
            scene = people(count, given.frames, size)
            walls, cpus = [], []
            for _ in range(given.rounds):
                wall, cpu = time.perf_counter(), time.process_time()
                render.write(scene, f"{directory}/out.mp4", video=video, truth=scene)
                walls.append(given.frames / (time.perf_counter() - wall))
                cpus.append(2 * given.frames / (time.process_time() - cpu))
            best = max(walls)
            print(
                f"{count} people, film {size[0]}x{size[1]}: {best:.1f} frames/s "
                f"({best / ORIGINAL:.1f}x the original's {ORIGINAL}, "
                f"{best / AIM:.2f}x of {AIM:.0f}); "
                f"CPU time of two cores: {max(cpus):.1f} frames/s"
            )


if __name__ == "__main__":
    main()
