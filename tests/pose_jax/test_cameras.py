"""Cameras against the original implementation, and against geometry."""

import dataclasses
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax import cameras
from pose_jax.cameras import Camera
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError

CAMERA = Camera(
    "54138969",
    1000,
    1002,
    focal=(1145.0494384765625, 1143.7811279296875),
    center=(512.54150390625, 515.4514770507812),
    radial=(-0.20709891617298126, 0.24777518212795258, -0.0030751503072679043),
    tangential=(-0.0009756988729350269, -0.00142447161488235),
    orientation=(0.1407056450843811, -0.1500701755285263, -0.755240797996521, 0.6223280429840088),
    translation=(1.8411070556640625, 4.95528466796875, 1.5634454345703125),
)


@pytest.fixture(scope="module")
def original(request):
    path = request.path.parent.parent / "data" / "pose" / "camera.npz"
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def person():
    """Joints of a person 4 m away, of one around the camera, of one behind it."""
    x = np.random.default_rng(3).normal(size=(3, 17, 3)).astype(np.float32)
    x[..., 2] += np.float32([[4], [0], [-4]])
    return x


@pytest.mark.parametrize("name", ["project_to_2d", "project_to_2d_linear"])
def test_projection_equals_the_original(original, name):
    function = cameras.project if name == "project_to_2d" else cameras.project_linear
    screen = jax.jit(function)(original["X"], original["camera_params"])
    np.testing.assert_allclose(screen, original[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", range(4))
def test_world_and_camera_space_equal_the_original(original, number):
    q, t = original[f"orientation_{number}"], original[f"translation_{number}"]
    seen = cameras.world_to_camera(original["world"], q, t)
    np.testing.assert_allclose(seen, original[f"world_to_camera_{number}"], atol=4e-6)
    back = cameras.camera_to_world(seen, q, t)
    np.testing.assert_allclose(back, original["world"], atol=4e-6)


@pytest.mark.parametrize("number", range(4))
def test_screen_coordinates_equal_the_original(original, number):
    size = dict(zip(("width", "height"), map(int, original[f"res_{number}"]), strict=True))
    screen = cameras.normalise_screen(original["pixels"], **size)
    np.testing.assert_allclose(screen, original[f"normalize_screen_{number}"], atol=3e-7)
    pixels = cameras.to_pixels(screen, **size)
    np.testing.assert_allclose(pixels, original[f"image_coordinates_{number}"], atol=2e-4)


@pytest.mark.parametrize(
    ("world", "seen", "screen", "linear", "pixels"),
    [
        (
            (0.1, -0.2, 0.9),
            (-0.494776, -0.367960, 5.446868),
            (-0.182466, -0.125299),
            (-0.182942, -0.125632),
            (408.767, 438.351),
        ),
        (
            (0.4, 0.3, 1.5),
            (-0.553032, -0.851657, 4.766689),
            (-0.238452, -0.376478),
            (-0.240614, -0.379812),
            (380.774, 312.761),
        ),
    ],
)
def test_a_point_on_its_way_to_the_image(world, seen, screen, linear, pixels):
    """Numbers that the original prints, all the way."""
    x = cameras.world_to_camera(
        np.float32(world), np.float32(CAMERA.orientation), np.float32(CAMERA.translation)
    )
    np.testing.assert_allclose(x, seen, atol=2e-6)
    params = cameras.intrinsics(CAMERA)
    np.testing.assert_allclose(cameras.project(x, params), screen, atol=1e-6)
    np.testing.assert_allclose(cameras.project_linear(x, params), linear, atol=1e-6)
    image = cameras.to_pixels(cameras.project(x, params), width=1000, height=1002)
    np.testing.assert_allclose(image, pixels, atol=1e-3)


def test_parameters_in_screen_units():
    expected = [2.29009891, 2.28756237, 0.02508307, 0.02890298]
    expected += [-0.20709892, 0.24777518, -0.00307515, -0.00097570, -0.00142447]
    params = cameras.intrinsics(CAMERA)
    assert params.dtype == np.float32
    np.testing.assert_allclose(params, expected, atol=1e-7)


@pytest.mark.parametrize("longest_side", [False, True])
def test_a_point_has_the_same_pixels_in_either_unit(longest_side):
    """What the unit of the screen is must not show in the image."""
    camera = dataclasses.replace(CAMERA, width=600, height=1002)
    screen = cameras.project_linear(
        np.float32([0.1, 0.7, 4.0]), cameras.intrinsics(camera, longest_side=longest_side)
    )
    pixels = cameras.to_pixels(screen, width=600, height=1002, longest_side=longest_side)
    expected = [1145.04944 * 0.1 / 4 + 512.5415, 1143.78113 * 0.7 / 4 + 515.45148]
    np.testing.assert_allclose(pixels, expected, atol=1e-3)


def test_portrait_images():
    corners = np.float32([[0, 0], [480, 854]])
    screen = cameras.normalise_screen(corners, width=480, height=854)
    np.testing.assert_allclose(screen[1], [1, 854 / 480], rtol=1e-6)
    np.testing.assert_allclose(screen[0], -screen[1], rtol=1e-6)
    screen = cameras.normalise_screen(corners, width=480, height=854, longest_side=True)
    np.testing.assert_allclose(screen[1], [480 / 854, 1], rtol=1e-6)
    back = cameras.to_pixels(screen, width=480, height=854, longest_side=True)
    np.testing.assert_allclose(back, corners, atol=1e-4)


def test_landscape_images_do_not_notice_the_longest_side():
    pixels = np.float32([[3, 4], [600, 100]])
    one = cameras.normalise_screen(pixels, width=640, height=480)
    other = cameras.normalise_screen(pixels, width=640, height=480, longest_side=True)
    np.testing.assert_array_equal(one, other)


def test_confidence_passes_through():
    keypoints = np.float32([[[100, 200, 0.75]]])
    screen = cameras.normalise_screen(keypoints, width=640, height=480)
    assert float(screen[0, 0, 2]) == 0.75
    np.testing.assert_allclose(
        cameras.to_pixels(screen, width=640, height=480), keypoints, atol=1e-4
    )


def test_each_window_has_its_own_camera(person):
    """Parameters (n, d) belong to the first axis of points (n, t, J, 3)."""
    x = np.stack([person[:1], person[:1] + 1])
    q = np.float32([CAMERA.orientation, (1, 0, 0, 0)])
    t = np.float32([CAMERA.translation, (0, 0, -7)])
    params = np.stack([cameras.intrinsics(CAMERA), np.float32([1, 1, 0, 0, 0, 0, 0, 0, 0])])
    for i in range(2):
        np.testing.assert_array_equal(
            cameras.world_to_camera(x, q, t)[i], cameras.world_to_camera(x[i], q[i], t[i])
        )
        np.testing.assert_array_equal(
            cameras.project(x, params)[i], cameras.project(x[i], params[i])
        )


def test_distances_are_the_same_for_every_camera(person):
    moved = cameras.world_to_camera(
        person, np.float32(CAMERA.orientation), np.float32(CAMERA.translation)
    )
    before = np.linalg.norm(person[:, 1:] - person[:, :-1], axis=-1)
    after = np.linalg.norm(moved[:, 1:] - moved[:, :-1], axis=-1)
    np.testing.assert_allclose(after, before, rtol=2e-5)


def test_the_place_of_the_camera_is_its_origin():
    place = np.float32(CAMERA.translation)
    seen = cameras.world_to_camera(place, np.float32(CAMERA.orientation), place)
    np.testing.assert_array_equal(seen, np.zeros(3))


@pytest.mark.parametrize("function", [cameras.project, cameras.project_linear])
def test_points_behind_the_camera_stay_finite(function):
    """Also in the plane of the camera, and in its very centre."""
    depths = np.float32([-4, -1e-6, 0, 1e-30, 1e-6, 2e-3])
    x = np.stack([np.full(6, 0.3), np.zeros(6), depths], axis=-1).astype(np.float32)
    x = np.concatenate([x, np.zeros((1, 3), np.float32)])
    params = cameras.intrinsics(CAMERA)

    def total(x):
        return jnp.sum(function(x, params))

    assert np.isfinite(function(x, params)).all()
    assert np.isfinite(jax.grad(total)(x)).all()
    behind = np.array([True, True, True, True, True, False, True])
    np.testing.assert_array_equal(cameras.in_front(x), ~behind)
    np.testing.assert_array_equal(jax.grad(total)(x)[behind], 0)


def test_points_behind_do_not_jump_over_the_axis():
    """A point on the right leaves the view on the right."""
    x = np.float32([[0.3, -0.2, 0.01], [0.3, -0.2, -0.01]])
    params = cameras.intrinsics(CAMERA)
    before, after = cameras.project(x, params)
    np.testing.assert_array_equal(before, after)


def test_projection_learns_in_front_of_the_camera(person):
    """The gradient is that of the formula: compared with central differences."""
    x, params = person[0], cameras.intrinsics(CAMERA)
    weights = np.random.default_rng(0).normal(size=(17, 2)).astype(np.float32)
    with jax.enable_x64(True):
        x, params, weights = (np.float64(each) for each in (x, params, weights))

        def total(x):
            return jnp.sum(cameras.project(x, params) * weights)

        gradient, step = jax.grad(total)(x), 1e-6
        for index in [(0, 0), (3, 1), (9, 2)]:
            delta = np.zeros_like(x)
            delta[index] = step
            slope = (total(x + delta) - total(x - delta)) / (2 * step)
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-6)


def test_projection_commutes_with_mirroring(person):
    params = cameras.intrinsics(CAMERA)
    mirror = H36M_17.mirror
    one = cameras.project(cameras.flip_pose(person, mirror), cameras.flip_intrinsics(params))
    other = cameras.flip_pose(cameras.project(person, params), mirror)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_mirroring_swaps_sides_and_keeps_confidence():
    keypoints = np.arange(51, dtype=np.float32).reshape(17, 3)
    mirrored = cameras.flip_pose(keypoints, H36M_17.mirror)
    left, right = H36M_17.joints.index("left_knee"), H36M_17.joints.index("right_knee")
    np.testing.assert_array_equal(mirrored[left], keypoints[right] * np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(mirrored[0], keypoints[0] * np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(cameras.flip_pose(mirrored, H36M_17.mirror), keypoints)


def test_mirroring_with_the_wrong_layout_is_refused():
    with pytest.raises(UserError, match=r"16 joints.*17"):
        cameras.flip_pose(np.zeros((2, 16, 2), np.float32), H36M_17.mirror)


def test_opencv_cameras_but_for_the_second_tangential_term():
    """OpenCV itself projects; ours lacks (p1 y + p2 x) (x, y) focal, as documented."""
    radial, tangential = (-0.2071, 0.2478, -0.0031), (-0.0014, 0.0031)
    focal, center = (1145.0, 1143.8), (512.5, 515.5)
    camera = cameras.from_opencv(
        "mine",
        width=1000,
        height=1002,
        focal=focal,
        center=center,
        radial=radial,
        tangential=tangential,
    )
    assert camera.tangential == (0.0031, -0.0014)
    points = np.float64([[0.8, -0.5, 4], [-1.1, 0.2, 3.5], [0.1, 1.9, 5]])
    matrix = np.float64([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]])
    distortion = np.float64([*radial[:2], *tangential, radial[2]])
    zero = np.zeros(3)
    expected = cv2.projectPoints(points, zero, zero, matrix, distortion)[0][:, 0]
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    lacking = (tangential[0] * y + tangential[1] * x)[:, None] * np.stack([x, y], -1) * focal
    screen = cameras.project(points.astype(np.float32), cameras.intrinsics(camera))
    pixels = cameras.to_pixels(screen, width=1000, height=1002)
    np.testing.assert_allclose(pixels + lacking, expected, atol=1e-3)
    assert 0.1 < np.abs(lacking).max() < 1


def test_without_a_lens_there_is_no_projection():
    with pytest.raises(UserError, match="C1 has no intrinsics"):
        cameras.intrinsics(Camera("C1", 640, 480))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"orientation": (1.0, 1.0, 0.0, 0.0)}, "not a unit quaternion"),
        ({"orientation": (math.nan, 1.0, 0.0, 0.0)}, "not a unit quaternion"),
        ({"translation": None}, "orientation and translation together"),
        ({"center": None}, "focal and center together"),
        ({"height": 0}, "1000x0 pixels"),
    ],
)
def test_impossible_cameras_are_refused(change, fault):
    with pytest.raises(UserError, match=fault):
        dataclasses.replace(CAMERA, **change)
