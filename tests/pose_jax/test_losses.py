"""Losses against the original implementation, and against what they are meant to ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_jax import losses
from pose_jax.skeletons import H36M_17
from train_jax.errors import UserError


@pytest.fixture(scope="module")
def original(request):
    path = request.path.parent.parent / "data" / "pose" / "losses.npz"
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def golden():
    """The poses of the original's printed numbers, in float64, which the test runs in."""
    with jax.enable_x64(True):
        i = np.arange(5 * 17 * 3).reshape(5, 17, 3)
        target = np.sin(0.37 * i + 0.1)
        yield target + 0.05 * np.cos(1.3 * i), target


@pytest.fixture(scope="module")
def people():
    """Targets of the size of people, and predictions some 5 cm off: (4, 9, 17, 3) each."""
    rng = np.random.default_rng(1)
    target = rng.normal(size=(4, 9, 17, 3)).astype(np.float32) * np.float32([0.2, 0.5, 0.2])
    return target + rng.normal(size=target.shape).astype(np.float32) * np.float32(0.03), target


def rotation():
    """A turn about an oblique axis (float32)."""
    matrix, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return (matrix * np.linalg.det(matrix)).astype(np.float32)


@pytest.mark.parametrize("name", ["mpjpe", "n_mpjpe", "p_mpjpe"])
def test_errors_equal_the_original(original, name):
    error = getattr(losses, name)(original["predicted"], original["target"])
    np.testing.assert_allclose(error, original[name], rtol=1e-6)


def test_the_error_of_every_frame_equals_the_original(original):
    each = losses.p_mpjpe_each(original["predicted"], original["target"])
    assert each.shape == (6, 5)
    np.testing.assert_allclose(each.reshape(30), original["p_mpjpe_each"], rtol=2e-6)


def test_a_mirrored_pose_is_not_mirrored_back(original):
    error = losses.p_mpjpe(original["predicted"], original["mirrored_target"])
    np.testing.assert_allclose(error, original["p_mpjpe_mirrored"], rtol=1e-6)


def test_the_weighted_error_equals_the_original(original):
    error = losses.weighted_mpjpe(original["predicted"], original["target"], original["w"])
    np.testing.assert_allclose(error, original["weighted_mpjpe"], rtol=1e-6)


def test_the_velocity_error_equals_the_original(original):
    """Computed on the fixture's poses as one sequence."""
    sequences = (original[name].reshape(30, 17, 3) for name in ("predicted", "target"))
    error = losses.velocity_error(*sequences)
    np.testing.assert_allclose(error, original["mean_velocity_error"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mpjpe", 0.061135961558),
        ("p_mpjpe", 0.060822921204),
        ("n_mpjpe", 0.061045271880),
        ("velocity_error", 0.120691433127),
    ],
)
def test_errors_that_the_original_prints(golden, name, expected):
    error = getattr(losses, name)(*golden)
    assert error.dtype == jnp.float64
    np.testing.assert_allclose(error, expected, atol=1e-12)


def test_the_trajectory_error_that_the_original_prints():
    target = np.float32([[[[0.1, 0.2, 4.0]], [[0.3, -0.2, 5.0]]]])
    error = losses.weighted_mpjpe(target + np.float32([0.03, 0.04, 0]), target, 1 / target[..., 2])
    np.testing.assert_allclose(error, 0.01125, rtol=1e-6)


def test_the_bone_term_that_the_original_prints(golden):
    predicted, target = golden
    term = losses.bone_length_term(target[:, None], 1.1 * predicted[:, None], H36M_17.bones)
    np.testing.assert_allclose(term, 0.124675143174, atol=1e-12)


@pytest.mark.parametrize("name", ["mpjpe", "n_mpjpe", "p_mpjpe", "velocity"])
def test_the_mean_is_that_of_the_frames(people, name):
    each = getattr(losses, f"{name}_each")(*people)
    assert each.shape == ((4, 8) if name == "velocity" else (4, 9))
    one = getattr(losses, f"{name}_each")(people[0][2], people[1][2])
    np.testing.assert_allclose(each[2], one, rtol=1e-5)
    mean = getattr(losses, "velocity_error" if name == "velocity" else name)(*people)
    np.testing.assert_allclose(mean, each.mean(), rtol=1e-6)


def test_each_measure_ignores_what_it_should(people):
    """Moving, turning and scaling the prediction: who notices."""
    predicted, target = people
    moved = predicted + np.float32([1, 2, 3])
    turned = predicted @ rotation()
    scaled = predicted * np.float32(1.7)

    def unmoved(measure, other):
        before, after = (float(measure(x, target)) for x in (predicted, other))
        return abs(after - before) < 1e-5

    assert all(unmoved(losses.p_mpjpe, other) for other in (moved, turned, scaled))
    assert unmoved(losses.velocity_error, moved)
    assert unmoved(losses.n_mpjpe, scaled)
    assert not unmoved(losses.n_mpjpe, turned)
    assert not unmoved(losses.n_mpjpe, moved)
    assert not unmoved(losses.velocity_error, scaled)
    assert not any(unmoved(losses.mpjpe, other) for other in (moved, turned, scaled))


def test_alignment_of_a_similar_pose_is_exact(people):
    target = people[1]
    similar = np.float32(0.4) * target @ rotation() + np.float32([0, -3, 5])
    assert float(losses.p_mpjpe_each(similar, target).max()) < 5e-6


def test_a_mirrored_person_cannot_be_aligned(people):
    target = people[1]
    assert float(losses.p_mpjpe_each(target * np.float32([-1, 1, 1]), target).min()) > 0.02


