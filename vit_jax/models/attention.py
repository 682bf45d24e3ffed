"""Multi-head attention, with the softmax in float32."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from train_jax.errors import UserError
from vit_jax.models.initializers import normal, xavier_uniform
from vit_jax.models.layers import add_bias, dropout, zeros

AttentionKind = Literal["auto", "einsum", "cudnn"]


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
            kernel = self.param("kernel", partial(xavier_uniform, input_axes=2), (*heads, width))
            bias = self.param("bias", zeros, (width,))
            equation = "...hd,hdf->...f"
        else:
            kernel = self.param(
                "kernel", partial(xavier_uniform, input_axes=1), (x.shape[-1], *heads)
            )
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
    relative: bool = False

    @nn.compact
    def __call__(
        self, queries: jax.Array, tokens: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Queries (b, q, D) look at tokens (b, n, D); returns (b, q, D)."""
        head_dim = queries.shape[-1] // self.num_heads

        def project(name: str, x: jax.Array) -> jax.Array:
            return HeadsDense(self.num_heads, head_dim, self.dtype, name=name)(x)

        q, k, v = project("query", queries), project("key", tokens), project("value", tokens)
        rate = 0.0 if key is None else self.dropout
        bias = None
        if self.relative:
            shape = (2 * q.shape[-3] - 1, self.num_heads, head_dim)
            bias = relative_logits(q, self.param("relative_embedding", normal(0.02), shape))
        if bias is None and _use_cudnn(self.kind, self.dtype, head_dim, rate):
            q, k, v = (checkpoint_name(x, "qkv") for x in (q, k, v))
            y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
            y = checkpoint_name(y, "attention")
        elif rate or bias is not None:
            y = attend_plainly(q, k, v, bias, rate, key=key)
        else:
            y = attend(q, k, v)
        return HeadsDense(self.num_heads, head_dim, self.dtype, back=True, name="out")(y)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of q (b, q, h, d) over k and v (b, n, h, d); returns (b, q, h, d).

    Softmax and its sums are float32, the products have the dtype of the inputs.
    """
    scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return _heads_second(_attend(*(_heads_second(x) for x in (q * scale, k, v))))


def attend_plainly(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    rate: float = 0.0,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """The same with a bias (b, h, q, n) on the logits, and dropout on the attention weights."""
    q, k, v = (_heads_second(checkpoint_name(x, "qkv")) for x in (q, k, v))
    logits = _product(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), k, 3, 3, jnp.float32)
    logits = logits if bias is None else logits + bias
    weights = dropout(jax.nn.softmax(logits, axis=-1).astype(v.dtype), rate, key=key)
    return checkpoint_name(_heads_second(_product(weights, v, 3, 2, v.dtype)), "attention")


def relative_logits(q: jax.Array, embedding: jax.Array) -> jax.Array:
    """What queries make of the distances to the keys (ViT paper, Appendix D.4).

    A second attention, whose keys are vectors of the distance between query and key in the
    sequence; its logits are a bias on those of the first, and scaled like them. The paper does not
    say whether heads share the vectors; here they do not.

    Args:
        q: (b, n, h, d), not scaled.
        embedding: float32 (2n - 1, h, d), of the distances (query - key) from -(n - 1) to n - 1.

    Returns:
        float32 (b, h, n, n).
    """
    n = q.shape[1]
    distance = np.arange(n)[:, None] - np.arange(n) + n - 1
    keys = embedding.astype(q.dtype)[distance]
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jnp.einsum("bqhd,qkhd->bhqk", q, keys, preferred_element_type=jnp.float32)


def _heads_second(x: jax.Array) -> jax.Array:
    """(b, n, h, d) to (b, h, n, d), or back."""
    return x.swapaxes(1, 2)


def _product(
    a: jax.Array, b: jax.Array, contract_a: int, contract_b: int, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """A matrix product per example and head of two arrays (b, h, ., .)."""
    dimensions = (((contract_a,), (contract_b,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=dtype)


# The derivative is written out. Against automatic differentiation of softmax it saves two passes
# over the (n, n) weights: the division comes after the product with V, and the sum that softmax's
# derivative needs is one over head_dim (FlashAttention, equation 4). The backward pass keeps the
# weights in the dtype of the products: that is half the traffic in bfloat16.
@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of scaled queries; everything (b, h, n, d)."""
    return _attend_forward(q, k, v)[0]


def _attend_forward(q: jax.Array, k: jax.Array, v: jax.Array):
    q, k, v = (checkpoint_name(x, "qkv") for x in (q, k, v))
    logits = _product(q, k, 3, 3, jnp.float32)
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    y, total = jax.lax.platform_dependent(weights, v, tpu=_with_sums_by_product, default=_with_sums)
    y = checkpoint_name((y / total).astype(v.dtype), "attention")
    normaliser = checkpoint_name(highest + jnp.log(total), "attention")
    return y, (q, k, v, y, normaliser)


def _with_sums(weights: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The product of float32 weights (b, h, q, n) with v, and the sums (b, h, q, 1) of weights."""
    product = _product(weights.astype(v.dtype), v, 3, 2, jnp.float32)
    return product, weights.sum(-1, keepdims=True)


def _with_sums_by_product(weights: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same where a matrix unit has columns to spare: the sums are one more of v.

    It spares the exponentials a second time, a seventeenth of the cycles of a block's training by
    the TPU compiler's estimate. Rounded weights are divided by the sum of rounded weights.
    """
    ones = jnp.ones((*v.shape[:-1], 1), v.dtype)
    both = _product(weights.astype(v.dtype), jnp.concatenate([v, ones], -1), 3, 2, jnp.float32)
    return both[..., :-1], both[..., -1:]


def _attend_backward(residuals: tuple[jax.Array, ...], gradient: jax.Array):
    q, k, v, y, normaliser = residuals
    along = (gradient.astype(jnp.float32) * y.astype(jnp.float32)).sum(-1, keepdims=True)
    # Where layers are unrolled and nothing is rematerialised the compiler would find these logits
    # equal to the forward pass's, keep those of every layer in float32, and copy them into another
    # layout: a fifth of the step of B/16 by the TPU compiler's estimate. A scanned H/14 at batch
    # 4096 takes 2 to 3 % more cycles with it on v3 and v4, 2 to 7 % fewer from v5e on.
    q, k, normaliser, gradient = jax.lax.optimization_barrier((q, k, normaliser, gradient))
    weights = jnp.exp(_product(q, k, 3, 3, jnp.float32) - normaliser).astype(v.dtype)
    slope = weights.astype(jnp.float32) * (_product(gradient, v, 3, 3, jnp.float32) - along)
    slope = slope.astype(v.dtype)
    gradient_q = _product(slope, k, 3, 2, q.dtype)
    gradient_k = _product(slope, q, 2, 2, k.dtype)
    gradient_v = _product(weights, gradient, 2, 2, v.dtype)
    return gradient_q, gradient_k, gradient_v


_attend.defvjp(_attend_forward, _attend_backward)


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
