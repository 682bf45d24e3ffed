"""A run of ``pose_jax.train`` without its data, for ``train_jax.plan``.

In the place of the sequences stand as many frames without content, in sequences of equal length.
Frames are those of Human3.6M's subjects (paper, Figure 5) as far as a config names them; any other
data set is taken to be as large as the training part of Human3.6M: 600 sequences, 1,559,752 frames.
"""

import dataclasses
import math

import jax
import numpy as np

from pose_jax.data.views import PoseDataConfig, View, Views
from pose_jax.flops import multiply_adds
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import LAYOUTS, layout
from pose_jax.task import task_of
from pose_jax.train_config import PoseTrainConfig
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig
from train_jax.outline import Outline

CONFIG = PoseTrainConfig

SEQUENCES, FRAMES = 600, 1_559_752
#: By four cameras; rounded as in Figure 5, whose S7 and S8 come together.
SUBJECT_FRAMES = {"S1": 248_000, "S5": 397_000, "S6": 250_000, "S7": 332_376, "S8": 332_376}


def outline(config: PoseTrainConfig) -> Outline:
    """The task of a config on such data, and the shapes of its batches.

    Raises:
        UserError: the config cannot work.
    """
    labelled = _views(config.data, config.model, positions=True)
    unlabelled = None
    if config.semi is not None:
        unlabelled = _views(config.semi.data, config.model, positions=False)
    # The mesh of the task is that of evaluations, which are not planned.
    single = dataclasses.replace(config, mesh=MeshConfig(), init_from=None)
    task = task_of(single, labelled, unlabelled)
    batch = next(iter(task.train_data.start(0, np.arange(config.batch_size))))
    return Outline(
        task=task,
        resident=_shapes(task.train_data.resident),
        batch=_shapes(batch),
        multiply_adds=multiply_adds(config),
    )


def _shapes(arrays) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}


def _views(data: PoseDataConfig, model: TemporalConfig, *, positions: bool) -> Views:
    known = [SUBJECT_FRAMES[name] for name in data.subjects if name in SUBJECT_FRAMES]
    frames = sum(known) if known and len(known) == len(data.subjects) else FRAMES
    sequences = max(1, SEQUENCES * frames // FRAMES)
    length = math.ceil(frames * data.fraction / data.downsample / sequences)
    keypoints = np.zeros((length, model.joints_in, model.features), np.float32)
    # In front of the camera, which the trajectory network asks for.
    poses = np.ones((length, model.joints_out, 3), np.float32) if positions else None
    view = View("S1", "Walking", "camera", keypoints, poses, np.zeros(9, np.float32))
    return Views(
        (view,) * sequences,
        _layout_of(model.joints_in, "keypoints"),
        _layout_of(model.joints_out, "poses"),
        50.0 / data.downsample,
    )


def _layout_of(joints: int, what: str):
    for name in ("h36m17", "humaneva15", *LAYOUTS):
        if layout(name).num_joints == joints:
            return layout(name)
    raise UserError(f"No layout of {what} with {joints} joints is known, so no plan can be made.")
