"""Where a Vision Transformer looks: its attention weights, and what the paper makes of them.

Training never computes the weights as an array, and layers are scanned. So the encoder is run once
more here, block by block with the model's own modules, and every layer's weights are reduced to
what is asked for before the next layer is run: those of all 32 layers of H/14 at 518 pixels would
take 4 GB an image. Inside of jit that costs no more than the model itself, whose own run of the
encoder nobody reads then.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError
from vit_jax.models.config import ViTConfig
from vit_jax.models.encoder import EncoderBlock
from vit_jax.models.vit import ViT

_ATTENTION = "MultiHeadDotProductAttention_0"
_TAPPED = ("embedding", "posembed_input", "query", "key")


def each_layer(
    config: ViTConfig, params: Any, images: jax.Array, reduce: Callable[[jax.Array], Any]
) -> Any:
    """Runs a function on the attention weights of every layer.

    Args:
        config: the model.
        params: nested dict, as :func:`vit_jax.models.api.init` gives them.
        images: (b, h, w, 3), in [-1, 1].
        reduce: attention weights of a layer, float32 (b, heads, n, n), rows are queries and sum to
            1, the class token comes first where there is one -> any arrays.

    Returns:
        What ``reduce`` returns, with a leading axis of layers.

    Raises:
        UserError: the model's positions are not at the stem.
    """
    if config.position == "relative" or config.position_at != "stem":
        raise UserError(
            f"Attention is looked at in models whose positions are at the stem, not with "
            f"position={config.position!r} and position_at={config.position_at!r}; take another."
        )
    block = EncoderBlock(config, config.grid(images.shape))

    def run(x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
        x, tapped = _tap(block, layer, x)
        return x, reduce(_weights(tapped[_ATTENTION]))

    tokens = _tokens(config, params, _tap(ViT(config), params, images)[1])
    return jax.lax.scan(run, tokens, params["Transformer"]["encoderblock"])[1]


def mean_distances(config: ViTConfig, params: Any, images: jax.Array) -> jax.Array:
    """How far the heads look: the mean attention distance (ViT paper, Figure 7 and Appendix D.7).

    The distance between the patch of the query and that of the key, weighted by the attention and
    averaged over queries. As the authors computed it, the class token is left out and the other
    weights are not made to sum to 1 again.

    Args:
        config: as for :func:`each_layer`.
        params: the same.
        images: the same.

    Returns:
        Pixels of the input image, float32 (depth, b, heads).
    """
    first = int(config.class_token)
    distances = jnp.asarray(patch_distances(config, images.shape), jnp.float32)

    def reduce(weights: jax.Array) -> jax.Array:
        return jnp.einsum("bhqk,qk->bhq", weights[..., first:, first:], distances).mean(-1)

    return each_layer(config, params, images, reduce)


def patch_distances(config: ViTConfig, image_shape: tuple[int, ...]) -> np.ndarray:
    """Euclidean distances in pixels between the patches of an image, (n, n), row-major."""
    stride = 1 if config.stem is None else config.stem.stride
    grid = np.indices(config.grid(image_shape)).reshape(2, -1).T
    places = grid * np.asarray(config.patch_size) * stride
    return np.linalg.norm(places[:, None] - places[None], axis=-1)


def rollout(config: ViTConfig, params: Any, images: jax.Array) -> jax.Array:
    """How much each patch flows into the representation (ViT paper, Figure 6 and Appendix D.8).

    Attention rollout (S. Abnar and W. Zuidema, 2020): weights are averaged over the heads, half
    the identity stands for the residual connection, and the matrices of all layers are multiplied.
    The representation is the class token, the mean of all tokens, or what the attention of a
    pooling head takes from them.

    Args:
        config: as for :func:`each_layer`.
        params: the same.
        images: the same.

    Returns:
        Shares, float32 (b, rows, columns). With the class token's own they sum to 1.
    """
    layers = each_layer(config, params, images, lambda weights: weights.mean(1))

    def back(share: jax.Array, weights: jax.Array) -> tuple[jax.Array, None]:
        return (share + jnp.einsum("bq,bqk->bk", share, weights)) / 2, None

    # From the last layer to the first a row is enough, where the whole product needs matrices.
    share, _ = jax.lax.scan(back, _pooled(config, params, images), layers, reverse=True)
    return share[:, int(config.class_token) :].reshape(-1, *config.grid(images.shape))


def in_batches(
    function: Callable[[ViTConfig, Any, jax.Array], jax.Array],
    config: ViTConfig,
    params: Any,
    images: np.ndarray,
    *,
    batch_size: int,
    axis: int = 0,
) -> np.ndarray:
    """Runs a function of this module on many images, some at a time.

    Args:
        function: :func:`mean_distances` or :func:`rollout`.
        config: as for the function.
        params: the same.
        images: the same; at least one.
        batch_size: images at a time; the last batch is filled up, so that one program does.
        axis: that of the images in the result.

    Raises:
        UserError: there are no images, or the batch size is not a positive number.
    """
    if not len(images):
        raise UserError("There are no images to look at; name some.")
    if batch_size < 1:
        raise UserError(f"The batch size {batch_size} is not a positive number.")
    batch_size = min(batch_size, len(images))
    run = jax.jit(function, static_argnums=0)
    results = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        result = np.asarray(run(config, params, filled))
        results.append(np.take(result, range(len(batch)), axis=axis))
    return np.concatenate(results, axis=axis)


def _tap(module: Any, params: Any, x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """What a module returns, and what those of its parts return that are named in ``_TAPPED``."""
    result, variables = module.apply(
        {"params": params},
        x,
        capture_intermediates=lambda part, method: method == "__call__" and part.name in _TAPPED,
        mutable=["intermediates"],
    )
    return result, cast(dict[str, Any], variables)["intermediates"]


def _tokens(config: ViTConfig, params: Any, tapped: dict[str, Any]) -> jax.Array:
    """What enters the first block, (b, n, D)."""
    if config.position != "none":
        return tapped["Transformer"]["posembed_input"]["__call__"][0]
    patches = tapped["embedding"]["__call__"][0]
    if not config.class_token:
        return patches
    shape = (len(patches), 1, config.width)
    cls = jnp.broadcast_to(params["cls"].astype(patches.dtype), shape)
    return jnp.concatenate([cls, patches], axis=1)


def _weights(tapped: dict[str, Any]) -> jax.Array:
    """Attention weights, float32 (b, heads, q, k), of Q and K (b, n, heads, d)."""
    q, k = (tapped[name]["__call__"][0] for name in ("query", "key"))
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1)


def _pooled(config: ViTConfig, params: Any, images: jax.Array) -> jax.Array:
    """The share of each token after the last block in the representation, float32 (b, n)."""
    shape = (len(images), config.num_tokens(images.shape))
    if config.pool == "token":
        return jnp.zeros(shape, jnp.float32).at[:, 0].set(1.0)
    if config.pool == "gap":
        return jnp.full(shape, 1 / shape[1], jnp.float32)
    tapped = _tap(ViT(config), params, images)[1]
    return _weights(tapped["MAPHead_0"][_ATTENTION]).mean(1)[:, 0]
