"""Averages that live on the device: a metric is a pair (sum, count) until somebody prints it.

Pairs add up correctly over micro-batches, devices, hosts and log intervals, and over evaluation
batches of which a part is padding.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

#: name -> (sum, count), both float32 scalars.
Metrics = Mapping[str, tuple[jax.Array, jax.Array]]

NEVER = 2**31 - 1


def mean_of(values: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The pair for values (b,), of which the rows where ``mask`` (b,) is true count."""
    values = values.astype(jnp.float32)
    if mask is None:
        return values.sum(), jnp.float32(values.size)
    # where, not a product: a padding row may hold anything, infinities included.
    return jnp.where(mask, values, jnp.float32(0)).sum(), mask.sum(dtype=jnp.float32)


def add(a: Metrics, b: Metrics) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The sum of two sets of pairs with the same names."""
    return {name: (a[name][0] + b[name][0], a[name][1] + b[name][1]) for name in a}


@flax.struct.dataclass
class Window:
    """What happened since the last log line, kept on the device.

    Attributes:
        sums: the metrics of the steps so far.
        first_bad: for each metric the first step at which it was not finite, else ``NEVER``.
        skipped: how many updates were refused because of that.
    """

    sums: dict[str, tuple[jax.Array, jax.Array]]
    first_bad: dict[str, jax.Array]
    skipped: jax.Array

    def after_step(self, metrics: Metrics, *, step: jax.Array, refused: jax.Array) -> "Window":
        """One more step. Metrics that are not finite are named, and kept out of the averages."""
        sums, first_bad = {}, {}
        for name, (total, count) in metrics.items():
            finite = jnp.isfinite(total)
            old_total, old_count = self.sums[name]
            zero = jnp.float32(0)
            sums[name] = (
                old_total + jnp.where(finite, total, zero),
                old_count + jnp.where(finite, count, zero),
            )
            bad_step = jnp.where(finite, jnp.int32(NEVER), step)
            first_bad[name] = jnp.minimum(self.first_bad[name], bad_step)
        return Window(sums, first_bad, self.skipped + refused.astype(jnp.int32))


def empty_window(abstract_metrics: Any) -> Window:
    """A window without steps for metrics of the given names."""
    # Every leaf is an array of its own: a buffer may be donated only once.
    return Window(
        sums={
            name: (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
            for name in abstract_metrics
        },
        first_bad={name: jnp.full((), NEVER, jnp.int32) for name in abstract_metrics},
        skipped=jnp.zeros((), jnp.int32),
    )


def to_floats(metrics: Metrics) -> dict[str, float]:
    """The averages as Python floats; waits for the device. A metric without a count is left out."""
    host = jax.device_get(dict(metrics))
    return {name: float(total) / float(count) for name, (total, count) in host.items() if count}
