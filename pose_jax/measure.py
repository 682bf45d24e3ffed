"""What an evaluation measures: the errors of the paper's tables, on the device, frame by frame.

Protocols (paper, section 5): 1, MPJPE; 2, after a rigid alignment with scale (P-MPJPE); 3, after
an optimal scale (N-MPJPE); and the velocity error (MPJVE). In mm, and mm per frame. Averages are
over frames within an action, then over actions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax import cameras, h36m, losses
from pose_jax.data.evaluation import evaluation_data
from pose_jax.data.views import View, Views
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from train_jax.metrics import Metrics
from train_jax.task import Batch, Evaluation

#: "predicted": the predicted root counts as it is, as in the original. "zero": poses are moved to
#: have their root at zero first, as several later papers do.
Root = Literal["predicted", "zero"]

MM = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How poses are estimated and compared in evaluations.

    Attributes:
        flip: averages the poses of a sequence and of its mirror image (46.8 rather than 47.7 mm,
            paper, appendix A).
        root: see :data:`Root`.
    """

    flip: bool = True
    root: Root = "predicted"


def estimate(
    model: TemporalConfig,
    params: Any,
    state: Any,
    keypoints: jax.Array,
    *,
    flip: bool,
    keypoint_mirror: Sequence[int],
    pose_mirror: Sequence[int],
) -> jax.Array:
    """Poses of sequences, averaged with those of their mirror images where ``flip``.

    Args:
        model: the network.
        params: its parameters.
        state: its running statistics.
        keypoints: float32 (n, t, joints, channels), screen units; further channels than the model
            reads are dropped.
        flip: whether to average.
        keypoint_mirror: permutation of the keypoints that swaps left and right.
        pose_mirror: the same of the output's joints.

    Returns:
        float32 (n, t - receptive_field + 1, joints_out, 3), metres.
    """
    x = keypoints[..., : model.features]
    if not flip:
        return temporal.dilated(model, params, state, x)[0]
    both = jnp.stack([x, cameras.flip_pose(x, keypoint_mirror)], axis=1)
    y, _ = temporal.dilated(model, params, state, both.reshape(-1, *x.shape[1:]))
    y = y.reshape(len(x), 2, *y.shape[1:])
    return 0.5 * (y[:, 0] + cameras.flip_pose(y[:, 1], pose_mirror))


def make_evaluation(
    views: Views,
    model: TemporalConfig,
    config: MeasureConfig,
    *,
    trajectory: bool,
    shards: int,
    detail: bool = False,
) -> Evaluation:
    """All errors of some views.

    Args:
        views: sequences with positions.
        model: the network for poses.
        config: how to compare.
        trajectory: whether there is a trajectory network, which is then measured too.
        shards: in how many parts a batch is split.
        detail: reports every action, subject and camera, not only the averages.
    """
    assert views.skeleton is not None
    mirrors: Any = {
        "flip": config.flip,
        "keypoint_mirror": views.keypoint_layout.mirror,
        "pose_mirror": views.skeleton.mirror,
    }
    path = dataclasses.replace(model, joints_out=1)
    num_views = len(views.views)

    def metrics(params: Any, model_state: Any, batch: Batch) -> Metrics:
        x, target = batch["keypoints"], batch["positions"]
        root, target = target[..., :1, :], target.at[..., 0, :].set(0.0)
        y = estimate(model, params["pose"], model_state["pose"], x, **mirrors)
        if config.root == "zero":
            y = y - y[..., :1, :]
        errors = {
            "mpjpe": losses.mpjpe_each(y[:, 1:], target[:, 1:]),
            "p_mpjpe": losses.p_mpjpe_each(y[:, 1:], target[:, 1:]),
            "n_mpjpe": losses.n_mpjpe_each(y[:, 1:], target[:, 1:]),
            "mpjve": losses.velocity_each(y, target),
        }
        if trajectory:
            z = estimate(
                path,
                params["trajectory"],
                model_state["trajectory"],
                x,
                **{**mirrors, "pose_mirror": (0,)},
            )
            errors["trajectory"] = losses.mpjpe_each(z[:, 1:], root[:, 1:])

        def by_view(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            zeros, view = jnp.zeros(num_views, jnp.float32), batch["view"]
            total = zeros.at[view].add(jnp.where(mask, values, 0.0))
            return total, zeros.at[view].add(mask.astype(jnp.float32))

        return {
            name: by_view(error, batch["moving"] if name == "mpjve" else batch["mask"])
            for name, error in errors.items()
        }

    def summary(sums: Metrics) -> dict[str, float]:
        return summarise(jax.device_get(dict(sums)), views.views, detail=detail)

    return Evaluation(evaluation_data(views.views, model, shards=shards), metrics, summary)


def summarise(
    sums: Mapping[str, tuple[np.ndarray, np.ndarray]], views: Sequence[View], *, detail: bool
) -> dict[str, float]:
    """Averages of errors that were summed per view.

    As in the original evaluation, an average velocity error counts with the frames of its view,
    not with its velocities; and a view of a single frame, which has none, not at all.

    Args:
        sums: name -> (sum (v,), count (v,)) in metres.
        views: those v views.
        detail: adds ``name/action/...``, ``name/subject/...``, ``name/subject and action/...``,
            ``name/camera/...`` and ``name/frames``, the average over all frames.

    Returns:
        Errors in mm by name: the unweighted mean over actions of the mean over their frames.
    """
    result: dict[str, float] = {}
    frames = np.asarray(next(iter(sums.values()))[1], np.float64)
    groups: dict[str, Callable[[View], str]] = {
        "action": lambda view: h36m.action_of(view.action),
        "subject": lambda view: view.subject,
        "subject and action": lambda view: f"{view.subject} {h36m.action_of(view.action)}",
        "camera": lambda view: view.camera,
    }
    for name, (total, count) in sums.items():
        total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
        known = count > 0
        mean = np.where(known, total / np.maximum(count, 1), 0.0)
        weight = np.where(known, frames, 0.0)

        def average(chosen: np.ndarray, mean=mean, weight=weight) -> float | None:
            if not weight[chosen].sum():
                return None
            return MM * float((mean * weight)[chosen].sum() / weight[chosen].sum())

        for kind, group_of in groups.items():
            names = np.array([group_of(view) for view in views])
            averages = {
                group: value
                for group in dict.fromkeys(names.tolist())
                if (value := average(names == group)) is not None
            }
            if kind == "action":
                if not averages:
                    break
                result[name] = float(np.mean(list(averages.values())))
            if detail:
                result |= {f"{name}/{kind}/{group}": v for group, v in averages.items()}
        if detail and (value := average(np.ones(len(views), bool))) is not None:
            result[f"{name}/frames"] = value
    return result