@pytest.mark.parametrize("side", [1, -1])
def test_alignment_has_the_least_squared_error(people, side):
    """SciPy finds the same rotation, also where the best orthogonal map would be a reflection."""
    predicted, target = (each[:, 0].astype(np.float64) for each in people)
    predicted *= (side, 1, 1)
    expected = []
    for x, y in zip(predicted, target, strict=True):
        a, b = x - x.mean(0), y - y.mean(0)
        turned = Rotation.align_vectors(b, a)[0].apply(a)
        moved = turned * np.sum(turned * b) / np.sum(turned * turned)
        expected.append(np.linalg.norm(moved - b, axis=-1).mean())
    each = losses.p_mpjpe_each(predicted.astype(np.float32), target.astype(np.float32))
    np.testing.assert_allclose(each, expected, rtol=2e-5)


def test_a_prediction_without_extent_stays_finite(people):
    """The original fails here: a network that predicts one point for all joints is not an error."""
    target = people[1][:, 0]
    middle = target.mean(axis=-2, keepdims=True)
    expected = losses.mpjpe_each(np.broadcast_to(middle, target.shape), target)
    for point in (0.0, 0.3):
        flat = np.full_like(target, point)
        np.testing.assert_allclose(losses.p_mpjpe_each(flat, target), expected, rtol=1e-5)
    assert np.isfinite(losses.p_mpjpe_each(target, np.zeros_like(target))).all()
    zero = losses.n_mpjpe_each(np.zeros_like(target), target)
    np.testing.assert_allclose(zero, losses.mpjpe_each(np.zeros_like(target), target))


def test_what_is_not_a_number_is_not_hidden(people):
    broken = people[0].copy()
    broken[1, 2, 3, 0] = np.nan
    for name in ("mpjpe", "n_mpjpe", "p_mpjpe"):
        each = getattr(losses, f"{name}_each")(broken, people[1])
        assert np.isnan(each[1, 2])
        assert np.isnan(each).sum() == 1


@pytest.mark.parametrize("name", ["mpjpe", "n_mpjpe", "velocity_error"])
def test_a_perfect_prediction_has_a_finite_gradient(people, name):
    """Distances have a corner at zero, where the root's target lies from the first step."""
    gradient = jax.grad(getattr(losses, name))(people[1], people[1])
    assert np.isfinite(gradient).all()
    assert np.isfinite(jax.grad(getattr(losses, name))(np.zeros_like(people[1]), people[1])).all()


def test_weights_are_relative(people):
    predicted, target = people
    mask = np.zeros((4, 9, 1), np.float32)
    mask[:3] = 0.5
    expected = losses.mpjpe(predicted[:3], target[:3])
    np.testing.assert_allclose(losses.mpjpe(predicted, target, mask), expected, rtol=1e-6)
    confidence = np.zeros((4, 9, 17), np.float32)
    confidence[..., 5] = 1
    expected = losses.mpjpe(predicted[..., 5:6, :], target[..., 5:6, :])
    np.testing.assert_allclose(losses.mpjpe(predicted, target, confidence), expected, rtol=1e-6)
    assert float(losses.mpjpe(predicted, target, np.zeros_like(mask))) == 0


def test_keypoints_have_errors_too():
    error = losses.mpjpe(np.zeros((2, 1, 17, 2), np.float32), np.full((2, 1, 17, 2), 0.3, "f4"))
    np.testing.assert_allclose(error, 0.3 * np.sqrt(2), rtol=1e-6)


def test_bone_lengths():
    x = np.zeros((1, 17, 3), np.float32)
    x[0, 2] = (0, 0.4, 0.3)
    lengths = losses.bone_lengths(x, ((1, 0), (2, 1), (3, 2)))
    np.testing.assert_allclose(lengths, [[0, 0.5, 0.5]], rtol=1e-6)


def test_the_bone_term_compares_averages(people):
    """Not frame by frame: another order of the same lengths costs nothing, longer legs do."""
    x, bones = people[1], H36M_17.bones
    term = losses.bone_length_term(x, x[::-1, ::-1], bones)
    np.testing.assert_allclose(term, 0, atol=1e-6)
    longer = losses.bone_length_term(x, np.float32(1.1) * x, bones)
    np.testing.assert_allclose(longer, 0.1 * losses.bone_lengths(x, bones).mean(), rtol=1e-5)


def test_both_batches_learn_from_the_bone_term(people):
    """Towards each other: with the other's bones longer, either pulls."""
    x = people[1]
    one, other = jax.grad(losses.bone_length_term, argnums=(0, 1))(
        x, np.float32(1.1) * x, H36M_17.bones
    )
    # The derivative along growth of the pose.
    assert float(jnp.sum(one * x)) < 0 < float(jnp.sum(other * x))
    assert np.isfinite(jax.grad(losses.bone_length_term)(np.zeros_like(x), x, H36M_17.bones)).all()


def test_padding_does_not_count_in_the_bone_term(people):
    x, bones = people[1], H36M_17.bones
    mask = np.float32([1, 1, 0, 0])
    term = losses.bone_length_term(
        x, 2 * x, bones, labelled_weights=mask, unlabelled_weights=mask[::-1].copy()
    )
    expected = losses.bone_length_term(x[:2], 2 * x[2:], bones)
    np.testing.assert_allclose(term, expected, rtol=1e-5)


def test_one_frame_has_no_velocity(people):
    predicted, target = (x[:, :1] for x in people)
    assert losses.velocity_each(predicted, target).shape == (4, 0)
    with pytest.raises(UserError, match="two frames"):
        losses.velocity_error(predicted, target)


def test_other_shapes_are_refused(people):
    with pytest.raises(UserError, match=r"\(4, 9, 17, 3\).*\(4, 9, 1, 3\)"):
        losses.mpjpe(people[0], people[1][:, :, :1])
