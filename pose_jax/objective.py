"""What training minimises: supervised terms, and back-projection for video without labels."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from pose_jax import cameras, losses
from pose_jax.models import temporal
from pose_jax.models.temporal import Training
from pose_jax.skeletons import Layout, joint_map
from pose_jax.train_config import PoseTrainConfig, SemiConfig
from train_jax.errors import UserError
from train_jax.metrics import Metrics
from train_jax.schedules import steps_of
from train_jax.task import Batch, LossFn, ModelState, Params

#: Name of a network -> what it gives, (b, t, joints, 3) in metres.
Outputs = Mapping[str, jax.Array]
Terms = dict[str, jax.Array]


def make_loss(
    config: PoseTrainConfig, keypoints: Layout, skeleton: Layout, examples_per_epoch: int
) -> LossFn:
    """What a step minimises: the sum of all terms, each with weight 1, in metres.

    The projection term is in screen units.

    Args:
        config: the run.
        keypoints: layout of the keypoints, labelled or not.
        skeleton: layout of the poses.
        examples_per_epoch: labelled examples; epochs are theirs.

    Returns:
        A function of a batch as :func:`pose_jax.data.training.training_data` makes it. Its metrics
        are the terms.

    Raises:
        UserError: the run has no steps, or ends before its unlabelled examples count.
    """
    model, semi = config.model, config.semi
    # A window of one receptive field has a single output: only that is computed.
    single = config.chunk == 1 and not model.dense
    forward = temporal.strided if single else temporal.dilated
    momentum = make_momentum(config, examples_per_epoch)
    warmup = _warmup(config, examples_per_epoch)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        x, counted = batch["keypoints"][..., : model.features], batch.get("mask")
        labelled = unlabelled = _mask(batch, "")
        if semi is not None:
            # Both kinds share the batch statistics, once unlabelled examples count.
            unlabelled = _mask(batch, "unlabelled_") & (step >= warmup)
            x = _paired(x, batch["unlabelled_keypoints"][..., : model.features])
            counted = _paired(labelled, unlabelled)
        outputs, states, others = {}, {}, {}
        for i, (name, network) in enumerate(config.networks.items()):
            training = Training(momentum(step), jax.random.fold_in(key, i), counted)
            outputs[name], states[name] = forward(
                network, params[name], model_state[name], x, training
            )
            if semi is not None:
                outputs[name], others[name] = _parted(outputs[name])
        terms = _supervised(outputs, batch["positions"], labelled)
        if semi is not None:
            seen = batch["unlabelled_keypoints"][:, model.pad_before :][:, : config.chunk]
            if semi.projection is not None:
                image = _projected(semi, others, batch["unlabelled_intrinsics"])
                shared = joint_map(skeleton, keypoints)
                distance = _distance(image, seen, shared, confidence=semi.confidence)
                terms["projection"] = _mean(distance, unlabelled)
            if semi.bone_length:
                term = losses.bone_length_term(
                    outputs["pose"],
                    others["pose"],
                    skeleton.bones,
                    labelled_weights=labelled,
                    unlabelled_weights=unlabelled,
                )
                terms["bone_length"] = jnp.where(unlabelled.any(), term, 0.0)
        metrics = {name: (term, jnp.float32(1)) for name, term in terms.items()}
        return sum(terms.values(), start=jnp.float32(0)), (states, metrics)

    return loss


def make_momentum(
    config: PoseTrainConfig, examples_per_epoch: int
) -> Callable[[jax.Array], jax.Array]:
    """Share of the new batch in the running statistics, float32, as a function of the step.

    m(e) = first (last / first)^(e / E) when e of E epochs are done; all of the first has m(0).

    Raises:
        UserError: the run has no steps.
    """
    total = _steps(config, config.total, examples_per_epoch)
    if not total:
        raise UserError(f"config.total is {config.total!r}; a run takes at least 1 step.")
    epoch = _steps(config, "1 epoch", examples_per_epoch)
    first, last = config.batch_norm.first, config.batch_norm.last
    fall = math.log(last / first)

    def momentum(step: jax.Array) -> jax.Array:
        done = (step // epoch).astype(jnp.float32) * (epoch / total)
        return first * jnp.exp(done * fall)

    return momentum


def _warmup(config: PoseTrainConfig, examples_per_epoch: int) -> int:
    """Steps before unlabelled examples count."""
    if config.semi is None:
        return 0
    total = _steps(config, config.total, examples_per_epoch)
    warmup = _steps(config, config.semi.warmup, examples_per_epoch, total)
    if warmup >= total:
        raise UserError(
            f"semi.warmup of {config.semi.warmup} is {warmup} steps, and the run has {total}; "
            "shorten it, or unlabelled examples never count."
        )
    return warmup


def _steps(
    config: PoseTrainConfig, duration: str, examples_per_epoch: int, total: int | None = None
) -> int:
    return steps_of(
        duration,
        batch_size=config.batch_size,
        examples_per_epoch=examples_per_epoch,
        total_steps=total,
    )


def _supervised(outputs: Outputs, positions: jax.Array, mask: jax.Array) -> Terms:
    """The terms of labelled examples."""
    root = positions[..., :1, :]
    # The network learns to put the root at the origin, which counts as one of the joints.
    target = positions.at[..., 0, :].set(0.0)
    terms = {"pose": _mean(losses.mpjpe_each(outputs["pose"], target), mask)}
    if "trajectory" in outputs:
        # Far away, a metre matters less (paper, section 3.3).
        distance = losses.mpjpe_each(outputs["trajectory"], root)
        terms["trajectory"] = _mean(distance / root[..., 0, 2], mask)
    return terms


def _projected(semi: SemiConfig, outputs: Outputs, intrinsics: jax.Array) -> jax.Array:
    """Where the poses of unlabelled examples are on the screen, (b, t, joints, 2)."""
    project = cameras.project if semi.projection == "full" else cameras.project_linear
    return project(outputs["pose"] + outputs["trajectory"], intrinsics)


def _distance(
    image: jax.Array, seen: jax.Array, shared: Mapping[int, int], *, confidence: bool
) -> jax.Array:
    """Mean distance (b, t) of projected joints (b, t, j, 2) and the keypoints that they share.

    Keypoints are those of the frames whose poses are estimated. (The original takes the middle of
    the window for causal models too, whose poses are those of its end.) Weighted by confidence, a
    frame of doubtful keypoints counts little.
    """
    ours = image[..., list(shared), :]
    theirs = seen[..., list(shared.values()), :]
    distance = losses.mpjpe_each(ours[..., None, :], theirs[..., None, :2])
    if confidence:
        distance = distance * theirs[..., 2]
    return distance.mean(-1)


def _mask(batch: Batch, prefix: str) -> jax.Array:
    """Which examples count, bool (b,): all of them where none fills up the batch."""
    if f"{prefix}mask" in batch:
        return batch[f"{prefix}mask"]
    return jnp.ones(len(batch[f"{prefix}keypoints"]), bool)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of values (b, t) over the examples that count; 0 where none does."""
    count = jnp.maximum(mask.sum(dtype=jnp.float32), 1.0) * values.shape[1]
    return jnp.where(mask[:, None], values, 0.0).sum() / count


def _paired(labelled: jax.Array, unlabelled: jax.Array) -> jax.Array:
    """Two times (b, ...) as (2b, ...), side by side, so that every device keeps its examples."""
    pairs = jnp.stack([labelled, unlabelled], axis=1)
    return pairs.reshape(-1, *labelled.shape[1:])


def _parted(pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The reverse of :func:`_paired`."""
    pairs = pairs.reshape(-1, 2, *pairs.shape[1:])
    return pairs[:, 0], pairs[:, 1]
