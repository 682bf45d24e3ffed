"""The original's weights give the original's poses, whatever the network; others are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_poses

from pose_jax.models import temporal
from pose_jax.models.config import TemporalConfig
from pose_jax.weights import from_torch, read_bin, recognise, to_torch
from train_jax.errors import UserError

CASES = [("sym", "pos"), ("causal", "pos"), ("sym", "traj")]


def read(data_dir, mode, output):
    """Weights, network and arrays of a fixture."""
    path = data_dir / "pose" / f"model_arc333_ch32_{mode}_{output}"
    state = read_bin(path.with_suffix(".bin"))["model_pos"]
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    skeleton = "h36m17" if output == "pos" else None
    layouts = {"keypoint_layout": "h36m17", "skeleton": skeleton}
    return state, recognise(state, causal=bool(arrays["causal"]), **layouts), arrays


@pytest.mark.parametrize(("mode", "output"), CASES)
def test_the_originals_poses(data_dir, mode, output):
    state, config, arrays = read(data_dir, mode, output)
    assert (config.widths, config.channels, config.dense) == ((3, 3, 3), 32, False)
    assert config.joints_out == arrays["joints_out"]
    weights = from_torch(state)
    y, _ = temporal.dilated(config, *weights, arrays["x_seq"])
    np.testing.assert_allclose(y, arrays["y_seq_eval"], atol=1e-5)
    for form, name in ((temporal.strided, "opt1f"), (temporal.dilated, "full")):
        y, _ = form(config, *weights, arrays["x_win"])
        np.testing.assert_allclose(y, arrays[f"y_win_eval_{name}"], atol=1e-5)


def test_weights_of_a_causal_model_fit_a_symmetric_one_and_give_other_poses(data_dir):
    """Why nobody may guess."""
    state, config, arrays = read(data_dir, "causal", "pos")
    wrong = dataclasses.replace(config, causal=False)
    y, _ = temporal.dilated(wrong, *from_torch(state), arrays["x_seq"])
    assert np.abs(y - arrays["y_seq_eval"]).max() > 0.1


@pytest.mark.parametrize(("mode", "output"), CASES)
def test_there_and_back_to_the_bit(data_dir, mode, output):
    state, _, _ = read(data_dir, mode, output)
    back = to_torch(*from_torch(state))
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert back[name].shape == array.shape
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_counters_of_batches_may_be_absent(data_dir):
    """PyTorch has them since 0.4.1."""
    state, config, _ = read(data_dir, "sym", "pos")
    old = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert recognise(old, causal=False, keypoint_layout="h36m17", skeleton="h36m17") == config
    jax.tree.map(np.testing.assert_array_equal, from_torch(old), from_torch(state))


NETWORKS = [
    TemporalConfig(widths=(3, 3), channels=4),
    TemporalConfig(widths=(1, 1, 1), channels=4, causal=True),
    TemporalConfig(widths=(3,), channels=4),
    TemporalConfig(widths=(3, 5, 7), channels=4, joints_in=16),
    TemporalConfig(widths=(3, 3, 3), channels=4, dense=True),
    TemporalConfig(widths=(3, 3), channels=4, features=3, joints_out=15),
    TemporalConfig(widths=(3, 1, 3), channels=6, joints_out=1),
]
LAYOUTS = {16: "mpii16", 17: "h36m17", 15: "humaneva15", 1: None}


def state_of(config):
    return to_torch(*tiny_poses.weights(config))


def recognised(config, state, **options):
    layouts = {
        "keypoint_layout": LAYOUTS[config.joints_in],
        "skeleton": LAYOUTS[config.joints_out],
    }
    return recognise(state, **({"causal": config.causal} | layouts | options))


@pytest.mark.parametrize("config", NETWORKS)
def test_any_network_is_recognised(config):
    params, statistics = tiny_poses.weights(config)
    state = to_torch(params, statistics)
    assert recognised(config, state, dense=config.dense) == config
    jax.tree.map(np.testing.assert_array_equal, from_torch(state), (params, statistics))


def test_dense_or_dilated_is_inferred_only_where_shapes_tell():
    dilated, dense = (
        TemporalConfig(widths=(3, 3, 3), channels=4, dense=dense) for dense in (False, True)
    )
    assert recognised(dilated, state_of(dilated)) == dilated
    with pytest.raises(UserError, match=r"of 3,3,3 frames are not those of a dense network"):
        recognised(dilated, state_of(dilated), dense=True)
    state = state_of(dense)
    pattern = "of widths 3,7,19, or to a dense one of widths 3,3,3; give --nodense or --dense"
    with pytest.raises(UserError, match=pattern):
        recognised(dense, state)
    assert recognised(dense, state, dense=True) == dense
    assert recognised(dense, state, dense=False).receptive_field == 3 * 7 * 19
    single = TemporalConfig(widths=(1, 1, 1), channels=4)
    assert recognised(single, state_of(single)) == single


def other(change):
    """A small network's weights with something else."""
    state = state_of(tiny_poses.MODEL)
    if change == "another network":
        return {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    if change == "empty":
        return {}
    if change == "a layer less":
        return {name: x for name, x in state.items() if not name.startswith("layers_bn.1")}
    if change == "a layer more":
        return state | {"attention.weight": np.zeros((8, 8), np.float32)}
    if change == "2D convolutions":
        return state | {"expand_conv.weight": np.zeros((8, 34, 3, 3), np.float32)}
    if change == "groups":
        return state | {"layers_conv.0.weight": np.zeros((8, 1, 3), np.float32)}
    if change == "an even width":
        return state | {"layers_conv.0.weight": np.zeros((8, 8, 2), np.float32)}
    assert change == "channels"
    return state | {"expand_bn.weight": np.zeros(9, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("another network", r"another architecture: the file lacks expand_bn.bias and 6 more"),
        ("empty", "another architecture: the file lacks"),
        ("a layer less", r"lacks layers_bn\.1\.bias and 3 more"),
        ("a layer more", r"has an unknown attention\.weight"),
        ("2D convolutions", r"expand_conv\.weight has the shape \(8, 34, 3, 3\), where 3 axes"),
        ("groups", r"layers_conv\.0\.weight has the shape \(8, 1, 3\), where \(8, 8, 3\) belongs"),
        ("an even width", "widths must be odd numbers"),
        ("channels", r"expand_bn\.weight has the shape \(9,\), where \(8,\) belongs"),
    ],
)
def test_other_architectures_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        recognised(tiny_poses.MODEL, other(change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keypoint_layout": "mpii16"}, "reads 34 numbers per frame, but mpii16 has 16 keypoints"),
        ({"skeleton": "humaneva15"}, "gives 51 numbers .* humaneva15, 15 joints, needs 45; give"),
        ({"skeleton": None}, "gives 51 numbers per frame, but a trajectory needs 3"),
        ({"keypoint_layout": "body"}, "There is no layout 'body'; give one of h36m17"),
    ],
)
def test_other_joints_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        recognised(tiny_poses.MODEL, state_of(tiny_poses.MODEL), **options)


@pytest.mark.parametrize(
    ("widths", "causal", "total", "first", "last"),
    [
        ((3, 3, 3), False, 0.026128447, 1.274543289, -1.235788230),
        ((3, 3, 3), True, 0.025591647, 1.226377457, -1.154478687),
        ((3, 5, 3), False, 0.024712327, 1.101683928, -1.127613859),
        ((3, 5, 3), True, 0.026132929, 1.247415378, -1.300849786),
    ],
)
def test_the_originals_printed_numbers(widths, causal, total, first, last):
    """Of parameters that are formulas, tensor by tensor in the original's order."""
    config = TemporalConfig(widths=widths, channels=8, causal=causal)
    shapes = {name: x.shape for name, x in state_of(config).items()}
    blocks = 2 * (len(widths) - 1)
    order = ["expand_bn.weight", "expand_bn.bias", "shrink.weight", "shrink.bias"]
    order += ["expand_conv.weight", *(f"layers_conv.{i}.weight" for i in range(blocks))]
    order += [f"layers_bn.{i}.{part}" for i in range(blocks) for part in ("weight", "bias")]
    state = {}
    for k, name in enumerate(order):
        n = np.arange(np.prod(shapes[name]))
        state[name] = (0.3 * np.sin(0.37 * n + 0.01 * k)).reshape(shapes[name])
    n = np.arange(8)
    for bn in ("expand_bn", *(f"layers_bn.{i}" for i in range(blocks))):
        state[f"{bn}.running_mean"] = 0.1 * np.cos(0.5 * n)
        state[f"{bn}.running_var"] = 1 + 0.5 * np.sin(0.3 * n)
    frames = config.receptive_field + 2
    x = np.sin(0.11 * np.arange(frames * 34)).reshape(1, frames, 17, 2)
    assert recognised(config, state) == config
    y, _ = temporal.dilated(config, *from_torch(state), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.sum(y), total, atol=1e-4)
    np.testing.assert_allclose([y[0, 0, 0, 0], y[0, 2, 16, 2]], [first, last], atol=2e-6)
