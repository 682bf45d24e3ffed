"""The best rotation is that of a singular value decomposition in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.losses import p_mpjpe_each
from pose_jax.rotation import best_rotation


def matrices(kind):
    """Covariances float32 (300, 3, 3) of points that lie in space, in a plane, on a line."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(300, 3, 3))
    if kind == "flat":
        c[:, :, 2] = c[:, :, :2] @ rng.normal(size=2)
    elif kind == "nearly flat":
        c[:, :, 2] = c[:, :, 0] + 1e-4 * c[:, :, 2]
    elif kind == "on a line":
        c = c[:, :, :1] * rng.normal(size=(300, 1, 3))
    elif kind == "equal axes":
        c = np.linalg.qr(c)[0] * rng.choice([-1, 1], (300, 1, 1))
    elif kind == "exact":
        c = np.stack([*(np.diag(d) for d in np.ndindex(3, 3, 3)), *np.zeros((3, 3, 3))]) - 1.0
        c[27:] = 0
    return c.astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["in space", "flat", "nearly flat", "on a line", "equal axes", "exact"]
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_is_that_of_a_singular_value_decomposition(kind, scale):
    c = matrices(kind) * np.float32(scale)
    rotation, trace = map(np.asarray, jax.jit(best_rotation)(c))
    u, s, vt = np.linalg.svd(c.astype(np.float64))
    s[:, 2] *= np.where(np.linalg.det(u @ vt) < 0, -1, 1)
    np.testing.assert_allclose(trace, s.sum(-1), atol=5e-6 * scale)
    # A rotation, and no other gives more.
    eye = np.broadcast_to(np.eye(3), c.shape)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), eye, atol=5e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=5e-6)
    np.testing.assert_allclose((rotation * c).sum((-1, -2)), s.sum(-1), atol=1e-5 * scale)


def test_any_leading_axes_and_none():
    c = jnp.asarray(matrices("in space"))
    rotation, trace = best_rotation(c)
    same, same_trace = best_rotation(c.reshape(5, 60, 3, 3))
    np.testing.assert_allclose(same.reshape(-1, 3, 3), rotation, atol=1e-6)
    np.testing.assert_allclose(same_trace.reshape(-1), trace, rtol=1e-5)
    one, one_trace = best_rotation(c[7])
    np.testing.assert_allclose(one, rotation[7], atol=1e-6)
    assert one_trace.shape == ()


def test_what_is_not_a_number_stays_so():
    rotation, trace = best_rotation(jnp.full((3, 3), jnp.nan))
    assert np.isnan(rotation).all()
    assert np.isnan(trace)


def test_evaluations_wait_for_no_library():
    # LAPACK waits in XLA's threads for XLA's threads: two evaluations on two cores never ended.
    x = jnp.zeros((4, 17, 3))
    program = jax.jit(p_mpjpe_each).lower(x, x).compile().as_text()
    assert program is not None
    assert "custom-call" not in program
