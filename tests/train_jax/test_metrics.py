import jax.numpy as jnp
import numpy as np
import pytest

from train_jax.metrics import NEVER, add, empty_window, mean_of, to_floats


def test_padding_rows_do_not_count_whatever_they_hold():
    values = jnp.array([1.0, 2.0, jnp.inf, jnp.nan])
    mask = jnp.array([True, True, False, False])
    assert to_floats({"loss": mean_of(values, mask)}) == {"loss": 1.5}


def test_averages_over_batches_of_unequal_size_are_exact():
    a, b = mean_of(jnp.array([1.0, 1.0, 1.0])), mean_of(jnp.array([5.0]))
    assert to_floats(add({"x": a}, {"x": b})) == {"x": 2.0}


def test_a_metric_without_a_count_has_no_value():
    assert to_floats({"x": mean_of(jnp.ones(2), jnp.zeros(2, bool))}) == {}


def test_a_window_names_the_first_step_of_each_metric_that_is_not_finite():
    window = empty_window(["loss", "accuracy"])
    one = jnp.float32(1)
    for step, loss in enumerate([1.0, np.nan, 3.0, np.inf]):
        metrics = {"loss": (jnp.float32(loss), one), "accuracy": (one, one)}
        refused = jnp.array(not np.isfinite(loss))
        window = window.after_step(metrics, step=jnp.int32(step), refused=refused)
    assert int(window.first_bad["loss"]) == 1
    assert int(window.first_bad["accuracy"]) == NEVER
    assert int(window.skipped) == 2
    assert to_floats(window.sums) == {"loss": pytest.approx(2.0), "accuracy": 1.0}
