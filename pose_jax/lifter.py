"""A trained lifter: what a checkpoint needs to be used without the config of its run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pose_jax.data.evaluation import evaluation_data
from pose_jax.data.views import View
from pose_jax.measure import estimate
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import Layout, layout
from train_jax.config import from_config
from train_jax.data.placement import to_device, to_reside
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.restore import restore_params, restore_parts
from train_jax.sharding import batch_sharding
from train_jax.stored import find, read_meta, read_shapes

POSE, TRAJECTORY = "pose", "trajectory"


@dataclasses.dataclass(frozen=True, eq=False)
class Lifter:
    """Networks with their weights, and what their numbers mean.

    Attributes:
        model: the network for poses.
        params: ``pose``, and ``trajectory`` where there is one.
        state: running statistics likewise.
        skeleton: the joints of the output.
        keypoint_layout: the joints of the input.
        longest_side: how pixels are normalised.
        fps: the frame rate of the training data; None if it is not known.
    """

    model: TemporalConfig
    params: Any
    state: Any
    skeleton: Layout
    keypoint_layout: Layout
    longest_side: bool
    fps: float | None

    @property
    def has_trajectory(self) -> bool:
        """Whether it estimates where the root is."""
        return TRAJECTORY in self.params


def load_lifter(checkpoint: str) -> Lifter:
    """Reads a run's newest checkpoint (its averaged parameters, where it kept them).

    Raises:
        UserError: there is none, or it is not a lifter's.
    """
    directory = find(checkpoint)
    meta = read_meta(directory)
    try:
        model = from_config(TemporalConfig, meta["model"], path="model")
        skeleton, keypoints = layout(meta["skeleton"]), layout(meta["keypoint_layout"])
    except (KeyError, UserError) as error:
        raise UserError(
            f"{directory} is not the checkpoint of a pose lifter ({error}); name one of "
            "pose_jax.train or pose_jax.convert."
        ) from error
    names = [POSE, TRAJECTORY] if TRAJECTORY in read_shapes(directory)["params"] else [POSE]
    networks = {
        name: model if name == POSE else dataclasses.replace(model, joints_out=1) for name in names
    }
    shapes = {
        name: jax.eval_shape(lambda key, n=network: temporal.init(n, key), jax.random.key(0))
        for name, network in networks.items()
    }
    params = restore_params(
        directory, {name: params for name, (params, _) in shapes.items()}, prefer_ema=True
    )
    state = restore_parts(
        directory, {"model_state": {name: state for name, (_, state) in shapes.items()}}
    )["model_state"]
    return Lifter(
        model=model,
        params=params,
        state=state,
        skeleton=skeleton,
        keypoint_layout=keypoints,
        longest_side=bool(meta.get("longest_side", False)),
        fps=meta.get("fps"),
    )


def lift(lifter: Lifter, views: Sequence[View], *, flip: bool = True) -> list[np.ndarray]:
    """A pose for every frame of every view, on all devices of this machine.

    Args:
        lifter: the networks.
        views: keypoints in the lifter's layout and units; positions are not used.
        flip: averages with the pose of the mirror image.

    Returns:
        For each view float32 (t, joints, 3), metres: relative to the root, and moved to where the
        trajectory network sees it, in camera space, if there is one.
    """
    views = [dataclasses.replace(view, positions=None) for view in views]
    networks = {POSE: lifter.model}
    if lifter.has_trajectory:
        networks[TRAJECTORY] = dataclasses.replace(lifter.model, joints_out=1)
    mesh = make_mesh(MeshConfig())
    data = evaluation_data(views, lifter.model, shards=mesh.size)

    @jax.jit
    def poses(params: Any, state: Any, resident: Any, batch: Any) -> jax.Array:
        x = data.expand(resident, batch)["keypoints"]
        results = {
            name: estimate(
                network,
                params[name],
                state[name],
                x,
                flip=flip,
                keypoint_mirror=lifter.keypoint_layout.mirror,
                pose_mirror=lifter.skeleton.mirror if name == POSE else (0,),
            )
            for name, network in networks.items()
        }
        return sum(results.values())[:, 1:]  # pyright: ignore[reportIndexIssue]

    results = [np.empty((len(v.keypoints), lifter.model.joints_out, 3), np.float32) for v in views]
    with jax.set_mesh(mesh):
        resident, sharding = to_reside(data.resident, mesh), batch_sharding(mesh)
        for batch in data.start(np.arange(data.batch_size)):
            placed = to_device(batch, sharding, data.batch_size)
            piece = np.asarray(poses(lifter.params, lifter.state, resident, placed))
            for i in np.flatnonzero(batch["mask"]):
                whole, first = results[batch["view"][i]], batch["first"][i]
                whole[first : first + piece.shape[1]] = piece[i, : len(whole) - first]
    return results
