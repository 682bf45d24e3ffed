"""The rotation that turns one set of points onto another, by arithmetic alone.

XLA hands a singular value decomposition on the CPU to LAPACK, which waits in a thread of XLA's pool
for other threads of that pool: two evaluations under way on two cores wait for each other for ever
(jaxlib 0.10.2). For 3x3 matrices a few Jacobi rotations do the same, faster, everywhere.
"""

import jax
import jax.numpy as jnp

# Turns of a pair of columns. Six of each of the three pairs leave nothing to do in float32.
_TURNS = 18

# Three vectors (3, ...).
_Columns = tuple[jax.Array, ...]


@jax.jit
def best_rotation(covariance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rotation R with the largest trace(Rᵀ C), and that trace.

    It is U diag(1, 1, ±1) Vᵀ of the singular value decomposition U S Vᵀ of C (Umeyama, 1991), found
    by one-sided Jacobi rotations. Where C has rank 1 or 0, one of the many.

    Args:
        covariance: C, float (..., 3, 3).

    Returns:
        R (..., 3, 3), with determinant +1, and the trace (...,): the sum of the singular values,
        the least of them negative where C is a reflection.
    """
    # Vectors lie along the first axis: arithmetic on whole arrays, no small products.
    c: _Columns = tuple(jnp.moveaxis(covariance[..., i], -1, 0) for i in range(3))
    one, zero = jnp.ones_like(c[0][0]), jnp.zeros_like(c[0][0])
    axes = tuple(jnp.stack([one if i == k else zero for i in range(3)]) for k in range(3))

    a, v = jax.lax.fori_loop(0, _TURNS, lambda _, state: _orthogonal(*state), (c, axes))
    for p, q in ((0, 1), (0, 2), (1, 2)):
        a, v = _ordered(a, v, p, q)
    u1 = _unit(a[0], axes[0])
    u2 = _unit(a[1] - _dot(a[1], u1)[None] * u1, _across(u1))
    v1, v2 = v[0], v[1]
    u3, v3 = _cross(u1, u2), _cross(v1, v2)
    # C v3, of which the sign is that of a rotation.
    last = c[0] * v3[:1] + c[1] * v3[1:2] + c[2] * v3[2:]
    trace = _dot(a[0], u1) + _dot(a[1], u2) + _dot(last, u3)
    rotation = u1[:, None] * v1[None] + u2[:, None] * v2[None] + u3[:, None] * v3[None]
    return jnp.moveaxis(rotation, (0, 1), (-2, -1)), trace


def _orthogonal(a: _Columns, v: _Columns) -> tuple[_Columns, _Columns]:
    """Turns the first two columns in their plane until they are orthogonal, and moves all on."""
    across = 2 * _dot(a[0], a[1])
    along = _dot(a[1], a[1]) - _dot(a[0], a[0])
    side = jnp.where(along < 0, -across, across)
    below = jnp.abs(along) + jnp.sqrt(along * along + across * across)
    tangent = jnp.where(below == 0, 0, side / jnp.where(below == 0, 1, below))[None]
    cos = 1 / jnp.sqrt(1 + tangent * tangent)
    sin = cos * tangent

    def turned(m: _Columns) -> _Columns:
        # The next pair comes first: (0, 1), (1, 2), (2, 0).
        return sin * m[0] + cos * m[1], m[2], cos * m[0] - sin * m[1]

    return turned(a), turned(v)


def _ordered(a: _Columns, v: _Columns, p: int, q: int) -> tuple[_Columns, _Columns]:
    """Exchanges columns p and q where the second is the longer one."""
    swap = (_dot(a[q], a[q]) > _dot(a[p], a[p]))[None]

    def exchanged(m: _Columns) -> _Columns:
        new = {p: jnp.where(swap, m[q], m[p]), q: jnp.where(swap, m[p], m[q])}
        return tuple(new.get(i, column) for i, column in enumerate(m))

    return exchanged(a), exchanged(v)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


def _cross(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.stack(
        [
            x[1] * y[2] - x[2] * y[1],
            x[2] * y[0] - x[0] * y[2],
            x[0] * y[1] - x[1] * y[0],
        ]
    )


def _unit(x: jax.Array, instead: jax.Array) -> jax.Array:
    """X of length 1, or another unit vector where it has no length."""
    length = jnp.sqrt(_dot(x, x))[None]
    zero = length == 0
    return jnp.where(zero, instead, x / jnp.where(zero, 1, length))


def _across(unit: jax.Array) -> jax.Array:
    """A unit vector orthogonal to one."""
    x, y, z = unit
    flat = (jnp.abs(x) > jnp.abs(z))[None]
    zero = jnp.zeros_like(x)
    other = jnp.where(flat, jnp.stack([-y, x, zero]), jnp.stack([zero, -z, y]))
    return other / jnp.sqrt(_dot(other, other))[None]
