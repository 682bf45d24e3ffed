import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from train_jax import mesh as mesh_module
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import (
    batch_shards,
    constrain_batch,
    flat_names,
    param_shardings,
    sharding_table,
)

RULES = (
    ("block/kernel", ("layer", None, "tensor")),
    (".*/bias", (None,)),
)


def params(layers=8, width=512, hidden=1024):
    return {
        "block": {
            "kernel": jax.ShapeDtypeStruct((layers, width, hidden), jnp.float32),
            "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
        }
    }


def specs(mesh_config, tree=None):
    tree = params() if tree is None else tree
    shardings = param_shardings(tree, RULES, make_mesh(mesh_config))
    return {name: sharding.spec for name, sharding in flat_names(shardings).items()}


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1), (2, 4, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=-1, fsdp=-1), (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=-1, tensor=2), (1, 4, 2)),
    ],
)
def test_a_mesh_has_all_devices(config, shape):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == shape
    assert batch_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=3),
        MeshConfig(data=-1, tensor=-1),
        MeshConfig(-1, -1, -1),
        MeshConfig(-1, -1, 16),
        MeshConfig(0),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(UserError, match="mesh data="):
        make_mesh(config)


def test_parameters_are_split_over_no_more_devices_than_pays(monkeypatch):
    monkeypatch.setattr(mesh_module, "MAX_SHARDS", 4)
    both = MeshConfig(data=-1, fsdp=-1)
    assert tuple(make_mesh(both).shape.values()) == (2, 4, 1)
    assert tuple(make_mesh(both, jax.devices()[:6]).shape.values()) == (3, 2, 1)
    assert tuple(make_mesh(both, jax.devices()[:1]).shape.values()) == (1, 1, 1)
    # A number of one's own is taken at its word.
    assert tuple(make_mesh(MeshConfig(data=1, fsdp=-1)).shape.values()) == (1, 8, 1)


def test_data_parallel_replicates_parameters():
    assert specs(MeshConfig()) == {"block/kernel": P(), "block/bias": P()}


def test_fsdp_splits_the_largest_axis_but_never_the_layers():
    assert specs(MeshConfig(data=2, fsdp=4))["block/kernel"] == P(None, None, "fsdp")
    many_layers = params(layers=4096, width=8, hidden=4)
    assert specs(MeshConfig(data=2, fsdp=4), many_layers)["block/kernel"] == P(None, "fsdp")


def test_fsdp_leaves_small_arrays_whole():
    assert specs(MeshConfig(data=2, fsdp=4))["block/bias"] == P()


def test_tensor_parallelism_and_fsdp_take_different_axes():
    spec = specs(MeshConfig(data=2, fsdp=2, tensor=2))["block/kernel"]
    assert spec == P(None, "fsdp", "tensor")


def test_an_axis_that_does_not_divide_is_not_split():
    odd = params(width=511, hidden=1023)
    assert specs(MeshConfig(data=2, fsdp=4), odd)["block/kernel"] == P()


def test_every_parameter_needs_a_rule_and_every_rule_a_parameter():
    mesh = make_mesh(MeshConfig())
    with pytest.raises(UserError, match=r"No sharding rule matches the parameter block/kernel"):
        param_shardings(params(), RULES[1:], mesh)
    with pytest.raises(UserError, match=r"match no parameter: head/kernel"):
        param_shardings(params(), (*RULES, ("head/kernel", (None, None))), mesh)


def test_the_table_adds_up_bytes_per_device():
    tree = params(layers=2)
    table = sharding_table(tree, param_shardings(tree, RULES, make_mesh(MeshConfig(2, 4))))
    kernel, bias = 2 * 512 * 1024 * 4 // 4, 512 * 4
    assert f"{kernel:,}" in table
    assert table.splitlines()[-1].split() == ["total", f"{kernel + bias:,}"]


def test_activations_keep_their_batch_split():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    with jax.set_mesh(mesh):
        x = jax.jit(lambda: constrain_batch(jnp.zeros((16, 4))))()
    assert x.sharding.spec == P(("data", "fsdp"))
    # Without a mesh, as in a notebook, it does nothing.
    assert constrain_batch(jnp.zeros((3,))).shape == (3,)
