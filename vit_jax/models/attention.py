"""Multi-head attention, with the softmax in float32."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from train_jax.errors import UserError
from vit_jax.models.layers import add_bias, dropout, xavier_uniform, zeros

AttentionKind = Literal["auto", "einsum", "cudnn"]


def _flat_xavier(num_in: int):
    """Xavier on the kernel flattened to a matrix whose rows are the first ``num_in`` axes.

    The published models initialise Q, K, V and the output projection each as a (D, D) matrix
    (ViT paper's code), not per head and not as one fused (D, 3D).
    """

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        rows = 1
        for size in shape[:num_in]:
            rows *= size
        columns = 1
        for size in shape[num_in:]:
            columns *= size
        return xavier_uniform(key, (rows, columns), jnp.float32).reshape(shape)

    return init


class HeadsDense(nn.Module):
    """A projection (..., D) -> (..., heads, head_dim), or back."""

    num_heads: int
    head_dim: int
    dtype: jnp.dtype
    back: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., D) to (..., heads, head_dim), or the other way."""
        heads = (self.num_heads, self.head_dim)
        width = self.num_heads * self.head_dim
        if self.back:
            kernel = self.param("kernel", _flat_xavier(2), (*heads, width))
            bias = self.param("bias", zeros, (width,))
            equation = "...hd,hdf->...f"
        else:
            kernel = self.param("kernel", _flat_xavier(1), (x.shape[-1], *heads))
            bias = self.param("bias", zeros, heads)
            equation = "...f,fhd->...hd"
        y = jnp.einsum(equation, x.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(y, bias)


class MultiHeadAttention(nn.Module):
    """``softmax(Q K^T / sqrt(head_dim)) V`` per head, and a projection (ViT paper, Appendix A)."""

    num_heads: int
    dtype: jnp.dtype
    kind: AttentionKind = "auto"
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, queries: jax.Array, tokens: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Queries (b, q, D) look at tokens (b, n, D); returns (b, q, D)."""
        head_dim = queries.shape[-1] // self.num_heads

        def project(name: str, x: jax.Array) -> jax.Array:
            return checkpoint_name(
                HeadsDense(self.num_heads, head_dim, self.dtype, name=name)(x), "qkv"
            )

        q, k, v = project("query", queries), project("key", tokens), project("value", tokens)
        rate = 0.0 if key is None else self.dropout
        if _use_cudnn(self.kind, self.dtype, head_dim, rate):
            y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        else:
            y = attend(q, k, v, rate, key=key)
        y = checkpoint_name(y, "attention")
        return HeadsDense(self.num_heads, head_dim, self.dtype, back=True, name="out")(y)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, rate: float = 0.0, *, key: jax.Array | None = None
) -> jax.Array:
    """Attention of (b, q, h, d) over (b, n, h, d); returns (b, q, h, d) in the dtype of ``v``."""
    scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q * scale, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    weights = dropout(weights, rate, key=key)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def _use_cudnn(kind: AttentionKind, dtype: jnp.dtype, head_dim: int, rate: float) -> bool:
    """Whether cuDNN's fused attention is wanted and can do it."""
    if kind == "einsum":
        return False
    able = jnp.dtype(dtype) == jnp.bfloat16 and head_dim % 8 == 0 and head_dim <= 128
    able = able and rate == 0 and jax.default_backend() == "gpu"
    if kind == "cudnn" and not able:
        raise UserError(
            "attention='cudnn' needs a GPU, compute_dtype='bfloat16', a head size that is a "
            "multiple of 8 up to 128, and no attention dropout; set attention='auto'."
        )
    return able
