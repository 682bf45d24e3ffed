"""A checkpoint enters a model only by a plan that explains every name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train_jax.errors import UserError
from train_jax.transfer import Rule, apply_plan, draft_plan, make_plan


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


TARGET = {
    "body": {"kernel": shape(2, 3), "bias": shape(3)},
    "head": {"kernel": shape(3, 5)},
    "table": shape(1, 6),
    "gate": shape(4),
}
SOURCE = {
    "body": {"kernel": shape(2, 3), "bias": shape(3)},
    "head": {"kernel": shape(3, 9)},
    "table": shape(1, 3),
    "extra": shape(7),
}
RULES = (
    Rule("head/.*", "zero"),
    Rule("gate", "fresh"),
    Rule("extra", "drop"),
    Rule("table", "resize", resize=lambda array, shape: np.tile(array, (1, 2))),
    Rule(".*", "load"),
)


class Recording(dict):
    """Counts which arrays are read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = []

    def __getitem__(self, name):
        self.read.append(name)
        return super().__getitem__(name)


def source_arrays():
    return Recording(
        {
            "body/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
            "body/bias": np.full(3, 7, np.float32),
            "head/kernel": np.ones((3, 9), np.float32),
            "table": np.array([[1, 2, 3]], np.float32),
            "extra": np.ones(7, np.float32),
        }
    )


def fresh_params():
    return jax.tree.map(lambda s: jnp.full(s.shape, -1, s.dtype), TARGET)


def test_every_name_has_one_fate():
    plan = make_plan(SOURCE, TARGET, RULES)
    fates = {entry.name: entry.status for entry in plan.entries}
    assert fates == {
        "body/kernel": "loaded",
        "body/bias": "loaded",
        "head/kernel": "zero-initialised",
        "table": "resized",
        "gate": "fresh",
        "extra": "dropped",
    }


def test_table_shows_every_name_with_both_shapes():
    table = make_plan(SOURCE, TARGET, RULES).table()
    assert len(table.splitlines()) == 1 + 6 + 1
    (head,) = [line for line in table.splitlines() if line.startswith("head/kernel")]
    assert head.split("  ")[0] == "head/kernel"
    assert "zero-initialised" in head
    assert "float32(3, 9)" in head
    assert "float32(3, 5)" in head
    assert table.endswith("2 loaded, 1 fresh, 1 zero-initialised, 1 resized, 1 dropped")


def test_plan_is_carried_out():
    params = apply_plan(make_plan(SOURCE, TARGET, RULES), source_arrays(), fresh_params())
    np.testing.assert_array_equal(params["body"]["kernel"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(params["body"]["bias"], [7, 7, 7])
    np.testing.assert_array_equal(params["head"]["kernel"], np.zeros((3, 5)))
    np.testing.assert_array_equal(params["table"], [[1, 2, 3, 1, 2, 3]])
    np.testing.assert_array_equal(params["gate"], -np.ones(4))


def test_only_what_is_needed_is_read_and_once():
    source = source_arrays()
    plan = make_plan(SOURCE, TARGET, RULES)
    apply_plan(plan, source, fresh_params())
    assert sorted(source.read) == sorted(plan.needed) == ["body/bias", "body/kernel", "table"]


def test_params_go_where_the_fresh_ones_are():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, P("data"))
    target = {"a": shape(16, 2), "b": shape(8), "c": shape(8)}
    fresh = {
        # Only the shape and the place are asked of a leaf that is replaced.
        "a": jax.ShapeDtypeStruct((16, 2), jnp.float32, sharding=split),
        "b": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=split),
        "c": jax.device_put(np.zeros(8, np.float32), NamedSharding(mesh, P())),
    }
    rules = (Rule("b", "zero"), Rule(".*", "load"))
    source = {"a": np.arange(32, dtype=np.float32).reshape(16, 2), "c": jnp.ones(8)}
    params = apply_plan(make_plan(source, target, rules), source, fresh)
    assert params["a"].sharding == params["b"].sharding == split
    assert params["c"].sharding == fresh["c"].sharding
    np.testing.assert_array_equal(params["a"], source["a"])
    np.testing.assert_array_equal(params["c"], np.ones(8))


