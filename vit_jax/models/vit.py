"""The Vision Transformer (ViT paper, section 3.1), from pixels to logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.config import ResNetStem, ViTConfig
from vit_jax.models.corruption import Corruption, corrupt, take
from vit_jax.models.embeddings import PatchEmbedding
from vit_jax.models.encoder import Encoder
from vit_jax.models.initializers import normal, xavier_uniform
from vit_jax.models.layers import Dense, LayerNorm, MlpBlock, zeros
from vit_jax.models.resnet_stem import run_stem
from vit_jax.models.variants import config_for

__all__ = ["ResNetStem", "ViT", "ViTConfig", "config_for"]


class ViT(nn.Module):
    """Patches, a transformer encoder, pooling, and a head."""

    config: ViTConfig

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        key: jax.Array | None = None,
        corruption: Corruption | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
            images: (b, h, w, 3), in [-1, 1].
            key: of dropout and stochastic depth; None to infer.
            corruption: which patches to corrupt and to predict, for a model with
                ``patch_outputs``; None: none are corrupted, all are predicted.

        Returns:
            Logits, float32 (b, num_classes), and the intermediate results: "encoded" (b, n, D),
            the normalised tokens, "pre_logits" (b, D or representation_size), float32, and with
            ``patch_outputs`` "patches" (b, k, patch_outputs), float32.
        """
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        grid = config.grid(images.shape)
        x = images.astype(dtype)
        if config.stem is not None:
            x = run_stem(config.stem, x, dtype)
        x = PatchEmbedding(config.width, config.patch_size, dtype, name="embedding")(x)
        if config.patch_outputs:
            mask = self.param("mask_token", normal(0.02), (1, 1, config.width))
            if corruption is not None:
                x = corrupt(x, corruption.sources, mask)
        if config.class_token:
            cls = self.param("cls", zeros, (1, 1, config.width)).astype(dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, config.width)), x], axis=1)
        x = Encoder(config, grid, name="Transformer")(x, key=key)
        outputs = {"encoded": x}
        if config.patch_outputs:
            patches = x[:, int(config.class_token) :]
            if corruption is not None:
                patches = take(patches, corruption.predicted)
            head = Dense(config.patch_outputs, jnp.dtype("float32"), zeros, name="patch_head")
            outputs["patches"] = head(patches)
        x = self._pool(x).astype(jnp.float32)
        if config.representation_size is not None:
            x = jnp.tanh(Dense(config.representation_size, x.dtype, name="pre_logits")(x))
        outputs["pre_logits"] = x
        if config.num_classes:
            head_bias = nn.initializers.constant(config.head_bias)
            x = Dense(config.num_classes, x.dtype, zeros, head_bias, name="head")(x)
        return x, outputs

    def _pool(self, x: jax.Array) -> jax.Array:
        """One vector (b, D) from the tokens (b, n, D)."""
        if self.config.pool == "token":
            return x[:, 0]
        if self.config.pool == "gap":
            return x.astype(jnp.float32).mean(axis=1)
        return MapHead(self.config, name="MAPHead_0")(x)


class MapHead(nn.Module):
    """Pools by attention: one learned query, a LayerNorm, an MLP (Scaling Vision Transformers)."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, n, D) to (b, D)."""
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        probe = self.param("probe", xavier_uniform, (1, 1, config.width)).astype(dtype)
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, config.width))
        # One query: nothing that a fused kernel would save.
        x = MultiHeadAttention(
            config.num_heads, dtype, "einsum", name="MultiHeadDotProductAttention_0"
        )(probe, x)
        y = LayerNorm(dtype, config.norm_epsilon, name="LayerNorm_0")(x)
        mlp = MlpBlock(config.mlp_dim, 0.0, dtype, config.gelu, name="MlpBlock_0")
        return (x + mlp(y))[:, 0]
