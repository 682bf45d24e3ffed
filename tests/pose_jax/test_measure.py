"""What an evaluation reports, against the protocol in plain NumPy, sequence by sequence."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax import measure
from pose_jax.data import evaluation
from pose_jax.data.views import View, select
from pose_jax.measure import MeasureConfig, make_evaluation, summarise
from pose_jax.models import temporal
from pose_jax.skeletons import H36M_17
from train_jax.evaluation import make_evaluator
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_shards

LEFT, RIGHT = [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]


@pytest.fixture(scope="module")
def views():
    config = tiny_poses.make_config().evaluations["test"]
    return select(tiny_poses.poses(), config, "positions")


def mirrored(x, left, right):
    """By hand: x changes sign, left and right joints change places."""
    x = x * np.array([-1, *[1] * (x.shape[-1] - 1)], np.float32)
    y = x.copy()
    y[..., left, :], y[..., right, :] = x[..., right, :], x[..., left, :]
    return y


def poses_of(lifter, name, keypoints, *, flip):
    """The network over one whole sequence."""
    model = lifter.model
    left, right = (LEFT, RIGHT) if name == "pose" else ([], [])
    network = model if name == "pose" else dataclasses.replace(model, joints_out=1)

    def forward(x):
        # Further repetitions of the last frame make all sequences one length, for one compilation.
        after = model.pad_after + 100 - len(x)
        padded = np.pad(x, [(model.pad_before, after), (0, 0), (0, 0)], mode="edge")
        weights = lifter.params[name], lifter.state[name]
        y, _ = temporal.dilated(network, *weights, jnp.asarray(padded[None]))
        return np.asarray(y[0, : len(x)])

    if not flip:
        return forward(keypoints)
    of_image = mirrored(forward(mirrored(keypoints, LEFT, RIGHT)), left, right)
    return (forward(keypoints) + of_image) / 2


def mpjpe(predicted, target):
    return np.linalg.norm(predicted - target, axis=-1).mean(-1)


def n_mpjpe(predicted, target):
    scale = (predicted * target).sum((1, 2)) / (predicted**2).sum((1, 2))
    return mpjpe(scale[:, None, None] * predicted, target)


def p_mpjpe(predicted, target):
    errors = []
    for x, y in zip(predicted, target, strict=True):
        a, b = x - x.mean(0), y - y.mean(0)
        u, s, vt = np.linalg.svd(a.T @ b)
        sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
        turned = a @ (u * sign) @ vt
        errors.append(mpjpe(turned * (s * sign).sum() / (a**2).sum(), b))
    return np.array(errors)


def velocity(predicted, target):
    return mpjpe(np.diff(predicted, axis=0), np.diff(target, axis=0))


def by_hand(lifter, views, *, flip, root):
    """Frame-weighted within an action, then the plain mean over actions (paper, section 5)."""
    sums: dict[str, list[float]] = {}
    errors: dict[str, np.ndarray] = {}
    for view in views.views:
        y = poses_of(lifter, "pose", view.keypoints, flip=flip).astype(np.float64)
        if root == "zero":
            y = y - y[:, :1]
        target = view.positions.astype(np.float64).copy()
        target[:, 0] = 0
        errors = {"mpjpe": mpjpe(y, target), "n_mpjpe": n_mpjpe(y, target)}
        errors |= {"p_mpjpe": p_mpjpe(y, target), "mpjve": velocity(y, target)}
        if lifter.has_trajectory:
            z = poses_of(lifter, "trajectory", view.keypoints, flip=flip)
            errors["trajectory"] = mpjpe(z, view.positions[:, :1])
        action = view.action.split(" ")[0]
        for name, each in errors.items():
            if len(each):  # one frame has no velocity
                for group in (
                    f"action/{action}",
                    f"subject/{view.subject}",
                    f"camera/{view.camera}",
                ):
                    total = sums.setdefault(f"{name}/{group}", [0.0, 0])
                    total[0] += each.mean() * len(y)
                    total[1] += len(y)
    means: dict[str, float] = {name: 1000 * total / n for name, (total, n) in sums.items()}
    for name in errors:
        of_actions = [value for key, value in means.items() if key.startswith(f"{name}/action/")]
        means[name] = float(np.mean(of_actions))
    return means


def evaluated(lifter, views, config, *, devices=1):
    return evaluator(lifter, views, config, devices=devices)(lifter.params, lifter.state)


def evaluator(lifter, views, config, *, devices=1):
    """All errors as a function of the weights."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    with jax.set_mesh(mesh):
        made = make_evaluation(
            views,
            lifter.model,
            config,
            trajectory=lifter.has_trajectory,
            shards=batch_shards(mesh),
            detail=True,
        )
        return make_evaluator(made, mesh)


