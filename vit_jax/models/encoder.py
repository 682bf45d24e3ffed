"""The transformer encoder: a stack of pre-norm blocks with stacked parameters.

The parameters of all blocks live in one tree with a leading layer axis in both execution modes, so
a checkpoint never depends on how the stack is run.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train_jax.sharding import constrain_batch
from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.config import ViTConfig
from vit_jax.models.embeddings import POSITION_STD, PositionEmbedding, learned_shapes
from vit_jax.models.initializers import normal
from vit_jax.models.layers import MLP_BIAS_STD, LayerNorm, MlpBlock, dropout, stochastic_depth

#: What the backward pass finds kept, per ``ViTConfig.remat``; "none" has no policy at all.
REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    "names": jax.checkpoint_policies.save_only_these_names(
        "qkv", "attention", "mlp_pre", "statistics"
    ),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class EncoderBlock(nn.Module):
    """``x + MSA(LN(x))``, then ``x + MLP(LN(x))`` (ViT paper, equations 2 and 3)."""

    config: ViTConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        key: jax.Array | None = None,
        drop_rate: jax.Array | None = None,
    ) -> jax.Array:
        """Maps (b, n, D) to (b, n, D); ``drop_rate`` is this block's stochastic depth."""
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))

        def residual(x, branch, dropout_key, depth_key):
            branch = dropout(branch, config.dropout, key=dropout_key)
            if depth_key is not None and drop_rate is not None:
                branch = stochastic_depth(branch, drop_rate, key=depth_key)
            return x + branch

        if config.position_at == "layers":
            x = PositionEmbedding(config, self.grid, name="posembed_input")(x)
        y = LayerNorm(dtype, config.norm_epsilon, name="LayerNorm_0")(x)
        y = MultiHeadAttention(
            config.num_heads,
            dtype,
            config.attention,
            config.attention_dropout,
            relative=config.position == "relative",
            name="MultiHeadDotProductAttention_0",
        )(y, y, key=keys[0])
        x = residual(x, y, keys[1], keys[2])
        y = LayerNorm(dtype, config.norm_epsilon, name="LayerNorm_1")(x)
        y = MlpBlock(config.mlp_dim, config.dropout, dtype, config.gelu, name="MlpBlock_0")(
            y, key=keys[3]
        )
        return residual(x, y, keys[4], keys[5])


