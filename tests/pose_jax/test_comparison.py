"""The error that pictures show is that of protocol 1, joint by joint."""

import dataclasses

import numpy as np
import pytest

from pose_jax.drawing.comparison import compare, mean_error, resample
from pose_jax.motion import Person, Scene
from pose_jax.skeletons import layout
from tests.scenes import scene
from train_jax.errors import UserError


def moved(of: Scene, by: np.ndarray) -> Scene:
    people = tuple(dataclasses.replace(p, poses=p.poses + by.astype(np.float32)) for p in of.people)
    return dataclasses.replace(of, people=people)


def test_a_body_elsewhere_has_no_error_and_a_bent_wrist_has():
    bend = np.zeros((17, 3))
    bend[13] = 0, 0.03, 0.04
    (found,) = compare(scene(), moved(scene(), bend + np.array([2, -1, 0])))
    assert found is not None
    np.testing.assert_allclose(found.errors[:, 13], 50.0, rtol=1e-3)
    np.testing.assert_allclose(np.delete(found.errors, 13, axis=1), 0.0, atol=1e-3)
    np.testing.assert_allclose(mean_error(found.errors), 50 / 17, rtol=1e-3)
    # It is drawn where the prediction is.
    np.testing.assert_allclose(found.poses[:, 0], scene().people[0].poses[:, 0], atol=1e-6)


def test_places_count_without_alignment():
    (found,) = compare(scene(), moved(scene(), np.array([0.3, 0, 0.4])), "none")
    assert found is not None
    np.testing.assert_allclose(found.errors, 500.0, rtol=1e-4)


def test_people_are_paired_by_name():
    truth = scene(2)
    truth = dataclasses.replace(truth, people=truth.people[::-1])
    for found in compare(scene(2), truth, "none"):
        assert found is not None
        np.testing.assert_allclose(found.errors, 0.0, atol=1e-3)


def test_people_of_other_names_are_paired_by_order():
    ann, bob = compare(scene(2), scene(1, names=("Mocap",)), "none")
    assert ann is not None
    assert bob is None
    np.testing.assert_allclose(ann.errors, 0.0, atol=1e-3)


def test_a_truth_of_another_rate_and_a_shorter_one():
    long = scene(frames=24, rate=60.0)
    slow = dataclasses.replace(
        scene(frames=12, rate=30.0),
        people=(Person("Ann", long.people[0].poses[::2]),),
    )
    (found,) = compare(slow, long, "none")
    assert found is not None
    np.testing.assert_allclose(found.errors, 0.0, atol=1e-3)
    (found,) = compare(scene(frames=12), scene(frames=5))
    assert found is not None
    assert np.isnan(mean_error(found.errors)[5:]).all()
    assert np.isfinite(mean_error(found.errors)[:5]).all()


def test_values_between_two_frames():
    np.testing.assert_allclose(resample(np.array([[0.0], [1.0]]), 10.0, np.array([0.05])), [[0.5]])


def test_joints_without_a_counterpart_have_no_error():
    humaneva = layout("humaneva15")
    poses = np.zeros((12, 15, 3), np.float32)
    truth = Scene((Person("Ann", poses),), humaneva, None, 30.0, None)
    (found,) = compare(scene(), truth)
    assert found is not None
    assert np.isnan(found.errors[:, 9]).all()  # neck_nose
    assert np.isfinite(found.errors[:, 16]).all()


def test_a_truth_of_another_body():
    face = dataclasses.replace(layout("coco17"), joints=tuple(f"point_{i}" for i in range(17)))
    with pytest.raises(UserError, match="shares no joint"):
        compare(scene(), dataclasses.replace(scene(), layout=face))
