"""Back-projection: the recorded steps of the original, and what the original cannot do."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax import cameras, losses
from pose_jax.data.views import PoseDataConfig
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.objective import make_loss
from pose_jax.skeletons import COCO_17, H36M_17, joint_map
from pose_jax.task import PARAM_RULES, make_init
from pose_jax.torch_read import read_bin
from pose_jax.train_config import BatchNormConfig, PoseTrainConfig, SemiConfig
from pose_jax.weights import from_torch
from train_jax.data.dataset import TrainData
from train_jax.errors import UserError
from train_jax.metrics import empty_window
from train_jax.optimizers import Adam, make_optimizer
from train_jax.schedules import ConstantConfig
from train_jax.sharding import flat_names
from train_jax.state import with_params
from train_jax.step import make_train_step
from train_jax.task import Task

UNLABELLED = PoseDataConfig(keypoints="unlabelled")
MODEL = TemporalConfig(channels=32, dropout=0.0)
TERMS = ("pose", "trajectory", "projection", "bone_length")


def make_config(model=MODEL, semi=None, **changes):
    return PoseTrainConfig(
        model=model,
        data=PoseDataConfig(keypoints="labelled"),
        semi=SemiConfig(**{"data": UNLABELLED, "warmup": "0 steps", **(semi or {})}),
        batch_size=24,
        total="10 steps",
        optimizer=Adam(amsgrad=True),
        schedule=ConstantConfig(base=1e-3),
        batch_norm=BatchNormConfig(first=0.1, last=0.1),
        **changes,
    )


def loss_of(config, keypoints=H36M_17):
    return make_loss(config, keypoints, H36M_17, 24)


@pytest.fixture(scope="module")
def recorded(request):
    with np.load(request.path.parents[1] / "data" / "pose" / "semi.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def batch(recorded):
    names = {
        "positions": "labeled_3d",
        "keypoints": "labeled_2d",
        "unlabelled_keypoints": "unlabeled_2d",
        "unlabelled_intrinsics": "unlabeled_cam",
    }
    return {ours: jnp.asarray(recorded[theirs]) for ours, theirs in names.items()}


@pytest.fixture(scope="module")
def start(request):
    """Parameters and running statistics of both networks."""
    content = read_bin(request.path.parents[1] / "data" / "pose" / "semi_init.bin")
    both = {
        "pose": from_torch(content["model_pos"]),
        "trajectory": from_torch(content["model_traj"]),
    }
    trees = tuple({name: parts[i] for name, parts in both.items()} for i in range(2))
    return jax.tree.map(jnp.asarray, trees)


def gradient(config, start, batch, *, keypoints=H36M_17, step=0):
    """Gradient, statistics and terms of a batch."""
    function = jax.jit(jax.grad(loss_of(config, keypoints), has_aux=True))
    found, (state, metrics) = function(*start, batch, jax.random.key(0), jnp.int32(step))
    return found, state, {name: float(total) for name, (total, _) in metrics.items()}


@contextlib.contextmanager
def originals_projection():
    """The original divides by the depth whatever its sign; 13 of the 408 points are behind.

    Ours have no gradient there, which is the only departure from the recorded steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cameras, "_view", lambda x: jnp.clip(x[..., :2] / x[..., 2:], -1, 1))
        yield


@pytest.fixture(scope="module")
def ours(start, batch):
    with originals_projection():
        return gradient(make_config(), start, batch)


def test_terms_are_those_of_the_original(recorded, ours):
    wanted = recorded["terms_pos_traj_proj_bone_total"][0]
    assert ours[2].keys() == set(TERMS)
    np.testing.assert_allclose([ours[2][name] for name in TERMS], wanted[:4], rtol=1e-5)
    assert sum(ours[2].values()) == pytest.approx(wanted[4], rel=1e-6)


def test_predictions_are_those_of_the_original(recorded, start, batch):
    params, state = start
    x = jnp.concatenate([batch["keypoints"], batch["unlabelled_keypoints"]])
    training = temporal.Training(jnp.float32(0.1), jax.random.key(0))
    outputs = {}
    for name, joints in (("pose", 17), ("trajectory", 1)):
        network = dataclasses.replace(MODEL, joints_out=joints)
        run = jax.jit(functools.partial(temporal.strided, network, training=training))
        outputs[name], _ = run(params[name], state[name], x)
    np.testing.assert_allclose(outputs["pose"], recorded["predicted_pos"], atol=2e-5)
    np.testing.assert_allclose(outputs["trajectory"], recorded["predicted_traj"], atol=2e-5)
    points = (outputs["pose"] + outputs["trajectory"])[24:]
    front = np.asarray(cameras.in_front(points))
    assert (~front).sum() == 13
    image = cameras.project(points, batch["unlabelled_intrinsics"])
    np.testing.assert_allclose(image[front], recorded["reconstruction"][front], atol=1e-4)


