"""Bones, perspective and the pictures made of them."""

import dataclasses

import numpy as np
import pytest

from pose_jax.drawing.bones import bones, side
from pose_jax.drawing.palette import LIGHT, error_colour
from pose_jax.drawing.perspective import View, distance_for
from pose_jax.drawing.stage import stage
from pose_jax.skeletons import LAYOUTS
from tests.scenes import scene


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_lines_of_every_layout(layout):
    """Arms and legs are there, no limb joins one side's to the other's, and lines are unique."""
    pairs = [frozenset((layout.joints[a], layout.joints[b])) for a, b in bones(layout)]
    assert len(set(pairs)) == len(pairs)
    drawn = {name for pair in pairs for name in pair}
    assert {f"{s}_{j}" for s in ("left", "right") for j in ("wrist", "ankle", "hip")} <= drawn
    middle = {"shoulder", "hip", "mouth"}
    for one, other in pairs:
        sides = {name.split("_")[0] for name in (one, other)} & {"left", "right"}
        assert len(sides) < 2 or one.partition("_")[2] in middle, (one, other)
    # The skeleton is in one piece but for the doubled ends of HumanEva and the face.
    if layout.name in ("coco17", "h36m17", "humaneva15", "mpii16", "openpose25"):
        assert drawn == set(layout.joints)


def test_sides():
    h36m = LAYOUTS["h36m17"]
    name = h36m.joints.index
    assert side(h36m, name("left_wrist"), name("left_elbow")) == "left"
    assert side(h36m, name("pelvis"), name("right_hip")) == "right"
    assert side(h36m, name("left_hip"), name("right_hip")) == "middle"
    assert side(h36m, name("pelvis")) == "middle"


def test_perspective():
    view = View(np.array([1.0, 2.0, 1.0]), 4.0, -90.0, 0.0, 640, 480)
    points = np.array([[1, 2, 1], [2, 2, 1], [1, 2, 2], [1, -3, 1.0]])
    (middle, right, above, behind), depth = view.place(points)
    np.testing.assert_allclose(middle, [320, 240])
    # From -y, x is to the right and z up; a metre is as long either way.
    np.testing.assert_allclose(right, [320 + view.focal / 4, 240])
    np.testing.assert_allclose(above, [320, 240 - view.focal / 4])
    assert np.isnan(behind).all()
    np.testing.assert_allclose(depth[:3], 4.0)
    high = dataclasses.replace(view, elevation=90.0).place(points[2:3])[1]
    np.testing.assert_allclose(high, 3.0)


def test_everybody_is_in_the_picture():
    poses = [person.poses for person in scene(3).people]
    seen = stage(poses, 30.0)
    for azimuth in (-70.0, 0.0, 130.0):
        view = View(np.zeros(3), 1.0, azimuth, 14.0, 480, 450)
        view = dataclasses.replace(view, distance=distance_for(seen.points, view))
        for one in poses:
            pixels, _ = view.place(one - seen.centres[:, None])
            assert ((pixels >= 0) & (pixels <= (480, 450))).all()


def test_the_eye_follows_who_walks_and_forgives_gaps():
    (person,) = scene(frames=90).people
    poses = person.poses.copy()
    poses[..., 0] += np.linspace(0, 5, 90)[:, None]
    poses[30:40] = np.nan
    centres = stage([poses], 30.0).centres
    assert np.isfinite(centres).all()
    np.testing.assert_allclose(centres[45, 0], 2.5, atol=0.1)
    assert np.abs(np.diff(centres, axis=0)).max() < 0.08


def test_colours_of_errors():
    # Lighter with every step, the ends at the ends.
    lightness = [sum(error_colour(share)) for share in np.linspace(0.1, 1, 8)]
    assert (np.diff(lightness) > -25).all()
    assert error_colour(-1) == error_colour(0)
    assert error_colour(2) == error_colour(1) == (0x25, 0xE7, 0xFD)
    assert LIGHT.left[0] > LIGHT.left[2]  # BGR: blue
    assert LIGHT.right[2] > LIGHT.right[0]  # orange
