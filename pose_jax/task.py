"""A run of ``pose_jax.train`` as the training core sees it."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from pose_jax import cameras
from pose_jax.data.training import training_data
from pose_jax.data.views import Views, read_views
from pose_jax.data.windows import Windows, make_windows
from pose_jax.flops import multiply_adds
from pose_jax.init_from import transfer_lifter
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

# A layer that splits its channels, and one that adds up the parts.
PARAM_RULES: tuple[ParamRule, ...] = (
    (".*/(expand|conv)/kernel", (None, None, "tensor")),
    (".*/(pointwise|shrink)/kernel", ("tensor", None)),
    (".*/(scale|bias)", (None,)),
)


def make_task(config: PoseTrainConfig) -> Task:
    """The task of a config.

    Raises:
        UserError: data that are not there, or a model that does not fit them.
    """
    read = functools.partial(read_views, data_dir=config.data_dir)
    return task_of(
        config,
        read(config.data, "positions"),
        read(config.semi.data, "intrinsics") if config.semi else None,
        {name: read(chosen, "positions") for name, chosen in config.evaluations.items()},
    )


def task_of(
    config: PoseTrainConfig,
    labelled: Views,
    unlabelled: Views | None = None,
    evaluations: Mapping[str, Views] | None = None,
) -> Task:
    """The task of a config whose data have been read.

    Args:
        config: the run.
        labelled: views with positions.
        unlabelled: views with intrinsics, of a semi-supervised run.
        evaluations: views with positions, by name.

    Raises:
        UserError: they do not fit the model, or each other.
    """
    if config.accumulate > 1:
        raise UserError(
            "accumulate must be 1 for poses: batch statistics are those of a whole batch, which "
            "micro-batches would not have."
        )
    skeleton = check_model(config.model, labelled)
    if config.has_trajectory:
        _require_in_front(labelled)
    windows = _windows(config, labelled, skeleton)
    others = None
    if config.semi is not None and unlabelled is not None:
        _require_same_kind(config.model, labelled, unlabelled, "semi.data")
        if config.semi.confidence and unlabelled.views[0].keypoints.shape[-1] < 3:
            raise UserError(
                f"{config.semi.data.keypoints} has no confidences; set semi.confidence=False."
            )
        others = _windows(config, unlabelled, skeleton)
    for name, views in (evaluations or {}).items():
        _require_same_kind(config.model, labelled, views, f"evaluations.{name}")
    data = training_data(
        windows,
        others,
        batch_size=config.batch_size,
        seed=config.seed,
        order=config.order,
        content=_content(windows.arrays, others.arrays if others else {}),
    )
    description = about(config, labelled)
    transfer = None
    if config.init_from is not None:
        transfer = functools.partial(transfer_lifter, config.init_from, description)
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
            for name, views in (evaluations or {}).items()
        },
        param_rules=PARAM_RULES,
        transfer=transfer,
        unit="examples",
        multiply_adds=multiply_adds(config),
        about=description,
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
        "fps": views.fps,
    }


def check_model(model: TemporalConfig, views: Views) -> Layout:
    """The skeleton of data that fit the model.

    Raises:
        UserError: they do not.
    """
    assert views.skeleton is not None
    _check_keypoints(model, views)
    if views.skeleton.num_joints != model.joints_out:
        raise UserError(
            f"Poses of the data have {views.skeleton.num_joints} joints, the model gives "
            f"{model.joints_out}; set config.model.joints_out={views.skeleton.num_joints}."
        )
    return views.skeleton


def _check_keypoints(model: TemporalConfig, views: Views) -> None:
    joints, channels = views.views[0].keypoints.shape[1:]
    if joints != model.joints_in or channels < model.features:
        raise UserError(
            f"The data have {joints} keypoints of {channels} numbers, the model reads "
            f"{model.joints_in} of {model.features}; set config.model.joints_in={joints}"
            f"{' and config.model.features=2' if channels < model.features else ''}."
        )


def make_init(config: PoseTrainConfig) -> Callable[[jax.Array], tuple[Params, ModelState]]:
    """A function of a key: parameters and running statistics of all networks of a run."""

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        keys = jax.random.split(key)
        made = {
            name: temporal.init(network, keys[i])
            for i, (name, network) in enumerate(config.networks.items())
        }
        params = {name: one for name, (one, _) in made.items()}
        return params, {name: state for name, (_, state) in made.items()}

    return init


def _windows(config: PoseTrainConfig, views: Views, skeleton: Layout) -> Windows:
    return make_windows(
        views.views,
        config.model,
        chunk=config.chunk,
        flip=config.flip,
        keypoint_mirror=views.keypoint_layout.mirror,
        pose_mirror=skeleton.mirror,
    )


def _require_in_front(views: Views) -> None:
    """Refuses roots whose distance, by which their errors are divided, is none."""
    for view in views.views:
        assert view.positions is not None
        if (view.positions[:, 0, 2] <= cameras.MIN_DEPTH).any():
            raise UserError(
                f"{view.subject} {view.action!r} is not always in front of camera {view.camera}, "
                "as the trajectory network needs it; leave the recording out."
            )


def _require_same_kind(model: TemporalConfig, labelled: Views, others: Views, key: str) -> None:
    """Refuses data whose numbers mean something else than those the networks learn from."""
    ours, theirs = labelled.keypoint_layout.name, others.keypoint_layout.name
    if ours != theirs:
        raise UserError(
            f"Keypoints of config.data are {ours}, those of config.{key} {theirs}; both must come "
            "from the same kind of detector."
        )
    if others.skeleton not in (None, labelled.skeleton):
        raise UserError(
            f"Poses of config.data and those of config.{key} have other joints; choose data with "
            "the same skeleton."
        )
    # A single frame has no rate; and videos of 29.97 frames are as good as those of 30.
    if model.receptive_field > 1 and abs(others.fps / labelled.fps - 1) > 0.02:
        raise UserError(
            f"config.data has {labelled.fps:g} frames per second, config.{key} {others.fps:g}; "
            "motion would look slower or faster: make them equal, for example with downsample."
        )
    _check_keypoints(model, others)


def _content(*parts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for arrays in parts:
        for name, array in sorted(arrays.items()):
            digest.update(name.encode())
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()[:16]