@pytest.mark.parametrize(("network", "key"), [("pose", "grad_pos"), ("trajectory", "grad_traj")])
def test_gradients_are_those_of_the_original(recorded, ours, network, key):
    gradients = {
        name.removeprefix(f"{key}/"): x
        for name, x in recorded.items()
        if name.startswith(f"{key}/")
    }
    # Gradients have the names of parameters, but statistics have none.
    for name in [name for name in gradients if "bn" in name and name.endswith("weight")]:
        prefix = name.removesuffix("weight")
        gradients |= {f"{prefix}running_{part}": gradients[name] for part in ("mean", "var")}
    wanted, _ = from_torch(gradients)
    found, wanted = flat_names(ours[0][network]), flat_names(wanted)
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-3, atol=2e-5, err_msg=name)


def test_three_steps_are_those_of_the_original(recorded, start, batch):
    config, data = make_config(), TrainData(24, 24, "recorded", lambda *_: iter(()), {})
    task = Task(
        init=make_init(config),
        loss=loss_of(config),
        train_data=data,
        evaluations={},
        param_rules=PARAM_RULES,
    )
    params, statistics = start
    optimizer = make_optimizer(config.optimizer, lambda step: jnp.float32(1e-3), params)
    state = with_params(params, statistics, optimizer, ema=False)
    step, terms = jax.jit(make_train_step(task, optimizer)), []
    for _ in range(3):
        window = empty_window(["loss", "gradient_norm", *TERMS])
        with originals_projection():
            state, window, loss = step(state, window, jax.random.key(0), {}, batch)
        sums = {name: float(total) for name, (total, _) in window.sums.items()}
        terms.append([*(sums[name] for name in TERMS), float(loss)])
    np.testing.assert_allclose(terms, recorded["terms_pos_traj_proj_bone_total"], rtol=1e-4)
    for network, key in (("pose", "final_pos"), ("trajectory", "final_traj")):
        after = from_torch(
            {n.removeprefix(f"{key}/"): x for n, x in recorded.items() if n.startswith(f"{key}/")}
        )
        for found, wanted in zip((state.params, state.model_state), after, strict=True):
            found, wanted = flat_names(found[network]), flat_names(wanted)
            assert found.keys() == wanted.keys()
            for name, x in wanted.items():
                np.testing.assert_allclose(found[name], x, rtol=1e-3, atol=2e-5, err_msg=name)


SMALL = TemporalConfig(widths=(3, 1), channels=8, dropout=0.0)


def small(batch, frames=3, poses=1, confidence=None):
    """Windows of the small model; some of them with a confidence."""
    cut = dict(batch)
    for name in ("keypoints", "unlabelled_keypoints"):
        cut[name] = batch[name][:, :frames]
    cut["positions"] = jnp.repeat(batch["positions"], poses, axis=1)
    if confidence is not None:
        x = cut["unlabelled_keypoints"]
        cut["unlabelled_keypoints"] = jnp.concatenate([x, confidence], -1)
    return cut


def fresh(config, seed=0):
    """Untrained networks that see people 4 m away."""
    params, state = make_init(config)(jax.random.key(seed))
    if "trajectory" in params:
        params["trajectory"]["shrink"]["bias"] = jnp.float32([0, 0, 4])
    return params, state


def terms_of(config, start, batch, *, keypoints=H36M_17, step=0):
    function = jax.jit(loss_of(config, keypoints))
    _, (_, metrics) = function(*start, batch, jax.random.key(0), jnp.int32(step))
    return {name: float(total) for name, (total, _) in metrics.items()}


def outputs_of(config, start, batch):
    """Poses and roots of the unlabelled examples."""
    x = jnp.concatenate([batch["keypoints"], batch["unlabelled_keypoints"][..., :2]])
    training = temporal.Training(jnp.float32(0.1), jax.random.key(0))
    both = []
    for name, joints in (("pose", 17), ("trajectory", 1)):
        network = dataclasses.replace(config.model, joints_out=joints)
        run = jax.jit(lambda p, s, x, n=network: temporal.dilated(n, p, s, x, training)[0])
        both.append(run(start[0][name], start[1][name], x)[24:])
    return both


@pytest.mark.parametrize("projection", ["full", "linear"])
@pytest.mark.parametrize(("causal", "chunk"), [(False, 1), (True, 1), (False, 4), (True, 4)])
def test_poses_are_compared_with_the_keypoints_of_their_own_frames(
    batch, causal, chunk, projection
):
    """The last frames of the window where the model is causal, the middle ones where not."""
    model = dataclasses.replace(SMALL, causal=causal)
    config = make_config(model, {"projection": projection}, chunk=chunk)
    examples, start = small(batch, 2 + chunk, chunk), fresh(config)
    poses, roots = outputs_of(config, start, examples)
    project = {"full": cameras.project, "linear": cameras.project_linear}[projection]
    image = project(poses + roots, examples["unlabelled_intrinsics"])
    own = slice(2, 2 + chunk) if causal else slice(1, 1 + chunk)
    wanted = losses.mpjpe(image, examples["unlabelled_keypoints"][:, own])
    got = terms_of(config, start, examples)
    assert got["projection"] == pytest.approx(float(wanted), rel=1e-5)
    assert got["bone_length"] > 0


