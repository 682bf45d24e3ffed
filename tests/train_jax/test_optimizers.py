"""Optimisers against closed forms written in numpy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train_jax import optimizers
from train_jax.errors import UserError

RATES = np.float32([0.0, 0.01, 0.03, 0.02, 0.005])


def schedule(step):
    return jnp.asarray(RATES)[step]


def make_params():
    rng = np.random.default_rng(0)
    return {
        "body": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
        "cls": rng.normal(size=(1, 1, 3)),
    }


def make_gradients(scale=1.0):
    rng = np.random.default_rng(1)
    draw = lambda p: scale * rng.normal(size=p.shape)  # noqa: E731
    return [jax.tree.map(draw, make_params()) for _ in RATES]


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(config, gradients):
    """The parameters after every update, and the last state."""
    params = as_float32(make_params())
    optimizer = optimizers.make_optimizer(config, schedule, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    trail = []
    for gradient in gradients:
        params, state = step(params, state, as_float32(gradient))
        trail.append(params)
    return trail, state


def clipped(gradient, clip_norm):
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda g: g * min(1.0, clip_norm / norm), gradient)


def expect(gradients, direction, *, weight_decay=0.0, clip_norm=np.inf):
    """Plain numpy: `direction(history of one leaf) -> its update direction`."""
    params = make_params()
    histories = jax.tree.map(lambda _: [], params)
    is_history = lambda node: isinstance(node, list)  # noqa: E731
    trail = []
    for rate, gradient in zip(RATES.astype(np.float64), gradients, strict=True):
        gradient = clipped(gradient, clip_norm)
        jax.tree.map(lambda h, g: h.append(g), histories, gradient, is_leaf=is_history)
        directions = jax.tree.map(direction, histories, is_leaf=is_history)
        directions["body"]["kernel"] = (
            directions["body"]["kernel"] + weight_decay * params["body"]["kernel"]
        )
        params = jax.tree.map(lambda p, d, rate=rate: p - rate * d, params, directions)
        trail.append(params)
    return trail


def momentum(history, *, decay=0.9, nesterov=False):
    trace = sum(decay**age * g for age, g in enumerate(reversed(history)))
    return history[-1] + decay * trace if nesterov else trace


def adam(history, *, b1=0.9, b2=0.999, eps=1e-8):
    mean = sum(b1**age * (1 - b1) * g for age, g in enumerate(reversed(history)))
    square = sum(b2**age * (1 - b2) * g**2 for age, g in enumerate(reversed(history)))
    mean, square = mean / (1 - b1 ** len(history)), square / (1 - b2 ** len(history))
    return mean / (np.sqrt(square) + eps)


def assert_close(trail, wanted, *, rtol=2e-6, atol=2e-7):
    for got, want in zip(trail, wanted, strict=True):
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=atol), got, want)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    trail, _ = run(optimizers.Sgd(nesterov=nesterov), make_gradients())
    assert_close(trail, expect(make_gradients(), lambda h: momentum(h, nesterov=nesterov)))


def test_adam():
    trail, _ = run(optimizers.Adam(b1=0.8, b2=0.95), make_gradients())
    assert_close(trail, expect(make_gradients(), lambda h: adam(h, b1=0.8, b2=0.95)))


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_by_the_global_norm(scale):
    """Small gradients pass unchanged; of large ones the direction stays."""
    gradients = make_gradients(scale)
    trail, _ = run(optimizers.Sgd(clip_norm=1.0), gradients)
    assert_close(trail, expect(gradients, momentum, clip_norm=1.0))


def test_weight_decay_is_decoupled_scaled_by_the_rate_and_on_kernels_only():
    """With a gradient of zero each update multiplies a kernel by 1 - rate * decay."""
    zeros = jax.tree.map(np.zeros_like, make_gradients())
    trail, _ = run(optimizers.Adam(weight_decay=0.3), zeros)
    shrunk = make_params()["body"]["kernel"] * np.prod(1 - 0.3 * RATES.astype(np.float64))
    np.testing.assert_allclose(trail[-1]["body"]["kernel"], shrunk, rtol=1e-6)
    np.testing.assert_array_equal(
        trail[-1]["body"]["bias"], np.float32(make_params()["body"]["bias"])
    )
    np.testing.assert_array_equal(trail[-1]["cls"], np.float32(make_params()["cls"]))


def test_adam_with_weight_decay_is_adamw():
    trail, _ = run(optimizers.Adam(weight_decay=0.3, clip_norm=1.0), make_gradients())
    wanted = expect(make_gradients(), adam, weight_decay=0.3, clip_norm=1.0)
    assert_close(trail, wanted)


@pytest.mark.parametrize(
    ("narrow", "wide", "field"),
    [
        (optimizers.Sgd(accumulator_dtype="bfloat16"), optimizers.Sgd(), "trace"),
        (optimizers.Adam(first_moment_dtype="bfloat16"), optimizers.Adam(), "mu"),
    ],
    ids=["sgd", "adam"],
)
def test_bfloat16_accumulators_keep_float32_parameters(narrow, wide, field):
    trail, state = run(narrow, make_gradients())
    exact, _ = run(wide, make_gradients())
    stored = optax.tree.get(state, field)
    assert {x.dtype for x in jax.tree.leaves(stored)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(trail[-1])} == {jnp.dtype(jnp.float32)}
    if field == "mu":
        moments = jax.tree.leaves(optax.tree.get(state, "nu"))
        assert {x.dtype for x in moments} == {jnp.dtype(jnp.float32)}
    # The first two updates see no rounded history (the first has rate 0); later ones differ by
    # bfloat16's 8 bits at most, and do differ.
    assert_close(trail[:1], exact[:1], rtol=0, atol=0)
    assert_close(trail, exact, rtol=0, atol=RATES.sum() * 0.03)
    assert np.any(trail[-1]["body"]["kernel"] != exact[-1]["body"]["kernel"])


def test_bfloat16_momentum_is_rounded_once_per_update():
    """What is stored is the float32 trace rounded to nearest, nothing coarser."""
    gradients = make_gradients()[:2]
    _, state = run(optimizers.Sgd(accumulator_dtype="bfloat16"), gradients)
    first, second = (np.float32(g["body"]["kernel"]) for g in gradients)
    rounded = jnp.asarray(first, jnp.bfloat16).astype(jnp.float32)
    wanted = jnp.asarray(second + np.float32(0.9) * np.asarray(rounded), jnp.bfloat16)
    got = optax.tree.get(state, "trace")["body"]["kernel"]
    np.testing.assert_allclose(
        np.float32(got), np.float32(wanted), rtol=2**-8
    )  # one unit in the last place, where a fused multiply-add falls on the other side
    assert np.mean(np.asarray(got == wanted)) > 0.9


def test_the_optimiser_is_built_from_shapes_alone():
    shapes = jax.eval_shape(lambda: as_float32(make_params()))
    optimizer = optimizers.make_optimizer(optimizers.Adam(weight_decay=0.1), schedule, shapes)
    state = jax.eval_shape(optimizer.init, shapes)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "config",
    [
        optimizers.Sgd(accumulator_dtype="bfloat16", clip_norm=1.0),
        optimizers.Adam(first_moment_dtype="bfloat16", weight_decay=0.1),
        optimizers.RmsProp(clip_norm=1.0, weight_decay=0.1),
    ],
    ids=["sgd", "adam", "rmsprop"],
)
def test_moments_can_be_told_from_counters(config):
    """So that they are laid out over the devices like their parameters."""
    params = as_float32(make_params())
    optimizer = optimizers.make_optimizer(config, schedule, params)
    marked = optax.tree_map_params(
        optimizer, lambda _: "moment", optimizer.init(params), transform_non_params=lambda _: "?"
    )
    leaves = jax.tree.leaves(marked)
    assert leaves.count("moment") == (3 if config.name == "sgd" else 6)
    assert leaves.count("?") == (2 if config.name == "adam" else 1)


@pytest.mark.parametrize(
    ("pattern", "fault"), [("kernel", "matches no parameter"), ("(", "not a regular expression")]
)
def test_a_decay_pattern_must_select_something(pattern, fault):
    """The whole path counts: "kernel" alone is not "body/kernel"."""
    config = optimizers.Sgd(weight_decay=1e-4, decay_pattern=pattern)
    with pytest.raises(UserError, match=fault):
        optimizers.make_optimizer(config, schedule, make_params())


def test_decay_patterns_see_whole_paths():
    mask = optimizers.decayed(make_params(), "body/.*|cls")
    assert mask == {"body": {"kernel": True, "bias": True}, "cls": True}


def test_average_of_the_parameters():
    """Closed form of Polyak averaging over a few updates."""
    trail = [as_float32(make_params())]
    trail += run(optimizers.Sgd(), make_gradients())[0]
    ema = trail[0]
    for params in trail[1:]:
        ema = jax.jit(optimizers.ema_update, static_argnums=2)(ema, params, 0.9)
    last = len(trail) - 1
    weights = [0.9**last] + [0.1 * 0.9 ** (last - i) for i in range(1, last + 1)]
    wanted = jax.tree.map(
        lambda *p: sum(w * np.float64(x) for w, x in zip(weights, p, strict=True)), *trail
    )
    assert_close([ema], [wanted])


def test_the_average_of_a_constant_is_that_constant():
    params = as_float32(make_params())
    jax.tree.map(
        np.testing.assert_array_equal, optimizers.ema_update(params, params, 0.9999), params
    )


def amsgrad(history, *, b1=0.9, b2=0.9, eps=1e-8):
    """PyTorch's: the largest uncorrected second moment, with the correction of the present step."""
    mean = sum(b1**age * (1 - b1) * g for age, g in enumerate(reversed(history)))
    squares = [
        sum(b2**age * (1 - b2) * g**2 for age, g in enumerate(reversed(history[: t + 1])))
        for t in range(len(history))
    ]
    largest = np.max(squares, axis=0) / (1 - b2 ** len(history))
    return mean / (1 - b1 ** len(history)) / (np.sqrt(largest) + eps)