def test_a_host_tree_stays_on_the_host():
    fresh = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), TARGET)
    params = apply_plan(make_plan(SOURCE, TARGET, RULES), source_arrays(), fresh)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))


def test_everything_unexplained_is_listed_at_once():
    source = {"a": shape(2), "foreign": shape(3), "d": shape(2, dtype=jnp.int32)}
    target = {"a": shape(4), "absent": shape(5), "d": shape(2)}
    rules = (Rule("a", "load", hint="set width to 2"), Rule(".*", "load"))
    with pytest.raises(UserError) as caught:
        make_plan(source, target, rules)
    lines = str(caught.value).splitlines()
    assert "4 names are unexplained" in lines[0]
    assert lines[1].endswith(
        "a: does not fit (checkpoint float32(2), model float32(4)); set width to 2."
    )
    assert "absent: missing in the checkpoint (checkpoint -, model float32(5))" in lines[2]
    assert "d: does not fit (checkpoint int32(2), model float32(2))" in lines[3]
    assert "foreign: not in the model (checkpoint float32(3), model -)" in lines[4]


def test_a_draft_shows_its_problems_in_the_table():
    plan = draft_plan({}, {"a": shape(2)}, [Rule(".*", "load")])
    assert plan.names("missing") == ("a",)
    assert "missing" in plan.table()
    with pytest.raises(UserError, match="missing in the checkpoint"):
        apply_plan(plan, {}, {"a": np.zeros(2, np.float32)})


def test_a_name_without_a_rule_is_an_error():
    with pytest.raises(UserError, match=r"b: does not fit .*no rule matches it"):
        make_plan({"b": shape(2)}, {"b": shape(2)}, [Rule("a", "load")])


def test_rules_match_whole_names():
    with pytest.raises(UserError, match="no rule matches"):
        make_plan({"head2": shape(2)}, {"head2": shape(2)}, [Rule("head", "load")])


def test_dropping_what_the_model_needs_is_an_error():
    with pytest.raises(UserError, match="the model needs what a rule drops"):
        make_plan({"a": shape(2)}, {"a": shape(2)}, [Rule("a", "drop")])


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (jnp.bfloat16, jnp.float32, True),
        (jnp.float16, jnp.float32, True),
        (np.float64, jnp.float32, False),
        (jnp.float32, jnp.bfloat16, False),
        (jnp.float16, jnp.bfloat16, False),
        (jnp.int32, jnp.float32, False),
    ],
)
def test_only_lossless_casts_between_floats_are_made(old, new, allowed):
    source, target = {"a": shape(2, dtype=old)}, {"a": shape(2, dtype=new)}
    if not allowed:
        with pytest.raises(UserError, match="lossless"):
            make_plan(source, target, [Rule("a", "load")])
        return
    fresh = {"a": jnp.zeros(2, new)}
    plan = make_plan(source, target, [Rule("a", "load")])
    params = apply_plan(plan, {"a": np.array([1, 0.5], old)}, fresh)
    assert params["a"].dtype == new
    np.testing.assert_array_equal(params["a"], [1, 0.5])


def test_a_source_that_changed_since_it_was_planned_is_refused():
    plan = make_plan({"a": shape(2)}, {"a": shape(2)}, [Rule("a", "load")])
    with pytest.raises(UserError, match=r"announced as float32\(2\) but holds float32\(3\)"):
        apply_plan(plan, {"a": np.zeros(3, np.float32)}, {"a": np.zeros(2, np.float32)})


def test_a_fresh_value_must_exist():
    plan = make_plan({}, {"a": shape(2)}, [Rule("a", "fresh")])
    with pytest.raises(UserError, match="a would keep its initial value, but there is none"):
        apply_plan(plan, {}, {"a": shape(2)})
