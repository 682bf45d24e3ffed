"""The order of training examples, computed on the device.

For examples that live there: the host sends the position in the run, and the step permutes it. As
in ``order``, an epoch's order is a keyed Feistel network (Luby and Rackoff 1988) with cycle walking
(Black and Rogaway 2002), here on 32 bits, which every accelerator multiplies natively.
"""

import jax
import jax.numpy as jnp

from train_jax.sharding import on_every_device

# A change of the numbers below changes the order of every run: then rename this.
SCHEME = "feistel8-u32-v1"
_ROUNDS = 8
_MIN_HALF_BITS = 4


def mix32(x: jax.Array) -> jax.Array:
    """Hashes uint32 (the finaliser of MurmurHash3, Appleby 2011): a bijection."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def shuffled(offset: jax.Array, epoch: jax.Array, *, num_examples: int, seed: int) -> jax.Array:
    """The example at a place of an epoch.

    Args:
        offset: int32 (b,), places in [0, num_examples).
        epoch: int32 (b,).
        num_examples: size of the data set, at most 2^31.
        seed: of the order; its lower 32 bits count.

    Returns:
        int32 (b,); for each epoch a permutation of the examples.
    """
    half_bits = max(((num_examples - 1).bit_length() + 1) // 2, _MIN_HALF_BITS)
    half, mask = jnp.uint32(half_bits), jnp.uint32((1 << half_bits) - 1)
    # Hashed one after the other: (seed 0, epoch 1) must not be (seed 1, epoch 0).
    start = mix32(jnp.uint32((seed + 0x9E3779B9) & 0xFFFFFFFF))
    limit = jnp.uint32(num_examples)

    def walk(offset: jax.Array, epoch: jax.Array) -> jax.Array:
        keys = mix32(start + epoch.astype(jnp.uint32))

        def permute(values: jax.Array) -> jax.Array:
            left, right = values >> half, values & mask
            for i in range(_ROUNDS):
                f = mix32(right ^ mix32(keys + jnp.uint32(0x9E3779B9 * (i + 1) & 0xFFFFFFFF)))
                left, right = right, left ^ (f & mask)
            return (left << half) | right

        values = jax.lax.while_loop(
            lambda values: (values >= limit).any(),
            lambda values: jnp.where(values >= limit, permute(values), values),
            permute(offset.astype(jnp.uint32)),
        )
        return values.astype(jnp.int32)

    # Whole on every device: split, the loop would ask all of them in each round whether it goes on.
    # That costs accelerators time, and the CPU backend does not order such a question among other
    # exchanges, so that devices wait for each other for ever (jaxlib 0.10 and 0.12).
    return on_every_device(walk, offset, epoch)
