"""What is collected over a split is what each example gives, in the order of the data set."""

import dataclasses

import jax
import numpy as np
import pytest
import toy

from train_jax.errors import UserError
from train_jax.evaluation import make_collector, make_evaluator
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.task import Probe


def collect(devices, data, params):
    def doubled(params, model_state, batch):
        del model_state
        return {"x": batch["x"] * params["factor"], "y": batch["y"]}

    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    with jax.set_mesh(mesh):
        return make_collector(data, doubled, mesh)(params, {})


@pytest.mark.parametrize("devices", [1, 8])
def test_every_example_once_in_order(devices):
    x, y = toy.points()
    # The last of three batches is mostly padding.
    found = collect(devices, toy.eval_data(48), {"factor": np.float32(2)})
    np.testing.assert_array_equal(found["x"], 2 * x)
    np.testing.assert_array_equal(found["y"], y)


def test_examples_that_do_not_count_are_left_out():
    x, y = toy.points()
    data = toy.eval_data(48)

    def odd_ones(rows):
        return ({**batch, "mask": batch["mask"] & (batch["y"] % 2 == 1)} for batch in start(rows))

    start = data.start
    found = collect(8, dataclasses.replace(data, start=odd_ones), {"factor": np.float32(1)})
    np.testing.assert_array_equal(found["x"], x[y % 2 == 1])


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="evaluation batch of 50 does not split over 8 devices"):
        collect(8, toy.eval_data(50), {"factor": np.float32(1)})


def test_a_probe_measures_by_itself():
    mesh = make_mesh(MeshConfig())
    probe = Probe(lambda mesh: lambda params, state: {"devices": float(mesh.size), **params})
    assert make_evaluator(probe, mesh)({"a": 1.0}, {}) == {"devices": 8.0, "a": 1.0}
