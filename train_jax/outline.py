"""What a plan has to know of a run whose data are not there.

Every config says by its key ``package`` which package trains it. The module ``PACKAGE.outline`` has
``CONFIG``, the class of its configs, and a function ``outline`` from such a config to an `Outline`:
the same task as for training, with the shapes of its data in their place.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.task import Task
from train_jax.train_config import TrainConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Published:
    """What a run has cost its authors.

    Attributes:
        what: what was published of ("exaFLOP", "core_days", ...).
        value: as printed.
        source: where.
    """

    what: str
    value: float
    source: str


@dataclasses.dataclass(frozen=True)
class Outline:
    """A run without its data.

    Attributes:
        task: whose training data can be expanded but not started.
        resident: shapes of the arrays that stay on the devices.
        batch: shapes of the arrays that travel for one step.
        multiply_adds: of the products of a forward pass, for one example.
        choices: keys of the config that change memory and time but no result, with their values,
            the one that keeps most first.
        published: what the same run has cost others.
    """

    task: Task
    resident: Mapping[str, jax.ShapeDtypeStruct]
    batch: Mapping[str, jax.ShapeDtypeStruct]
    multiply_adds: float
    choices: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    published: Sequence[Published] = ()


def read_config(values: Any) -> TrainConfig:
    """The config of an experiment file, of whichever package.

    Raises:
        UserError: it names none, or is not right.
    """
    if "package" not in values:
        raise UserError(
            "The config has no key 'package' that says who trains it; add package='vit_jax' or "
            "package='pose_jax'."
        )
    return from_config(_module(values["package"]).CONFIG, values)


def outline(config: TrainConfig) -> Outline:
    """The run of a config, by its package.

    Raises:
        UserError: what cannot work.
    """
    return _module(config.package).outline(config)  # pyright: ignore[reportAttributeAccessIssue]


def _module(package: str) -> Any:
    try:
        return importlib.import_module(f"{package}.outline")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.outline"):
            raise
        raise UserError(
            f"config.package is {package!r}, which has no module {package}.outline; "
            "name a package that trains."
        ) from error


def get(config: Any, key: str) -> Any:
    """A value by its dotted key, ``model.remat``."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def replaced(config: T, key: str, value: Any) -> T:
    """A config with another value under a dotted key."""
    name, _, rest = key.partition(".")
    value = replaced(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: value})  # pyright: ignore[reportArgumentType]
