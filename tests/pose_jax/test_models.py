"""The temporal network: one set of weights, three forms, the published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax.models import streaming, temporal
from pose_jax.models.config import TemporalConfig
from train_jax.errors import UserError

ARCHITECTURES = [(3, 3, 3), (3, 3), (1, 1, 1), (3, 5, 3), (5, 3), (3,), (7, 1, 3)]


def small(widths, **options):
    return TemporalConfig(**{"widths": widths, "channels": 16, "joints_in": 5, **options})


def model(config, seed=0):
    """Parameters, and statistics that a trained network could have."""
    params, state = temporal.init(config, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name = path[-1].key
        values = rng.normal(size=x.shape).astype(np.float32) * 0.3
        return jnp.asarray(np.exp(values) if name in ("var", "scale") else values)

    statistics = jax.tree_util.tree_map_with_path(draw, state)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: draw(path, x) if path[-1].key in ("scale", "bias") else x, params
    )
    return params, statistics


def keypoints(config, frames, n=2):
    shape = (n, frames, config.joints_in, config.features)
    return jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32)


def windows(config, x):
    """Every window of one receptive field: (windows, receptive_field, joints, features)."""
    width = config.receptive_field
    return jnp.concatenate([x[:, t : t + width] for t in range(x.shape[1] - width + 1)])


@pytest.mark.parametrize(
    ("widths", "options", "params"),
    [
        # Counted on the original; 3,3,3 and longer are Table 5 of the paper.
        ((1, 1, 1), {}, 4_291_635),
        ((1, 1, 1, 1, 1), {}, 8_494_131),
        ((3, 3), {}, 4_357_171),
        ((3, 3, 3), {}, 8_555_571),
        ((3, 3, 7), {}, 12_749_875),
        ((3, 3, 3, 3), {}, 12_753_971),
        ((3, 3, 3, 3, 3), {}, 16_952_371),
        ((3, 3, 3), {"dense": True}, 29_527_091),
        ((3, 3, 3), {"joints_out": 1}, 8_506_371),
        ((3, 3, 3, 3, 3), {"joints_out": 1}, 16_903_171),
        ((3, 3, 3), {"joints_out": 15}, 8_549_421),
        ((3, 3, 3, 3, 3), {"features": 3}, 17_004_595),
        ((3, 3, 3, 3, 3), {"joints_in": 16}, 16_946_227),
    ],
)
def test_parameters_are_those_of_the_paper(widths, options, params):
    config = TemporalConfig(widths=widths, **options)
    shapes, _ = jax.eval_shape(functools.partial(temporal.init, config), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == params
    assert config.num_params == params


@pytest.mark.parametrize(
    ("widths", "dense", "flops", "window"),
    [
        ((1, 1, 1, 1, 1), False, 16_951_296, 8.48),
        ((3, 3, 3), False, 17_090_560, 17.77),
        ((3, 3, 3, 3), False, 25_479_168, 57.40),
        ((3, 3, 3, 3, 3), False, 33_867_776, 176.28),
        ((3, 3, 3), True, 59_033_600, None),
    ],
)
def test_operations_are_those_of_the_paper(widths, dense, flops, window):
    config = TemporalConfig(widths=widths, dense=dense)
    assert 2 * config.multiplications_per_frame == flops
    if window:
        assert config.multiplications_per_window / 1e6 == pytest.approx(window, abs=0.005)


def test_tensor_lengths_are_those_of_figure_2():
    # 243 -> 241 -> 235 -> 217 -> 163 -> 1.
    length, lengths = 243, []
    for width, dilation in TemporalConfig(widths=(3,) * 5).taps:
        length -= (width - 1) * dilation
        lengths.append(length)
    assert lengths == [241, 235, 217, 163, 1]


def test_initial_weights_are_uniform_as_pytorch_draws_them():
    config = TemporalConfig(channels=256)
    params, state = temporal.init(config, jax.random.key(0))
    for kernel, fan_in in (
        (params["expand"]["kernel"], 3 * 34),
        (params["block_1"]["conv"]["kernel"], 3 * 256),
        (params["block_0"]["pointwise"]["kernel"], 256),
        (params["shrink"]["kernel"], 256),
        (params["shrink"]["bias"], 256),
    ):
        bound = fan_in**-0.5
        assert float(jnp.abs(kernel).max()) <= bound
        if kernel.size > 1000:
            assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
            assert abs(float(kernel.mean())) < 0.02 * bound
    assert set(np.unique(state["expand"]["bn"]["var"])) == {1.0}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("widths", ARCHITECTURES)
def test_strided_windows_are_the_dilated_sequence(widths, causal):
    config = small(widths, causal=causal)
    params, state = model(config)
    x = keypoints(config, config.receptive_field + 3)
    sequence, same = temporal.dilated(config, params, state, x)
    assert same is state
    single, _ = temporal.strided(config, params, state, windows(config, x))
    assert sequence.shape == (2, 4, 17, 3)
    by_window = single.reshape(4, 2, 17, 3).swapaxes(0, 1)
    np.testing.assert_allclose(by_window, sequence, atol=1e-5)


@pytest.mark.parametrize(("widths", "frames"), [((3, 3), 48), ((5, 3), 83), ((3, 3, 3), 150)])
def test_long_sequences_give_the_poses_of_their_windows(widths, frames):
    """On a CPU they are convolved with half the products."""
    config = small(widths, channels=64)
    params, state = model(config)
    x = keypoints(config, config.receptive_field + frames - 1)
    program = jax.jit(functools.partial(temporal.dilated, config)).lower(params, state, x)
    plain = jax.jit(functools.partial(temporal.dilated, config)).lower(params, state, x[:, :-40])
    assert program.as_text().count("dot_general") > plain.as_text().count("dot_general")
    sequence, _ = temporal.dilated(config, params, state, x)
    single, _ = temporal.strided(config, params, state, windows(config, x))
    by_window = single.reshape(frames, 2, 17, 3).swapaxes(0, 1)
    np.testing.assert_allclose(sequence, by_window, atol=1e-5 * float(jnp.abs(single).max()))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("widths", ARCHITECTURES)
def test_streaming_is_the_dilated_sequence_with_its_first_frame_repeated(widths, causal):
    config = small(widths, causal=causal)
    params, state = model(config)
    x = keypoints(config, 2 * config.receptive_field + 3)
    before = jnp.repeat(x[:, :1], config.receptive_field - 1, axis=1)
    wanted, _ = temporal.dilated(config, params, state, jnp.concatenate([before, x], axis=1))
    folded = streaming.fold(config, params, state)
    stream = streaming.start(config, folded, x[:, 0])
    push = jax.jit(functools.partial(streaming.push, config, folded), donate_argnums=0)
    for t in range(x.shape[1]):
        stream, pose = push(stream, x[:, t])
        np.testing.assert_allclose(pose, wanted[:, t], atol=1e-5)


def test_a_stream_can_be_dense():
    config = small((3, 3), dense=True)
    params, state = model(config)
    x = keypoints(config, 12)
    wanted, _ = temporal.dilated(config, params, state, x)
    folded = streaming.fold(config, params, state)
    stream = streaming.start(config, folded, x[:, 0])
    poses = []
    for t in range(12):
        stream, pose = streaming.push(config, folded, stream, x[:, t])
        poses.append(pose)
    np.testing.assert_allclose(jnp.stack(poses[8:], 1), wanted, atol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_pose_depends_on_its_receptive_field_alone(causal, dense):
    config = small((3, 5), causal=causal, dense=dense)
    params, state = model(config)
    x = keypoints(config, 40, n=1)

    def pose(x):
        return temporal.dilated(config, params, state, x)[0][0, 10, 3, 1]

    touched = np.flatnonzero(np.abs(jax.grad(pose)(x)).sum((0, 2, 3)))
    # Output 10 has the window of frames 10 to 24, and is the pose of its middle or its last frame.
    assert touched.min() >= 10
    assert touched.max() <= 24
    assert {10, 24} <= set(touched.tolist())
    assert config.pad_before == (14 if causal else 7)
    assert config.pad_after == 14 - config.pad_before


def test_examples_that_fill_up_a_batch_count_in_no_statistic():
    config = small((3, 3), dropout=0.0)
    params, state = model(config)
    x = keypoints(config, 9, n=6)
    training = temporal.Training(jnp.float32(0.1), jax.random.key(0))
    wanted, statistics = temporal.strided(config, params, state, x[:4], training)
    filled = x.at[4:].set(1e6)
    mask = jnp.arange(6) < 4
    masked = temporal.Training(jnp.float32(0.1), jax.random.key(0), mask)
    got, same = temporal.strided(config, params, state, filled, masked)
    np.testing.assert_allclose(got[:4], wanted, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), same, statistics)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    x = temporal.dropout(jnp.ones((100, 7, 301)), rate, jax.random.key(1))
    assert set(np.unique(x)) == {0.0, np.float32(1 / (1 - rate))}
    assert float((x == 0).mean()) == pytest.approx(rate, abs=0.005)
    other = temporal.dropout(jnp.ones((100, 7, 301)), rate, jax.random.key(2))
    assert 0.3 < float(((x == 0) == (other == 0)).mean()) < 0.7


def test_bfloat16_stays_close_and_keeps_float32_parameters():
    config = small((3, 3, 3), channels=64)
    params, state = model(config)
    x = keypoints(config, 30)
    exact, _ = temporal.dilated(config, params, state, x)
    half = TemporalConfig(**{**vars(config), "compute_dtype": "bfloat16"})
    close, _ = temporal.dilated(half, params, state, x)
    assert close.dtype == jnp.float32
    assert float(jnp.abs(close - exact).max()) < 0.05 * float(jnp.abs(exact).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (3, 2)}, "odd numbers"),
        ({"widths": ()}, "odd numbers"),
        ({"joints_in": 0}, "joints_in must be at least 1"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_configs_that_make_no_network_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TemporalConfig(**options)


def test_inputs_that_do_not_fit_are_refused_by_name():
    config = small((3, 3))
    params, state = model(config)
    with pytest.raises(UserError, match="sees 9 frames, but got 8"):
        temporal.dilated(config, params, state, keypoints(config, 8))
    with pytest.raises(UserError, match="check the joints"):
        temporal.dilated(config, params, state, keypoints(small((3,), joints_in=6), 9))
    with pytest.raises(UserError, match="use the dilated form"):
        temporal.strided(config, params, state, keypoints(config, 10))
    dense = small((3, 3), dense=True)
    with pytest.raises(UserError, match="dense network"):
        temporal.strided(dense, *model(dense), keypoints(dense, 9))
