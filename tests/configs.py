"""What tests of experiments need: a config as the command line reads it, and keys nobody reads."""

import ast
import dataclasses
import typing
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import config_flags

from train_jax.config import from_config

T = TypeVar("T")

ROOT = Path(__file__).parents[1]


def parsed(cls: type[T], file: str, arg: str, *overrides: str) -> T:
    """The config as the command line reads it: file under experiments/, argument, overrides."""
    values, argv = flags.FlagValues(), ["", f"--config={ROOT}/experiments/{file}:{arg}", *overrides]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=argv)
    with warnings.catch_warnings():
        # ml_collections loads the file with an importlib call that is going out of use.
        warnings.simplefilter("ignore", DeprecationWarning)
        values(argv)
    return from_config(cls, values["config"].value)  # pyright: ignore[reportArgumentType]


def config_classes(cls: Any, found: dict[type, dict[str, Any]] | None = None) -> dict[type, Any]:
    """The dataclass and all that its fields hold, whichever of a union is chosen."""
    found = {} if found is None else found
    if dataclasses.is_dataclass(cls):
        if cls in found:
            return found
        found[typing.cast(type, cls)] = typing.get_type_hints(cls)
        for hint in found[typing.cast(type, cls)].values():
            config_classes(hint, found)
    for arg in typing.get_args(cls) if not isinstance(cls, type) else ():
        config_classes(arg, found)
    return found


def unread_keys(cls: type, packages: Iterable[str]) -> list[str]:
    """Keys of a config that the packages never read, except to check them on construction."""
    read: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            read.add(node.attr)
        for child in ast.iter_child_nodes(node):
            visit(child)

    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            visit(ast.parse(path.read_text(encoding="utf-8")))
    return [
        f"{kind.__name__}.{name}"
        for kind, hints in config_classes(cls).items()
        for name, hint in hints.items()
        # Which of a union's dataclasses it is.
        if name not in read and not (name == "name" and typing.get_origin(hint) is typing.Literal)
    ]
