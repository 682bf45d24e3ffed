"""A trained lifter: what a checkpoint needs to be used without the config of its run."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

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
from train_jax.sharding import batch_sharding, batch_shards, replicated
from train_jax.stored import find, read_meta

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

    def warn_of_rate(self, fps: float) -> None:
        """Logs a warning if motion at this rate looks much faster or slower than in training."""
        if self.fps and self.model.receptive_field > 1 and abs(fps / self.fps - 1) > 0.1:
            logging.warning(
                "The keypoints have %g frames per second, the model was trained at %g; motion will "
                "look faster or slower to it than it is.",
                fps,
                self.fps,
            )


def networks(model: TemporalConfig, *, trajectory: bool) -> dict[str, TemporalConfig]:
    """The networks of a lifter by name; that of the trajectory is of the same size."""
    path = {TRAJECTORY: dataclasses.replace(model, joints_out=1)} if trajectory else {}
    return {POSE: model, **path}


def load_lifter(checkpoint: str) -> Lifter:
    """Reads a run's newest checkpoint (its averaged parameters, where it kept them).

    Raises:
        UserError: there is none, or it is not a lifter's.
    """
    if checkpoint.endswith((".bin", ".pt", ".pth")):
        raise UserError(f"{checkpoint} must be converted before; see python -m pose_jax.convert.")
    directory = find(checkpoint)
    meta = read_meta(directory)
    try:
        model = from_config(TemporalConfig, meta["model"], path="model")
        skeleton, keypoints = layout(meta["skeleton"]), layout(meta["keypoint_layout"])
    except (KeyError, UserError) as error:
        fault = f"its meta has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{directory} is not the checkpoint of a pose lifter ({fault.rstrip('.')}); name one "
            "of pose_jax.train or pose_jax.convert."
        ) from error
    shapes = {
        name: jax.eval_shape(functools.partial(temporal.init, network), jax.random.key(0))
        for name, network in networks(model, trajectory=bool(meta.get("trajectory"))).items()
    }
    params = {name: params for name, (params, _) in shapes.items()}
    state = {name: state for name, (_, state) in shapes.items()}
    params = restore_params(directory, params, prefer_ema=True)
    state = restore_parts(directory, {"model_state": state})["model_state"]
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
    mirrors = {POSE: lifter.skeleton.mirror, TRAJECTORY: (0,)}
    mesh = make_mesh(MeshConfig())
    data = evaluation_data(views, lifter.model, shards=batch_shards(mesh))

    @jax.jit
    def poses(params: Any, state: Any, resident: Any, batch: Any) -> tuple[jax.Array, ...]:
        pieces = data.expand(resident, batch)
        x = pieces["keypoints"]
        results = [
            estimate(
                network,
                params[name],
                state[name],
                x,
                flip=flip,
                keypoint_mirror=lifter.keypoint_layout.mirror,
                pose_mirror=mirrors[name],
            )
            for name, network in networks(lifter.model, trajectory=lifter.has_trajectory).items()
        ]
        # The first pose of a piece is the one before it, which only velocities need.
        y = functools.reduce(jnp.add, results)[:, 1:]
        return y, pieces["view"], pieces["frame"], pieces["mask"]

    results = [np.empty((len(v.keypoints), lifter.model.joints_out, 3), np.float32) for v in views]
    with jax.set_mesh(mesh):
        params, state = jax.device_put((lifter.params, lifter.state), replicated(mesh))
        resident, sharding = to_reside(data.resident, mesh), batch_sharding(mesh)
        for batch in data.start(np.arange(data.batch_size)):
            placed = to_device(batch, sharding, data.batch_size)
            y, view, frame, mask = map(np.asarray, poses(params, state, resident, placed))
            y, view, frame = y[mask], view[mask], frame[mask]
            for i in np.unique(view):
                results[i][frame[view == i]] = y[view == i]
    return results