def test_amsgrad_is_that_of_pytorch():
    trail, _ = run(optimizers.Adam(amsgrad=True, b2=0.9), make_gradients())
    assert_close(trail, expect(make_gradients(), amsgrad))


def test_amsgrad_forgets_large_gradients_at_the_start():
    # Five gradients ten times larger than the rest. The maximum over bias-corrected moments, as
    # optax takes it, would leave a step of 0.1 for good.
    transform = optimizers.scale_by_amsgrad(0.9, 0.999, 1e-8)

    def body(i, carry):
        state, _ = carry
        with jax.numpy_dtype_promotion("standard"):
            direction, state = transform.update(jnp.where(i < 5, 10.0, 1.0), state)
        return state, direction

    start = (transform.init(jnp.float32(0)), jnp.float32(0))
    _, direction = jax.lax.fori_loop(0, 10_000, body, start)
    assert float(direction) == pytest.approx(1.0, abs=0.01)


def test_rmsprop_is_that_of_tensorflow():
    """Mean square from 1, epsilon under the root, rate inside the trace, decay in the gradient."""
    config = optimizers.RmsProp(decay=0.8, momentum=0.7, eps=1e-3, weight_decay=0.3)
    gradients = make_gradients()
    trail, _ = run(config, gradients)
    kernel, bias = (np.float64(make_params()["body"][name]) for name in ("kernel", "bias"))
    squares, traces = [np.ones(kernel.shape), np.ones(bias.shape)], [0.0, 0.0]
    for rate, gradient, params in zip(np.float64(RATES), gradients, trail, strict=True):
        both = (gradient["body"]["kernel"] + 0.3 * kernel, gradient["body"]["bias"])
        for i, g in enumerate(both):
            squares[i] = 0.8 * squares[i] + 0.2 * g**2
            traces[i] = 0.7 * traces[i] + rate * g / np.sqrt(squares[i] + 1e-3)
        kernel, bias = kernel - traces[0], bias - traces[1]
        np.testing.assert_allclose(params["body"]["kernel"], kernel, rtol=3e-6, atol=3e-7)
        np.testing.assert_allclose(params["body"]["bias"], bias, rtol=3e-6, atol=3e-7)