def test_keypoints_of_another_layout_are_compared_by_the_joints_they_share(batch):
    config = make_config(SMALL, {"bone_length": False})
    examples, start = small(batch), fresh(config)
    poses, roots = outputs_of(config, start, examples)
    image = cameras.project(poses + roots, examples["unlabelled_intrinsics"])
    limbs = [
        f"{side}_{limb}"
        for limb in ["shoulder", "elbow", "wrist", "hip", "knee", "ankle"]
        for side in ("left", "right")
    ]
    distances = [
        jnp.linalg.norm(
            image[:, 0, H36M_17.joints.index(joint)]
            - examples["unlabelled_keypoints"][:, 1, COCO_17.joints.index(joint)],
            axis=-1,
        )
        for joint in limbs
    ]
    got = terms_of(config, start, examples, keypoints=COCO_17)
    assert got["projection"] == pytest.approx(float(jnp.stack(distances).mean()), rel=1e-5)
    # Neither face nor trunk: what they only resemble is not compared.
    assert {H36M_17.joints[i] for i in joint_map(H36M_17, COCO_17)} == set(limbs)
    assert "bone_length" not in got


@pytest.mark.parametrize("weigh", [False, True])
def test_doubtful_keypoints_count_little_if_asked(batch, weigh):
    """Unlabelled keypoints may have a confidence where labelled ones have none."""
    config = make_config(SMALL, {"confidence": weigh, "bone_length": False})
    confidence = jnp.asarray(np.random.default_rng(0).uniform(size=(24, 3, 17, 1)), jnp.float32)
    examples, start = small(batch, confidence=confidence), fresh(config)
    poses, roots = outputs_of(config, start, examples)
    image = cameras.project(poses + roots, examples["unlabelled_intrinsics"])
    distance = jnp.linalg.norm(image - examples["unlabelled_keypoints"][:, 1:2, :, :2], axis=-1)
    wanted = (distance * confidence[:, 1:2, :, 0] if weigh else distance).mean()
    got = terms_of(config, start, examples)
    assert got["projection"] == pytest.approx(float(wanted), rel=1e-5)


def test_until_the_end_of_the_warm_up_unlabelled_examples_change_nothing(batch):
    config = make_config(SMALL, {"warmup": "3 steps"})
    examples, start = small(batch), fresh(config)
    during = gradient(config, start, examples, step=2)
    after = gradient(config, start, examples, step=3)
    # Whatever they are.
    other = examples | {"unlabelled_keypoints": 100 * examples["unlabelled_keypoints"][::-1]}
    again = gradient(config, start, other, step=2)
    jax.tree.map(np.testing.assert_array_equal, during, again)
    alone = dataclasses.replace(config, semi=None, trajectory=True)
    supervised = gradient(alone, start, examples, step=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), during[:2], supervised[:2]
    )
    assert during[2] == pytest.approx(supervised[2] | {"projection": 0.0, "bone_length": 0.0})
    assert min(after[2].values()) > 0
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), during[1], after[1])
    assert min(jax.tree.leaves(difference)) > 0


def test_rows_that_fill_up_a_batch_change_nothing(batch):
    config = make_config(SMALL)
    examples, start = small(batch), fresh(config)
    mask = {"mask": jnp.arange(24) < 17, "unlabelled_mask": jnp.arange(24) < 11}
    other = {
        name: jnp.where(
            mask["unlabelled_mask" if name.startswith("unlabelled_") else "mask"].reshape(
                -1, *[1] * (x.ndim - 1)
            ),
            x,
            7.0,
        )
        for name, x in examples.items()
    }
    one, two = (gradient(config, start, each | mask) for each in (examples, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    whole = gradient(config, start, examples)
    assert one[2]["pose"] != whole[2]["pose"]
    assert one[2]["projection"] != whole[2]["projection"]


@pytest.mark.parametrize("depth", [0.0, -4.0])
def test_gradients_are_finite_wherever_the_networks_see_people(batch, depth):
    """Also where every joint is exactly in the middle of the camera."""
    config = make_config(SMALL)
    examples, (params, state) = small(batch), fresh(config)
    for network in params.values():
        network["shrink"] = jax.tree.map(jnp.zeros_like, network["shrink"])
    params["trajectory"]["shrink"]["bias"] = jnp.float32([0, 0, depth])
    found, _, terms = gradient(config, (params, state), examples)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert all(np.isfinite(x) for x in terms.values())


@pytest.mark.parametrize("warmup", ["10 steps", "100 percent", "10 epochs"])
def test_a_run_that_ends_in_its_warm_up_is_refused(warmup):
    with pytest.raises(UserError, match=r"semi\.warmup of .* is 10 steps, and the run has 10"):
        loss_of(make_config(SMALL, {"warmup": warmup}))
