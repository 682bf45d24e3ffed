"""Errors of poses: the losses of training and the four measures of evaluation.

Poses are float (..., J, 3) in metres, keypoints (..., J, 2) in screen coordinates; the leading axes
are examples and frames. A function that ends in `_each` gives the error per frame (...,), for sums
over a data set, and its namesake the mean. The paper's tables are millimetres.

    mpjpe            mean distance of the joints (protocol 1)
    p_mpjpe          the same after the best rotation, translation and scale (protocol 2)
    n_mpjpe          the same after the best scale (protocol 3)
    velocity_error   of the poses' differences from frame to frame (MPJVE)

Source: the paper's section 5.2 and, for the terms without labels, section 4.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pose_jax.rotation import best_rotation
from train_jax.errors import UserError

Array = jax.Array | np.ndarray


def mpjpe_each(predicted: Array, target: Array) -> jax.Array:
    """Mean distance of the joints (..., J, 3 or 2) to their targets in every frame (...,)."""
    return _distances(predicted, target).mean(axis=-1)


def mpjpe(predicted: Array, target: Array, weights: Array | None = None) -> jax.Array:
    """The mean distance of joints (..., J, 3 or 2) to their targets.

    Args:
        predicted: in metres or screen units.
        target: the same shape.
        weights: of the joints (..., J) or frames (..., 1), such as a detector's confidence or the
            mask of a padded batch. They are relative: scaling all of them changes nothing, and if
            they are all zero so is the error.
    """
    return _mean(_distances(predicted, target), weights)


def weighted_mpjpe(predicted: Array, target: Array, w: Array) -> jax.Array:
    """The mean of weights times distances, not divided by the weights' sum.

    The trajectory's loss with w = 1/Z of the root: a person far away, whose position is uncertain,
    counts less (paper, section 4).

    Args:
        predicted: metres (..., J, 3).
        target: the same shape.
        w: (..., J) or (..., 1).
    """
    return jnp.mean(jnp.asarray(w) * _distances(predicted, target))


def n_mpjpe_each(predicted: Array, target: Array) -> jax.Array:
    """`mpjpe_each` after scaling every predicted pose by its best factor, ⟨p, t⟩ / ⟨p, p⟩.

    Rhodin et al., "Unsupervised geometry-aware representation for 3D human pose estimation", 2018.
    A pose of zeros stays one.
    """
    predicted, target = jnp.asarray(predicted), jnp.asarray(target)
    square = jnp.sum(predicted * predicted, axis=(-2, -1), keepdims=True)
    product = jnp.sum(predicted * target, axis=(-2, -1), keepdims=True)
    return mpjpe_each(_ratio(product, square) * predicted, target)


def n_mpjpe(predicted: Array, target: Array) -> jax.Array:
    """The mean of `n_mpjpe_each`."""
    return n_mpjpe_each(predicted, target).mean()


def p_mpjpe_each(predicted: Array, target: Array) -> jax.Array:
    """`mpjpe_each` after moving every predicted pose (..., J, 3) onto its target.

    The similarity (scale, rotation without reflection, translation) with the least squared error,
    from the poses' 3x3 cross-covariance (Procrustes; Umeyama, 1991). For evaluation: it is not
    made to be differentiated.

    Where all joints of a prediction are in one point, that point is moved to the target's middle.
    """
    predicted, target = jnp.asarray(predicted), jnp.asarray(target)
    middle = target.mean(axis=-2, keepdims=True)
    x, y = predicted - predicted.mean(axis=-2, keepdims=True), target - middle
    size_x, size_y = (_norms(each.reshape(*each.shape[:-2], -1)) for each in (x, y))
    # Unit sizes, so that the covariance of small poses does not vanish in float32.
    x, y = (_ratio(each, size[..., None, None]) for each, size in ((x, size_x), (y, size_y)))
    # Rotations rounded to bfloat16, a TPU's default, would be off by millimetres.
    with jax.default_matmul_precision("highest"):
        rotation, trace = best_rotation(jnp.swapaxes(x, -1, -2) @ y)
        moved = (trace * size_y)[..., None, None] * (x @ rotation) + middle
    return mpjpe_each(moved, target)


def p_mpjpe(predicted: Array, target: Array) -> jax.Array:
    """The mean of `p_mpjpe_each`."""
    return p_mpjpe_each(predicted, target).mean()


def velocity_each(predicted: Array, target: Array) -> jax.Array:
    """`mpjpe_each` of the differences between neighbouring frames.

    Args:
        predicted: metres (..., T, J, 3), relative to the root.
        target: the same shape.

    Returns:
        (..., T - 1), metres per frame: it is not divided by the time between frames.
    """
    return mpjpe_each(
        jnp.diff(jnp.asarray(predicted), axis=-3), jnp.diff(jnp.asarray(target), axis=-3)
    )


def velocity_error(predicted: Array, target: Array) -> jax.Array:
    """The mean of `velocity_each`.

    Raises:
        UserError: there is only one frame, which has no velocity.
    """
    if predicted.shape[-3] < 2:
        raise UserError("The velocity error needs two frames or more, but the sequence has one.")
    return velocity_each(predicted, target).mean()


def bone_lengths(x: Array, bones: Sequence[tuple[int, int]]) -> jax.Array:
    """Lengths (..., bones) in metres of poses (..., J, 3).

    Args:
        x: the poses.
        bones: (child, parent) of each, as `pose_jax.skeletons.Layout.bones`.
    """
    x = jnp.asarray(x)
    children, parents = np.array(bones).T
    return _norms(x[..., children, :] - x[..., parents, :])


def bone_length_term(
    labelled: Array,
    unlabelled: Array,
    bones: Sequence[tuple[int, int]],
    *,
    labelled_weights: Array | None = None,
    unlabelled_weights: Array | None = None,
) -> jax.Array:
    """How much bones of unlabelled people differ from those of labelled ones (paper, section 4).

    The lengths of predicted poses, averaged over all frames of all examples of either batch; the
    absolute difference of the two averages, averaged over the bones. Both batches have a gradient.

    Args:
        labelled: predicted poses of examples with labels, metres (n, T, J, 3).
        unlabelled: predicted poses of the others, metres (m, T', J, 3).
        bones: as in `bone_lengths`.
        labelled_weights: of the examples (n,), relative: the mask of a padded batch.
        unlabelled_weights: (m,) likewise.
    """
    one, other = (
        _mean_of_examples(bone_lengths(x, bones).mean(axis=1), weights)
        for x, weights in ((labelled, labelled_weights), (unlabelled, unlabelled_weights))
    )
    return jnp.abs(one - other).mean()


def _mean_of_examples(lengths: jax.Array, weights: Array | None) -> jax.Array:
    """The mean (bones,) over the first axis of (n, bones)."""
    if weights is None:
        return lengths.mean(axis=0)
    weights = jnp.asarray(weights).astype(lengths.dtype)[:, None]
    return _ratio((weights * lengths).sum(axis=0), weights.sum(axis=0))


def _mean(values: jax.Array, weights: Array | None) -> jax.Array:
    if weights is None:
        return values.mean()
    weights = jnp.broadcast_to(jnp.asarray(weights).astype(values.dtype), values.shape)
    return _ratio(jnp.sum(weights * values), weights.sum())


def _distances(a: Array, b: Array) -> jax.Array:
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.shape != b.shape:
        # Broadcasting would compare every frame with one.
        raise UserError(f"Poses of shape {a.shape} cannot be compared with {b.shape}.")
    return _norms(a - b)


def _norms(x: jax.Array) -> jax.Array:
    """Euclidean lengths along the last axis, with a gradient of zero, not NaN, at zero."""
    square = jnp.sum(x * x, axis=-1)
    zero = square == 0
    root = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
    return jnp.where(zero, jnp.zeros_like(root), root)


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """The quotient, and zero where b is, with finite gradients."""
    zero = b == 0
    return jnp.where(zero, jnp.zeros_like(a), a / jnp.where(zero, jnp.ones_like(b), b))
