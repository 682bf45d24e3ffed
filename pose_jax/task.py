"""A run of ``pose_jax.train`` as the training core sees it."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax

from pose_jax.data.training import training_data
from pose_jax.data.views import Views, read_views
from pose_jax.data.windows import make_windows
from pose_jax.measure import make_evaluation
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.objective import make_loss
from pose_jax.skeletons import Layout
from pose_jax.train_config import PoseTrainConfig
from train_jax.config import to_dict
from train_jax.errors import UserError
from train_jax.mesh import make_mesh
from train_jax.sharding import ParamRule, batch_shards
from train_jax.task import ModelState, Params, Task

PARAM_RULES: tuple[ParamRule, ...] = (
    (".*/conv/kernel", (None, None, "tensor")),
    (".*/pointwise/kernel", (None, "tensor")),
    (".*/expand/kernel", (None, None, "tensor")),
    (".*/shrink/kernel", ("tensor", None)),
    (".*/(scale|bias)", (None,)),
)


def make_task(config: PoseTrainConfig) -> Task:
    """The task of a config.

    Raises:
        UserError: data that are not there, or a model that does not fit them.
    """
    if config.init_from is not None:
        raise UserError(
            "init_from is not supported by pose_jax.train; a run continues in its own workdir."
        )
    labelled = read_views(config.data, "positions", data_dir=config.data_dir)
    skeleton = check_model(config.model, labelled)
    windows_of = functools.partial(
        make_windows,
        model=config.model,
        chunk=config.chunk,
        flip=config.flip,
        keypoint_mirror=labelled.keypoint_layout.mirror,
        pose_mirror=skeleton.mirror,
    )
    windows = windows_of(labelled.views)
    unlabelled = None
    if config.semi is not None:
        others = read_views(config.semi.data, "intrinsics", data_dir=config.data_dir)
        if others.keypoint_layout != labelled.keypoint_layout:
            raise UserError(
                f"Labelled keypoints are {labelled.keypoint_layout.name}, unlabelled ones "
                f"{others.keypoint_layout.name}; both must come from the same kind of detector."
            )
        if config.semi.confidence and others.views[0].keypoints.shape[-1] < 3:
            raise UserError(
                f"{config.semi.data.keypoints} has no confidences; set semi.confidence=False."
            )
        unlabelled = windows_of(others.views)
    data = training_data(
        windows,
        unlabelled,
        batch_size=config.batch_size,
        seed=config.seed,
        order=config.order,
        content=_content(windows.arrays, unlabelled.arrays if unlabelled else {}),
    )
    measured = {
        name: read_views(chosen, "positions", data_dir=config.data_dir)
        for name, chosen in config.evaluations.items()
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
                trajectory=config.has_trajectory,
                shards=shards,
            )
            for name, views in measured.items()
        },
        param_rules=PARAM_RULES if len(config.model.widths) > 1 else PARAM_RULES[2:],
        unit="examples",
        about=about(config, labelled),
    )


def about(config: PoseTrainConfig, views: Views) -> dict[str, Any]:
    """What a checkpoint says of its networks, enough to use them without the config."""
    assert views.skeleton is not None
    return {
        "model": to_dict(config.model),
        "trajectory": config.has_trajectory,
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
        if config.has_trajectory:
            path = dataclasses.replace(config.model, joints_out=1)
            all_params["trajectory"], all_states["trajectory"] = temporal.init(path, path_key)
        return all_params, all_states

    return init


def _content(*parts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for arrays in parts:
        for name, array in sorted(arrays.items()):
            digest.update(name.encode())
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()[:16]
