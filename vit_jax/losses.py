"""Losses and accuracies over class labels.

Sigmoid cross-entropy for pre-training, where an image may have several labels; softmax cross-
entropy for fine-tuning (ViT paper, section 4.1). Logits (b, K) of any float dtype; computed in
float32. Labels (b, L) are class indices padded with -1, so one array holds single labels,
several, or none.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from train_jax.metrics import mean_of

LossName = Literal["sigmoid", "softmax"]
Pair = tuple[jax.Array, jax.Array]


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """The targets (b, K) float32: one at the labels (b, L), zero elsewhere.

    -1 is padding; a repeated label counts once.
    """
    classes = jnp.arange(num_classes, dtype=labels.dtype)
    return jnp.any(labels[:, :, None] == classes[None, None, :], axis=1).astype(jnp.float32)


def smooth_labels(targets: jax.Array, amount: float) -> jax.Array:
    """Targets (b, K) with the share ``amount`` spread evenly over all classes: t(1 - a) + a/K."""
    return targets * (1.0 - amount) + amount / targets.shape[-1]


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy (b,) against targets (b, K) in [0, 1], summed over the classes."""
    logits = logits.astype(jnp.float32)
    # Not log sigmoid(x) - x for the second term: at the initial bias of -10 the small probabilities
    # (and gradients) of the many absent classes would drown in its rounding error.
    present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(targets * present + (1.0 - targets) * absent, axis=-1)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy (b,) against targets (b, K), soft or not, which need not sum to one."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(targets * log_probabilities, axis=-1)


def cross_entropy(logits: jax.Array, targets: jax.Array, *, kind: LossName) -> jax.Array:
    """The loss of that name per example (b,); the loss of a batch is its mean."""
    return {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy}[kind](
        logits, targets
    )


def top_k_accuracy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    k: int = 1,
    mask: jax.Array | None = None,
) -> Pair:
    """How many examples have one of their labels among their ``k`` largest logits.

    With one label per example this is top-k accuracy. With several it is the rule of ImageNet-ReaL:
    a prediction is right if it is in the set, and an image with an empty set does not count.

    Args:
        logits: (b, K).
        labels: (b, L) class indices, -1 for none.
        k: how many guesses; no more than there are classes are used.
        mask: (b,), False for rows that pad the batch.

    Returns:
        The pair (number right, number counted), float32 scalars.
    """
    _, guesses = jax.lax.top_k(logits.astype(jnp.float32), min(k, logits.shape[-1]))
    right = jnp.any(guesses[:, :, None] == labels[:, None, :], axis=(1, 2))
    counted = jnp.any(labels >= 0, axis=1)
    return mean_of(right, counted if mask is None else counted & mask)
