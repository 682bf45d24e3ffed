"""The table of plans: every figure of big_vision's has a program of ours beside it."""

import runpy

import commands
import pytest

TABLE = runpy.run_path(str(commands.ROOT / "benchmarks" / "plan_table.py"))


def test_every_peer_has_a_program_and_its_ratios():
    cases = list(TABLE["peer"]())
    assert {case.peer for case in cases} == {
        (153.9, 1.9),
        (252.5, 5.1),
        (379.9, 10.0),
        (118.7, 4.3),
        (148.1, 4.9),
        (369.6, 10.0),
    }
    found = {
        "fits": True,
        "gib": 3.59,
        "usable_gib": 15.75,
        "mcycles": 108.6,
        "per_core": 1.0,
        "slowest_per_core": 1.0,
        "mfu": 0.5,
        "core_days": 1.0,
        "published": {},
    }
    (case,) = (case for case in cases if ("accumulate", 2) in case.changes)
    assert TABLE["_row"](case, found)[-2:] == ["118.7, 4.3", "0.91, 0.83"]
    lacks = TABLE["_row"](case, found | {"fits": False})
    assert "does not fit" in lacks[3]
    assert len(lacks) == len(TABLE["_row"](case, found))


@pytest.mark.parametrize("which", ["paper", "peer", "options"])
def test_no_program_is_compiled_twice(which):
    keys = [case.key for case in TABLE[which]()]
    assert len(set(keys)) == len(keys)
