"""Training a pose lifter, with labels alone or with unlabelled video beside them (paper, 3.3)."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from pose_jax import cameras, losses
from pose_jax.data.training import Order, training_data
from pose_jax.data.views import PoseDataConfig, Views, read_views
from pose_jax.data.windows import make_windows
from pose_jax.measure import MeasureConfig, make_evaluation
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.models.temporal import Training
from pose_jax.skeletons import Layout, joint_map
from train_jax.config import FREE, to_dict
from train_jax.errors import UserError
from train_jax.mesh import make_mesh
from train_jax.metrics import Metrics
from train_jax.schedules import steps_of
from train_jax.sharding import ParamRule, batch_shards
from train_jax.task import Batch, LossFn, ModelState, Params, Task
from train_jax.train_config import TrainConfig

PARAM_RULES: tuple[ParamRule, ...] = (
    (".*/conv/kernel", (None, None, "tensor")),
    (".*/pointwise/kernel", (None, "tensor")),
    (".*/expand/kernel", (None, None, "tensor")),
    (".*/shrink/kernel", ("tensor", None)),
    (".*/(scale|bias)", (None,)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormConfig:
    """Share of the new batch in the running statistics (PyTorch's momentum), by epoch.

    It falls geometrically over the run (paper, section 4: from 0.1 to 0.001).
    """

    first: float = 0.1
    last: float = 0.001


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiConfig:
    """Training on video without 3D labels by back-projection (paper, section 3.3).

    A trajectory network estimates where the root is; pose and trajectory, projected to the image,
    shall meet the keypoints; bones shall be as long as those of labelled subjects.

    Attributes:
        data: the unlabelled sequences; cameras need intrinsics, positions are not used.
        warmup: how long only labelled examples count.
        projection: "full" with lens distortion, "linear" without, or None for no such term.
        bone_length: whether the bone-length term is used.
        confidence: weighs the keypoints of the projection term by the detector's confidence.
    """

    data: PoseDataConfig
    warmup: str = "1 epoch"
    projection: Literal["full", "linear"] | None = "full"
    bone_length: bool = True
    confidence: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseTrainConfig(TrainConfig):
    """A run of ``pose_jax.train``: the keys of every run, and those of poses.

    Attributes:
        model: the network; its joints must be those of the data.
        data: labelled sequences.
        evaluations: what is measured, by name.
        measure: how it is measured.
        chunk: output frames of an example; 1 decorrelates batch statistics and is fastest.
        flip: whether an epoch has every example a second time, mirrored.
        order: "device" shuffles in the step; "original" is the original implementation's order.
        batch_norm: momentum of the running statistics.
        trajectory: whether a second network estimates where the root is. Semi-supervised training
            needs it, and has it.
        semi: unlabelled video.
    """

    model: TemporalConfig
    data: PoseDataConfig
    evaluations: Mapping[str, PoseDataConfig] = dataclasses.field(
        default_factory=dict, metadata=FREE
    )
    measure: MeasureConfig = dataclasses.field(default=MeasureConfig(), metadata=FREE)
    chunk: int = 1
    flip: bool = True
    order: Order = "device"
    batch_norm: BatchNormConfig = dataclasses.field(default_factory=BatchNormConfig)
    trajectory: bool = False
    semi: SemiConfig | None = None


def make_task(config: PoseTrainConfig) -> Task:
    """The task of a config.

    Raises:
        UserError: data that are not there, or a model that does not fit them.
    """
    if config.init_from is not None:
        raise UserError(
            "init_from is not supported by pose_jax.train; a run continues in its own workdir."
        )
    labelled = read_views(config.data, "positions")
    skeleton = check_model(config.model, labelled)
    mirrors = {
        "keypoint_mirror": labelled.keypoint_layout.mirror,
        "pose_mirror": skeleton.mirror,
    }
    cut = {"chunk": config.chunk, "flip": config.flip}
    windows = make_windows(labelled.views, config.model, **cut, **mirrors)
    unlabelled = None
    if config.semi is not None:
        others = read_views(config.semi.data, "intrinsics")
        if others.keypoint_layout != labelled.keypoint_layout:
            raise UserError(
                f"Labelled keypoints are {labelled.keypoint_layout.name}, unlabelled ones "
                f"{others.keypoint_layout.name}; both must come from the same kind of detector."
            )
        if config.semi.confidence and others.views[0].keypoints.shape[-1] < 3:
            raise UserError(
                f"{config.semi.data.keypoints} has no confidences; set semi.confidence=False."
            )
        unlabelled = make_windows(others.views, config.model, **cut, **mirrors)
    data = training_data(
        windows,
        unlabelled,
        batch_size=config.batch_size,
        seed=config.seed,
        order=config.order,
        content=_content(windows.arrays, unlabelled.arrays if unlabelled else {}),
    )
    measured = {
        name: read_views(chosen, "positions") for name, chosen in config.evaluations.items()
    }
    for views in measured.values():
        check_model(config.model, views)
    shards = batch_shards(make_mesh(config.mesh))
    return Task(
        init=make_init(config),
        loss=make_loss(config, labelled.keypoint_layout, skeleton, data.examples_per_epoch),
        train_data=data,
        evaluations={
            name: make_evaluation(
                views,
                config.model,
                config.measure,
                trajectory=has_trajectory(config),
                shards=shards,
            )
            for name, views in measured.items()
        },
        param_rules=PARAM_RULES if len(config.model.widths) > 1 else PARAM_RULES[2:],
        unit="examples",
        about=about(config, labelled),
    )


def has_trajectory(config: PoseTrainConfig) -> bool:
    """Whether the run trains a trajectory network too."""
    return config.trajectory or config.semi is not None


def about(config: PoseTrainConfig, views: Views) -> dict[str, Any]:
    """What a checkpoint says of its networks, enough to use them without the config."""
    assert views.skeleton is not None
    return {
        "model": to_dict(config.model),
        "trajectory": has_trajectory(config),
        "skeleton": views.skeleton.name,
        "keypoint_layout": views.keypoint_layout.name,
        "longest_side": config.data.longest_side,
        "fps": views.fps / config.data.downsample,
    }


def check_model(model: TemporalConfig, views: Views) -> Layout:
    """The skeleton of data that fit the model.

    Raises:
        UserError: they do not.
    """
    assert views.skeleton is not None
    joints, channels = views.views[0].keypoints.shape[1:]
    if joints != model.joints_in or channels < model.features:
        raise UserError(
            f"The data have {joints} keypoints of {channels} numbers, the model reads "
            f"{model.joints_in} of {model.features}; set config.model.joints_in={joints}"
            f"{' and config.model.features=2' if channels < model.features else ''}."
        )
    if views.skeleton.num_joints != model.joints_out:
        raise UserError(
            f"Poses of the data have {views.skeleton.num_joints} joints, the model gives "
            f"{model.joints_out}; set config.model.joints_out={views.skeleton.num_joints}."
        )
    return views.skeleton


def make_init(config: PoseTrainConfig):
    """A function of a key: parameters and running statistics of all networks of a run."""

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        pose_key, path_key = jax.random.split(key)
        params, state = temporal.init(config.model, pose_key)
        all_params, all_states = {"pose": params}, {"pose": state}
        if has_trajectory(config):
            path = dataclasses.replace(config.model, joints_out=1)
            all_params["trajectory"], all_states["trajectory"] = temporal.init(path, path_key)
        return all_params, all_states

    return init


def make_loss(
    config: PoseTrainConfig, keypoints: Layout, skeleton: Layout, examples_per_epoch: int
) -> LossFn:
    """What a step minimises: the sum of all terms, each with weight 1, in metres.

    The projection term is in screen units.
    """
    model, semi = config.model, config.semi
    path = dataclasses.replace(model, joints_out=1)
    # A window of one receptive field has a single output: only that is computed.
    single = config.chunk == 1 and not model.dense
    forward = temporal.strided if single else temporal.dilated
    of = {"batch_size": config.batch_size, "examples_per_epoch": examples_per_epoch}
    total, epoch = steps_of(config.total, **of), steps_of("1 epoch", **of)
    warmup = 0 if semi is None else steps_of(semi.warmup, **of, total_steps=total)
    shared = joint_map(skeleton, keypoints)

    def momentum(step: jax.Array) -> jax.Array:
        # Of the run that is done when an epoch begins.
        done = (step // epoch).astype(jnp.float32) * (epoch / total)
        fall = math.log(config.batch_norm.last / config.batch_norm.first)
        return config.batch_norm.first * jnp.exp(done * fall)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        x, mask = batch["keypoints"], _mask(batch, "")
        n = len(x)
        if semi is not None:
            # Side by side, not one after the other: every device keeps its own examples. Both
            # kinds share the batch statistics, once unlabelled examples count.
            begun = step >= warmup
            other_mask = _mask(batch, "unlabelled_") & begun
            x = jnp.stack([x, batch["unlabelled_keypoints"]], 1).reshape(2 * n, *x.shape[1:])
            both = jnp.stack([mask, other_mask], 1).reshape(2 * n)
        else:
            both = mask if "mask" in batch else None
        x = x[..., : model.features]

        def networks(name: str, network: TemporalConfig) -> tuple[jax.Array, ModelState]:
            key_of = jax.random.fold_in(key, 0 if name == "pose" else 1)
            training = Training(momentum(step), key_of, both)
            return forward(network, params[name], model_state[name], x, training)

        root = batch["positions"][..., :1, :]
        target = batch["positions"].at[..., 0, :].set(0.0)
        poses, pose_state = networks("pose", model)
        states, paths = {"pose": pose_state}, None
        if "trajectory" in params:
            paths, states["trajectory"] = networks("trajectory", path)
        labelled = poses[::2] if semi is not None else poses
        terms = {"pose": _mean(losses.mpjpe_each(labelled, target), mask)}
        if paths is not None:
            # Far away, a metre matters less (paper, section 3.3).
            own = paths[::2] if semi is not None else paths
            terms["trajectory"] = _mean(losses.mpjpe_each(own, root) / root[..., 0, 2], mask)
        if semi is not None:
            assert paths is not None
            if semi.projection is not None:
                project = cameras.project if semi.projection == "full" else cameras.project_linear
                image = project(poses[1::2] + paths[1::2], batch["unlabelled_intrinsics"])
                seen = _seen(batch["unlabelled_keypoints"], model, config.chunk)
                distance = _distance(image, seen, shared, confidence=semi.confidence)
                terms["projection"] = _mean(distance, other_mask)
            if semi.bone_length:
                terms["bone_length"] = losses.bone_length_term(
                    labelled, poses[1::2], skeleton.bones, mask, other_mask
                )
        total_loss = sum(terms.values(), start=jnp.float32(0))
        metrics = {name: (term, jnp.float32(1)) for name, term in terms.items()}
        return total_loss, (states, metrics)

    return loss


def _mask(batch: Batch, prefix: str) -> jax.Array:
    """Which examples count, bool (b,): all of them where none fills up the batch."""
    if f"{prefix}mask" in batch:
        return batch[f"{prefix}mask"]
    return jnp.ones(len(batch[f"{prefix}keypoints"]), bool)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of values (b, t) over the examples that count; 0 where none does."""
    count = jnp.maximum(mask.sum(dtype=jnp.float32), 1.0) * values.shape[1]
    return jnp.where(mask[:, None], values, 0.0).sum() / count


def _distance(
    image: jax.Array, seen: jax.Array, shared: Mapping[int, int], *, confidence: bool
) -> jax.Array:
    """Mean distance (b, t) of projected joints (b, t, j, 2) and the keypoints that they share.

    Weighted by confidence, a frame of doubtful keypoints counts little.
    """
    ours = image[..., list(shared), :]
    theirs = seen[..., list(shared.values()), :]
    distance = losses.mpjpe_each(ours[..., None, :], theirs[..., None, :2])
    if confidence:
        distance = distance * theirs[..., 2]
    return distance.mean(-1)


def _seen(keypoints: jax.Array, model: TemporalConfig, chunk: int) -> jax.Array:
    """The keypoints of the frames whose poses are estimated.

    The original takes the middle of the window for causal models too, whose poses are those of its
    end: it compares poses with keypoints of earlier frames.
    """
    return keypoints[:, model.pad_before : model.pad_before + chunk]


def _content(*parts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for arrays in parts:
        for name, array in sorted(arrays.items()):
            digest.update(name.encode())
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()[:16]
