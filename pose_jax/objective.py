"""What training minimises: supervised terms, and back-projection for video without labels."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pose_jax import cameras, losses
from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.models.temporal import Training
from pose_jax.skeletons import Layout, joint_map
from pose_jax.train_config import PoseTrainConfig
from train_jax.metrics import Metrics
from train_jax.schedules import steps_of
from train_jax.task import Batch, LossFn, ModelState, Params


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
        n, begun, other_mask = len(x), step >= warmup, mask
        if semi is not None:
            # Side by side, not one after the other: every device keeps its own examples. Both
            # kinds share the batch statistics, once unlabelled examples count.
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
                term = losses.bone_length_term(
                    labelled,
                    poses[1::2],
                    skeleton.bones,
                    labelled_weights=mask,
                    unlabelled_weights=other_mask,
                )
                terms["bone_length"] = jnp.where(begun, term, 0.0)
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
