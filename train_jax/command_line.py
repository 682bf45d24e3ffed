"""From the words of a command line to flags, and from a mistake in them to one sentence."""

import argparse
import difflib
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from train_jax import libtpu
from train_jax.errors import UserError

USER_ERROR_EXIT_CODE = 2
"""Something that the user can mend, said in one sentence on stderr."""

_HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


class Parser(argparse.ArgumentParser):
    """Of the commands that take no experiment: says what is wrong in one sentence, without usage.

    ``--help`` prints the module docstring as it is, and flags are written out in full.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        """For a command, as in "python -m train_jax.report", and its module docstring."""
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError`, so that it has to be called within `exit_code`."""
        raise UserError(f"{message}; see {self.prog} --help.")


def exit_code(main: Callable[[], int | None]) -> int:
    """Runs a command; a `UserError` becomes a line on stderr and an exit code."""
    libtpu.quieten_without_tpu()
    try:
        return main() or 0
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        return USER_ERROR_EXIT_CODE


def parse(
    argv: Sequence[str], usage: str, *modules: str, arguments: Sequence[str] = ()
) -> list[str]:
    """Sets the flags; ``--help`` prints what there is to know and ends the process.

    Args:
        argv: the command line, the program first.
        usage: the module docstring of the command.
        *modules: whose flags ``--help`` tells of, beside those of the command itself.
        arguments: names of the arguments that are no flags; where the last ends in "...", there may
            be more of its kind.

    Returns:
        Those arguments.

    Raises:
        UserError: an unknown flag or config key, a value of the wrong type, a config file that
            cannot be loaded, or other arguments than there should be.
    """
    command = f"python -m {_module(Path(argv[0]))}"
    if any(word in _HELP for word in argv[1:]):
        sys.stdout.write(_help(usage, command, modules))
        sys.stdout.flush()
        sys.exit(0)
    config = _config_words(argv)
    path = None if config is None else config.partition(":")[0]
    if path is not None and not Path(path).is_file():
        raise UserError(f"--config: there is no file {path!r}; name an experiment file.")
    try:
        rest = flags.FLAGS(list(argv))[1:]
    except UserError:
        raise
    except Exception as error:
        # ml_collections runs the user's file here, and reports faults in many ways of its own.
        fault = _bad_override(argv, config) or _reason(error, path, command)
        raise UserError(fault) from error
    more = bool(arguments) and arguments[-1].endswith("...")
    if len(rest) > len(arguments) and not more:
        raise UserError(
            f"Unexpected argument {rest[len(arguments)]!r}; flags are written --name=value "
            f"(see {command} --help)."
        )
    if len(rest) < len(arguments):
        raise UserError(f"Give {' and '.join(arguments)}; see {command} --help.")
    return rest


def _module(path: Path) -> str:
    """The name that ``python -m`` knows a file of a package by."""
    path = path.parent if path.stem == "__main__" else path
    name = f"{path.parent.name}.{path.stem}"
    for package in list(path.parents)[1:]:
        if not (package / "__init__.py").exists():
            break
        name = f"{package.name}.{name}"
    return name


def _help(usage: str, command: str, modules: Sequence[str]) -> str:
    names = (sys.modules["__main__"].__name__, *modules)
    own = [flag for name in names for flag in flags.FLAGS.get_flags_for_module(name)]
    return f"{usage}\nFlags of {command}:\n{''.join(map(_flag_help, own))}"


def _flag_help(flag: flags.Flag) -> str:
    text = flag.default_as_str
    default = "" if text is None or flag.default in ("", []) else f" [{text.strip(chr(39))}]"
    # A path or an example is not broken at its hyphens.
    wrapper = textwrap.TextWrapper(100, initial_indent="  ", subsequent_indent=" " * 6)
    wrapper.break_on_hyphens = wrapper.break_long_words = False
    return f"{wrapper.fill(f'--{flag.name}: {flag.help}{default}')}\n"


def _config_words(argv: Sequence[str]) -> str | None:
    """FILE:ARGUMENTS of ``--config=FILE:ARGUMENTS`` or ``--config FILE:ARGUMENTS``."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            return value if equals else "".join(argv[i + 1 : i + 2])
    return None


def _bad_override(argv: Sequence[str], config: str | None) -> str | None:
    """What is wrong with the first ``--config.key=value`` that does not fit its file."""
    try:
        tree = flags.FLAGS["config"].parser.parse(config)  # pyright: ignore[reportArgumentType]
    except Exception:  # the file is at fault, or there is none
        return None
    for i, word in enumerate(argv):
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", word, re.DOTALL)
        if match is not None:
            value = "".join(argv[i + 1 : i + 2]) if match[2] is None else match[2]
            fault = _misfit(tree, match[1], value)
            if fault is not None:
                return fault
    return None


def _misfit(tree: Any, key: str, value: str) -> str | None:
    path, kind = "config", None
    for part in re.sub(r"\[.*?\]", "", key).split("."):
        if not isinstance(tree, ConfigDict) or part not in tree:
            known = list(tree) if isinstance(tree, ConfigDict) else []
            close = difflib.get_close_matches(part, known, n=1)
            if close:
                return f"{path}.{part} is no key of this config; did you mean {path}.{close[0]}?"
            listed = f"; {path} has {', '.join(known)}" if known else f"; {path} has no keys"
            return f"{path}.{part} is no key of this config{listed}."
        kind = tree.get_type(part)
        path, tree = f"{path}.{part}", tree[part]
    if kind is ConfigDict:
        return f"--{path}={value}: {path} is a group of keys; set one of {', '.join(tree)}."
    if kind is int or kind is float:
        try:
            kind(value)
        except ValueError:
            return f"--{path}={value} must be of type {kind.__name__}."
    return None


def _reason(error: Exception, path: str | None, command: str) -> str:
    for cause in (error.__cause__, error.__context__):
        if isinstance(cause, UserError):
            return str(cause)
    text = str(error).strip()
    if "get_config() takes 0 positional arguments" in text:
        return f"The config {path} takes no arguments; leave out the colon and what follows it."
    if "has no attribute 'get_config'" in text:
        return f"The config {path} has no function get_config; name an experiment file."
    if isinstance(error, flags.Error) and "Traceback" not in text:
        text = " ".join(text.split()).rstrip(".")
        return f"{text[0].upper()}{text[1:]} (see {command} --help)."
    return f"The config {path} cannot be loaded: {_last_word(error, text, path)}."


def _last_word(error: Exception, text: str, path: str | None) -> str:
    """The last line of a traceback, and the line of the user's file that led there."""
    found = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    # ml_collections turns some exceptions into the text of their traceback.
    found += [int(number) for number in re.findall(rf'"{re.escape(str(path))}", line (\d+)', text)]
    what = text.splitlines()[-1].strip() if text else ""
    if not re.match(r"\w+(Error|Exception): ", what):
        what = f"{type(error).__name__}: {what}"
    return f"line {found[-1]}: {what}" if found else what