@pytest.mark.parametrize(
    ("flip", "root", "causal", "trajectory", "devices"),
    [
        (True, "predicted", False, True, 8),
        (False, "predicted", True, False, 1),
        (True, "zero", True, False, 8),
    ],
)
def test_all_errors_against_the_protocol_by_hand(views, flip, root, causal, trajectory, devices):
    model = dataclasses.replace(tiny_poses.MODEL, causal=causal)
    lifter = tiny_poses.lifter(model, trajectory=trajectory)
    found = evaluated(lifter, views, MeasureConfig(flip=flip, root=root), devices=devices)
    wanted = by_hand(lifter, views, flip=flip, root=root)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=2e-5), name
    assert found["examples"] == sum(len(view.keypoints) for view in views.views)
    # A take of one frame is in all averages but those of velocities.
    alone = tiny_poses.TAKES["S9"]["Waving"]
    assert alone == 1
    assert "mpjpe/subject and action/S9 Waving" in found
    assert "mpjve/subject and action/S9 Waving" not in found


@pytest.mark.parametrize(("lengths", "most"), [((32, 64), 10**6), ((33, 31, 70, 1), 16)])
def test_pieces_batches_and_devices_change_nothing(monkeypatch, views, lengths, most):
    """Whether sequences end with a piece or within one, and however many a batch has."""
    monkeypatch.setattr(evaluation, "POSES_PER_PIECE", most)
    take = views.views[0]
    some = [
        dataclasses.replace(take, keypoints=take.keypoints[:n], positions=take.positions[:n])
        for n in lengths
    ]
    assert [len(one.keypoints) for one in some] == list(lengths)
    some, lifter = dataclasses.replace(views, views=tuple(some)), tiny_poses.lifter()
    wanted = by_hand(lifter, some, flip=True, root="predicted")
    for devices in (1, 8):
        found = evaluated(lifter, some, MeasureConfig(), devices=devices)
        for name in ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve"):
            assert found[name] == pytest.approx(wanted[name], rel=2e-5), (devices, name)


def test_the_root_counts_as_it_is_predicted_unless_told_otherwise(views):
    """A network whose poses are all moved by 10 cm; who moves the root to zero does not see it."""
    plain, moved = tiny_poses.lifter(), tiny_poses.lifter()
    moved.params["pose"]["shrink"]["bias"] += np.tile(np.array([0.1, 0, 0], np.float32), 17)
    results = {}
    for root in ("predicted", "zero"):
        measured = evaluator(plain, views, MeasureConfig(flip=False, root=root))
        results[root] = [measured(one.params, one.state) for one in (plain, moved)]
    before, after = results["zero"]
    assert after["mpjpe"] == pytest.approx(before["mpjpe"], rel=1e-5)
    before, after = results["predicted"]
    assert abs(after["mpjpe"] - before["mpjpe"]) > 1
    assert after["p_mpjpe"] == pytest.approx(before["p_mpjpe"], rel=1e-4)
    assert after["mpjve"] == pytest.approx(before["mpjve"], rel=1e-5)


def test_one_program_measures_all_lengths(views, monkeypatch):
    """Nothing is compiled for a length, nor for a second batch."""
    monkeypatch.setattr(evaluation, "POSES_PER_PIECE", 16)
    names = []

    class Listen(logging.Handler):
        def emit(self, record):
            text = record.getMessage()
            if text.startswith("Finished XLA compilation of "):
                names.append(text.split()[4])

    listener, logger = Listen(), logging.getLogger("jax._src.dispatch")
    logger.addHandler(listener)
    try:
        with jax.log_compiles(True):
            evaluated(tiny_poses.lifter(), views, MeasureConfig())
    finally:
        logger.removeHandler(listener)
    assert names
    assert sum("measure" in name for name in names) == 1


def view(subject, action, camera, frames):
    zeros = np.zeros((frames, 17, 3), np.float32)
    return View(subject, action, camera, zeros[..., :2], zeros, None)


