import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest
from ml_collections import ConfigDict

from train_jax.config import (
    FREE,
    differences,
    from_config,
    identity,
    parse_arg,
    to_config_dict,
    to_dict,
)
from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sgd:
    name: Literal["sgd"] = "sgd"
    momentum: float = 0.9


@dataclasses.dataclass(frozen=True)
class Adam:
    name: Literal["adam"] = "adam"
    b2: float = 0.999


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    optimizer: Sgd | Adam = Sgd()
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    evaluations: Mapping[str, Sgd] = dataclasses.field(default_factory=dict)
    workers: int = dataclasses.field(default=0, metadata=FREE)
    flag: bool = False


def test_nested_groups_become_dataclasses():
    config = ConfigDict(
        {
            "steps": 3,
            "optimizer": {"name": "adam", "b2": 0.95},
            "size": (2, 3),
            "names": ("a",),
            "evaluations": {"val": {"momentum": 1}},
        }
    )
    run = from_config(Run, config)
    assert run == Run(
        3, Adam(b2=0.95), size=(2, 3), names=("a",), evaluations={"val": Sgd(momentum=1.0)}
    )
    assert from_config(Run, to_dict(run)) == run


def test_a_config_survives_the_way_through_the_command_line():
    run = Run(3, Adam(), evaluations={"val": Sgd(momentum=0.5)})
    config = to_config_dict(run)
    assert from_config(Run, config) == run
    # Keys that are None keep their type, so that they can be overridden.
    config.size = (2, 3)
    assert from_config(Run, config).size == (2, 3)
    with pytest.raises(TypeError):
        config.size = "large"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, r"config\.stepz is not a key that Run reads; did you mean config\.steps"),
        ({}, r"config\.steps is missing"),
        ({"steps": 1.5}, r"config\.steps is 1\.5 \(float\); it must be of type int"),
        ({"steps": True}, r"config\.steps is True \(bool\)"),
        ({"steps": 1, "flag": 1}, r"config\.flag is 1 \(int\); it must be of type bool"),
        ({"steps": 1, "size": (1, 2, 3)}, r"config\.size has 3 entries; it must have 2"),
        ({"steps": 1, "names": "abc"}, r"config\.names is 'abc'; it must be a tuple"),
        ({"steps": 1, "optimizer": {"name": "lion"}}, r"config\.optimizer\.name is 'lion'.*'sgd'"),
        # A key that only another choice reads is a key that nothing reads.
        (
            {"steps": 1, "optimizer": {"name": "sgd", "b2": 0.9}},
            r"config\.optimizer\.b2 is not a key that Sgd reads",
        ),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(UserError, match=message):
        from_config(Run, values)


def test_the_identity_of_a_run_leaves_out_how_it_is_carried_out():
    assert identity(Run(1, workers=8)) == identity(Run(1, workers=0))
    assert differences(identity(Run(1)), identity(Run(2))) == ["config.steps: 1 -> 2"]


@pytest.mark.parametrize(
    ("arg", "values"),
    [
        (None, ("B/16", 224, False)),
        ("L/16", ("L/16", 224, False)),
        ("L/16,384", ("L/16", 384, False)),
        ("size=384,flip=true", ("B/16", 384, True)),
    ],
)
def test_arguments_behind_the_colon_are_typed(arg, values):
    assert tuple(parse_arg(arg, variant="B/16", size=224, flip=False).values()) == values


@pytest.mark.parametrize("arg", ["a,b,c,d", "width=3", "size=big", "flip=maybe"])
def test_wrong_arguments_are_refused(arg):
    with pytest.raises(UserError):
        parse_arg(arg, variant="B/16", size=224, flip=False)
