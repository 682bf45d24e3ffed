"""From an ml_collections file to frozen dataclasses, and back to JSON.

Configs are written as ``ConfigDict`` in ``experiments/`` and overridden on the command line. They
are converted once, here, and checked while they are: below the command line everything takes
dataclasses. Unknown keys are errors. So are keys that nothing would read: where a choice decides
which keys matter (``optimizer.name``), each choice is a dataclass of its own, so that a key of
another choice is unknown.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ml_collections import ConfigDict, config_dict

from train_jax.errors import UserError

T = TypeVar("T")

# A field with this metadata may differ between a run and its continuation: it changes how the run
# is carried out (mesh, logging, ...), never what is computed.
FREE = {"identity": False}


def from_config(cls: type[T], values: Mapping[str, Any], *, path: str = "config") -> T:
    """Builds the frozen dataclass ``cls`` from nested mappings.

    Args:
        cls: a dataclass whose annotations are plain types, ``Literal``, tuples, optionals, mappings
            from names, dataclasses, or unions of dataclasses that are told apart by their ``name``
            field.
        values: a ``ConfigDict`` or nested dict.
        path: the name of ``values`` in messages.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type, with its full path.
    """
    values = {key: values[key] for key in values}  # resolves the references of a ConfigDict
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise UserError(_unknown(key, list(fields), path, cls))
    kwargs = {}
    for name, field in fields.items():
        if name in values:
            kwargs[name] = _convert(hints[name], values[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}.{name} is missing; set it in the config file.")
    return cls(**kwargs)


def _unknown(key: str, known: list[str], path: str, cls: type) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {path}.{close[0]}?" if close else f"known keys: {', '.join(known)}."
    return f"{path}.{key} is not a key that {cls.__name__} reads; {hint}"


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{path} is {value!r}; it must be one of {_listed(args)}.")
        return value
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping) and not hasattr(value, "items"):
            raise UserError(f"{path} is {value!r}; it must be a group of keys ({_name(hint)}).")
        return from_config(typing.cast(type, hint), value, path=path)
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin in (dict, Mapping):
        if not hasattr(value, "items"):
            raise UserError(f"{path} is {value!r}; it must be a group of named entries.")
        return {key: _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    return _convert_plain(hint, value, path)


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None:
        if type(None) in args:
            return None
        raise UserError(f"{path} is None; set it.")
    kinds = [arg for arg in args if dataclasses.is_dataclass(arg)]
    if kinds and hasattr(value, "items"):
        if len(kinds) == 1:
            return _convert(kinds[0], value, path)
        names = {typing.get_args(typing.get_type_hints(kind)["name"])[0]: kind for kind in kinds}
        name = value.get("name")
        if name not in names:
            raise UserError(f"{path}.name is {name!r}; it must be one of {_listed(names)}.")
        return _convert(names[name], value, path)
    plain = [arg for arg in args if arg is not type(None)]
    for arg in plain:
        try:
            return _convert(arg, value, path)
        except UserError:
            if arg is plain[-1]:
                raise
    raise AssertionError(path)


def _convert_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise UserError(f"{path} is {value!r}; it must be a tuple.")
    items = tuple(value)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if len(items) != len(args):
        raise UserError(f"{path} has {len(items)} entries; it must have {len(args)}.")
    return tuple(
        _convert(arg, item, f"{path}[{i}]")
        for i, (arg, item) in enumerate(zip(args, items, strict=True))
    )


def _convert_plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is an int in Python; a flag given for a number is a mistake.
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        kind = type(value).__name__
        raise UserError(f"{path} is {value!r} ({kind}); it must be of type {hint.__name__}.")
    return value


def _name(kind: Any) -> str:
    return kind.__name__


def _listed(names: typing.Iterable[Any]) -> str:
    return ", ".join(repr(name) for name in names)


def to_config_dict(config: Any) -> ConfigDict:
    """A dataclass as the ``ConfigDict`` that an experiment file returns.

    Experiments build dataclasses, so that the type checker reads them too; the command line
    overrides the keys of a ``ConfigDict``. A key that is None keeps the type that it would have.
    """
    hints = typing.get_type_hints(type(config))
    result = ConfigDict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif isinstance(value, Mapping):
            value = ConfigDict({key: to_config_dict(item) for key, item in value.items()})
        elif value is None:
            value = config_dict.placeholder(_plain_type(hints[field.name]))
        result[field.name] = value
    return result


def _plain_type(hint: Any) -> type:
    """The type that the value of an optional field has when it is not None."""
    for arg in typing.get_args(hint):
        plain = typing.get_origin(arg) or arg
        if plain is Literal:
            plain = type(typing.get_args(arg)[0])
        if plain is not type(None):
            return ConfigDict if dataclasses.is_dataclass(plain) else plain
    raise TypeError(f"{hint} has no value but None")


def to_dict(config: Any) -> Any:
    """The config as plain JSON values (tuples become lists)."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def identity(config: Any) -> Any:
    """What of a config decides the numbers of a run: ``to_dict`` without the ``FREE`` fields."""
    if dataclasses.is_dataclass(config):
        return {
            field.name: identity(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if field.metadata.get("identity", True)
        }
    if isinstance(config, Mapping):
        return {key: identity(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [identity(value) for value in config]
    return config


def differences(old: Any, new: Any, *, path: str = "config") -> list[str]:
    """Where two JSON values differ, as ``path: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), path=f"{path}.{key}")
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads the part of ``--config=file.py:ARG`` behind the colon.

    ``"L/16,cifar100"`` fills the arguments in the order given; ``"variant=L/16"`` names one. Types
    follow the defaults.

    Raises:
        UserError: too many arguments, an unknown name, or a value that is not of the default's
            type.
    """
    values, names = dict(defaults), list(defaults)
    for position, part in enumerate(filter(None, (arg or "").split(","))):
        name, equals, text = part.partition("=")
        if not equals:
            if position >= len(names):
                raise UserError(f"The config takes {len(names)} arguments ({', '.join(names)}).")
            name, text = names[position], part
        if name not in defaults:
            raise UserError(f"The config has no argument {name!r}; it takes {', '.join(names)}.")
        values[name] = _parse_text(name, text, defaults[name])
    return values


def _parse_text(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"Config argument {name}={text!r} must be true or false.")
        return text.lower() == "true"
    if default is None or isinstance(default, str):
        return text
    try:
        return type(default)(text)
    except ValueError as error:
        kind = type(default).__name__
        raise UserError(f"Config argument {name}={text!r} must be of type {kind}.") from error