class Encoder(nn.Module):
    """Position embedding, all the blocks, the last LayerNorm (ViT paper, equations 1 to 4)."""

    config: ViTConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Maps (b, n, D) to (b, n, D)."""
        config = self.config
        embed_key, key = (None, None) if key is None else jax.random.split(key)
        embedding = None
        if config.position not in ("relative", "none") and config.position_at != "layers":
            embedding = PositionEmbedding(config, self.grid, name="posembed_input")
        if embedding is not None and config.position_at == "stem":
            x = embedding(x)
        x = dropout(x, config.dropout, key=embed_key)
        norm = LayerNorm(jnp.dtype(config.compute_dtype), config.norm_epsilon, name="encoder_norm")
        if self.is_initializing():
            self.param("encoderblock", lambda key: init_blocks(config, self.grid, key))
            if embedding is not None:
                embedding.table()
            return norm(x)
        stacked = {"params": self.get_variable("params", "encoderblock")} | _noise(config, key)
        block = EncoderBlock(config, self.grid, parent=None)
        table = None
        if embedding is not None and config.position_at == "layers_shared":
            table = embedding.table().astype(x.dtype)

        def run(x: jax.Array, layer: dict[str, Any]) -> jax.Array:
            noise = {name: layer[name] for name in ("key", "drop_rate") if name in layer}
            x = x if table is None else x + table
            x = cast(jax.Array, block.apply({"params": layer["params"]}, x, **noise))
            return constrain_batch(x)

        if config.remat != "none":
            policy = REMAT_POLICIES[config.remat]
            # A scan's body is not subject to the elimination that prevent_cse guards against.
            run = jax.checkpoint(run, policy=policy, prevent_cse=config.execution == "unrolled")
        x = constrain_batch(x)
        if config.execution == "scan":
            x, _ = jax.lax.scan(lambda x, layer: (run(x, layer), None), x, stacked)
        else:
            for layer in _unstack(stacked, config.depth):
                x = run(x, layer)
        return norm(x)


def _unstack(stacked: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    """One tree per layer.

    By ``split``, whose derivative is one concatenation; that of ``leaf[i]`` would add a gradient of
    all layers for every layer.
    """
    leaves, tree = jax.tree.flatten(stacked)
    split = [[x[0] for x in jax.lax.split(leaf, [1] * depth, axis=0)] for leaf in leaves]
    return [tree.unflatten(layer) for layer in zip(*split, strict=True)]


def init_blocks(config: ViTConfig, grid: tuple[int, int], key: jax.Array) -> dict[str, Any]:
    """The parameters of all blocks, each with a leading layer axis.

    They have the initial values that the layers would give one by one. All that is uniform comes
    from one draw, because the compiler takes longer over every random draw than over a whole
    block, and the draw has a key per row, so that a sharded initialisation draws only its rows.
    """
    depth, width, hidden = config.depth, config.width, config.mlp_dim
    heads = (config.num_heads, config.head_dim)
    uniform_key, bias_key = jax.random.split(key)
    sizes = 4 * [width] + 2 * [hidden]
    draw = partial(jax.random.uniform, shape=(sum(sizes),), minval=-1)
    rows = jax.vmap(jax.vmap(draw))(jax.random.split(uniform_key, (depth, width)))
    pieces = jnp.split(rows, np.cumsum(sizes)[:-1], axis=2)
    q, k, v, out = (math.sqrt(6 / (width + width)) * piece for piece in pieces[:4])
    first, second = (math.sqrt(6 / (width + hidden)) * piece for piece in pieces[4:])
    biases = jax.vmap(lambda key: normal(MLP_BIAS_STD)(key, (hidden + width,)))(
        jax.random.split(bias_key, depth)
    )

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones((depth, width)), "bias": jnp.zeros((depth, width))}

    def split(kernel: jax.Array) -> dict[str, jax.Array]:
        kernel = kernel.reshape(depth, width, *heads)
        return {"kernel": kernel, "bias": jnp.zeros((depth, *heads))}

    blocks = {
        "LayerNorm_0": norm(),
        "MultiHeadDotProductAttention_0": {
            "query": split(q),
            "key": split(k),
            "value": split(v),
            "out": {
                "kernel": out.reshape(depth, *heads, width),
                "bias": jnp.zeros((depth, width)),
            },
        },
        "LayerNorm_1": norm(),
        "MlpBlock_0": {
            "Dense_0": {"kernel": first, "bias": biases[:, :hidden]},
            "Dense_1": {"kernel": second.swapaxes(1, 2), "bias": biases[:, hidden:]},
        },
    }
    position_key = jax.random.fold_in(key, 0)
    if config.position == "relative":
        # Distances of a sequence, from -(n - 1) to n - 1, the class token's place among them.
        tokens = grid[0] * grid[1] + config.class_token
        shape = (depth, 2 * tokens - 1, *heads)
        attention = blocks["MultiHeadDotProductAttention_0"]
        attention["relative_embedding"] = normal(POSITION_STD)(position_key, shape)
    if config.position_at == "layers":
        shapes = learned_shapes(config, grid)
        keys = jax.random.split(position_key, len(shapes))
        blocks["posembed_input"] = {
            name: normal(POSITION_STD)(key, (depth, *shape))
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
    return blocks


def _noise(config: ViTConfig, key: jax.Array | None) -> dict[str, jax.Array]:
    """A key per layer, and the layers' stochastic-depth rates, where there is noise at all."""
    if key is None or not (config.dropout or config.attention_dropout or config.stochastic_depth):
        return {}
    noise = {"key": jax.random.split(key, config.depth)}
    if config.stochastic_depth:
        rates = np.linspace(0, config.stochastic_depth, config.depth, dtype=np.float32)
        noise["drop_rate"] = jnp.asarray(rates)
    return noise