def test_averages_are_over_frames_then_over_actions():
    """Of errors given by view: Walking 1, 3 and 5 mm in 10, 30 and 60 frames, Sitting 8 mm in 4."""
    some = [
        view("S9", "Walking", "a", 10),
        view("S9", "Walking 1", "b", 30),
        view("S11", "Walking 2", "a", 60),
        view("S11", "Sitting", "a", 4),
    ]
    frames = np.array([len(v.keypoints) for v in some])
    errors = np.array([1, 3, 5, 8]) / 1000
    found = summarise({"mpjpe": (errors * frames, frames)}, some, detail=True)
    assert found == pytest.approx(
        {
            "mpjpe": (4 + 8) / 2,
            "mpjpe/action/Walking": (1 * 10 + 3 * 30 + 5 * 60) / 100,
            "mpjpe/action/Sitting": 8,
            "mpjpe/subject/S9": (1 * 10 + 3 * 30) / 40,
            "mpjpe/subject/S11": (5 * 60 + 8 * 4) / 64,
            "mpjpe/subject and action/S9 Walking": (1 * 10 + 3 * 30) / 40,
            "mpjpe/subject and action/S11 Walking": 5,
            "mpjpe/subject and action/S11 Sitting": 8,
            "mpjpe/camera/a": (1 * 10 + 5 * 60 + 8 * 4) / 74,
            "mpjpe/camera/b": 3,
            "mpjpe/frames": (1 * 10 + 3 * 30 + 5 * 60 + 8 * 4) / 104,
        }
    )
    assert summarise({"mpjpe": (errors * frames, frames)}, some, detail=False).keys() == {"mpjpe"}


def test_actions_are_words_and_not_prefixes():
    """Sitting is not SittingDown, Walking neither WalkDog nor WalkTogether."""
    some = [view("S9", name, "a", 1) for name in ("Sitting 1", "SittingDown", "Walking", "WalkDog")]
    ones = np.ones(4)
    found = summarise({"mpjpe": (ones * [1, 2, 3, 4], ones)}, some, detail=True)
    groups = {name: value for name, value in found.items() if name.startswith("mpjpe/action/")}
    assert groups == {
        f"mpjpe/action/{name}": 1000.0 * (i + 1)
        for i, name in enumerate(("Sitting", "SittingDown", "Walking", "WalkDog"))
    }


def test_velocities_count_with_the_frames_of_their_view():
    """As in the original, not with their own number; a view of one frame has none."""
    some = [view("S9", "Walking", "a", n) for n in (2, 10, 1)]
    frames, moves = np.array([2, 10, 1]), np.array([1, 9, 0])
    sums = {
        "mpjpe": (np.ones(3) * frames, frames),
        "mpjve": (np.array([1, 2, 0]) / 1000 * moves, moves),
    }
    found = summarise(sums, some, detail=False)
    assert found["mpjve"] == pytest.approx((1 * 2 + 2 * 10) / 12)
    # Where nothing moves there is no velocity error at all, rather than one that is not a number.
    nothing = {"mpjpe": (np.ones(1), np.ones(1)), "mpjve": (np.zeros(1), np.zeros(1))}
    assert summarise(nothing, some[2:], detail=True).keys().isdisjoint({"mpjve", "mpjve/frames"})


def test_what_is_not_a_number_is_reported():
    """An error of one view is not averaged away."""
    some = [view("S9", "Walking", "a", 1), view("S9", "Sitting", "a", 1)]
    found = summarise({"mpjpe": (np.array([np.nan, 1]), np.ones(2))}, some, detail=True)
    assert np.isnan(found["mpjpe"])
    assert found["mpjpe/action/Sitting"] == 1000


def test_the_mirror_image_is_averaged_by_hand():
    lifter = tiny_poses.lifter()
    x = np.random.default_rng(0).normal(size=(2, 13, 17, 2)).astype(np.float32)
    weights = lifter.model, lifter.params["pose"], lifter.state["pose"]
    found = measure.estimate(
        *weights,
        jnp.asarray(x),
        flip=True,
        keypoint_mirror=H36M_17.mirror,
        pose_mirror=H36M_17.mirror,
    )
    direct, _ = temporal.dilated(*weights, jnp.asarray(x))
    image, _ = temporal.dilated(*weights, jnp.asarray(mirrored(x, LEFT, RIGHT)))
    wanted = (np.asarray(direct) + mirrored(np.asarray(image), LEFT, RIGHT)) / 2
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - direct).max() > 0.01
