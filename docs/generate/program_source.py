"""What the programs of this repository are and which flags they have, read from their source.

Nothing is imported or run, so that the documentation is built in seconds and without an accelerator
library: a program is a file with an ``if __name__ == "__main__"``; its flags are the calls of
``flags.DEFINE_...`` and ``add_argument`` in it and in what it imports.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

PACKAGES = ("train_jax", "vit_jax", "pose_jax", "experiments", "benchmarks", "colabs")
"""Where programs are looked for, in the order of their pages."""

# Not for users: it is tried by hand while a pipeline is written.
_INTERNAL = ("vit_jax.data.batches",)


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag or argument.

    Attributes:
        name: with its dashes, as in ``--workdir``; an argument without.
        help: its text; parts that are computed are an ellipsis.
        default: source text of its default; None where there is none.
        choices: what an enumeration allows.
        is_bool: whether ``--noNAME`` exists too.
    """

    name: str
    help: str
    default: str | None
    choices: tuple[str, ...] = ()
    is_bool: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
    """A program.

    Attributes:
        words: after ``python -m``: the module, and the name of a subcommand.
        usage: its module docstring.
        flags: its own.
        shared: those of the modules that it imports, which every run has.
        subcommands: what its first argument may be.
    """

    words: str
    usage: str
    flags: tuple[Flag, ...]
    shared: tuple[Flag, ...]
    subcommands: tuple["Command", ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return " ".join(self.usage.split("\n\n")[0].split()).rstrip(":")

    def accepts(self, word: str) -> bool:
        """Whether a word such as ``--nocausal`` or ``--config.seed=1`` is one of its flags."""
        name = word.partition("=")[0].partition(".")[0]
        every = {flag.name for flag in (*self.flags, *self.shared)} | {"--help", "--helpfull"}
        both = {f"--no{f.name[2:]}" for f in (*self.flags, *self.shared) if f.is_bool}
        return name in every or name in both


@functools.cache
def find() -> tuple[Command, ...]:
    """Every program, by its packages' order and its name."""
    found = [
        _command(module)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
        for module in [_module_of(path)]
        if module not in _INTERNAL
    ]
    return tuple(found)


def named(module: str) -> Command | None:
    """The program that ``python -m MODULE`` starts."""
    return next((command for command in find() if command.words == module), None)


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] in ("__main__", "__init__") else parts)


def _path_of(module: str) -> Path | None:
    """The file that is run by ``python -m``, or imported."""
    base = ROOT / Path(*module.split("."))
    for path in (base / "__main__.py", base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _command(module: str) -> Command:
    path = _path_of(module)
    assert path is not None
    tree = _tree(path)
    own = [*_absl(tree), *_arguments(tree)]
    for name in _imports(tree):
        other = _path_of(name)
        if other is None or other == path:
            continue
        # The command calls a function of another module that defines flags for it.
        functions = [n for n in _tree(other).body if isinstance(n, ast.FunctionDef)]
        for called in sorted(_called(tree, name) & {function.name for function in functions}):
            own += _absl(_tree(other), of=called)
    # Whoever reads the command line with argparse knows no other flags.
    others = () if list(_arguments(tree)) else _closure(path)
    shared = [flag for other in others for flag in _absl(_tree(other), of="")]
    subcommands = [
        _subcommand(module, path.parent / f"{name}.py") for name in _tuple(tree, "SOURCES")
    ]
    names = {flag.name for flag in own}
    unique = {flag.name: flag for flag in shared if flag.name not in names}
    return Command(
        words=module,
        usage=ast.get_docstring(tree) or "",
        flags=tuple({flag.name: flag for flag in own}.values()),
        shared=tuple(unique.values()),
        subcommands=tuple(subcommands),
    )


def _subcommand(module: str, path: Path) -> Command:
    tree = _tree(path)
    own = list(_arguments(tree))
    for name in _imports(tree):
        other = _path_of(name)
        if name.startswith(f"{module}.") and other is not None:
            own += _arguments(_tree(other))
    usage = ast.get_docstring(tree) or ""
    return Command(f"{module} {path.stem}", usage, tuple(own), ())


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, names_of: str | None = None) -> list[str]:
    """Modules that a file imports anywhere; or the names that it takes from one of them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if names_of is None]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            if names_of is not None:
                found += names if node.module == names_of else []
            else:
                found += [node.module, *(f"{node.module}.{name}" for name in names)]
    return list(dict.fromkeys(found))


def _called(tree: ast.Module, module: str) -> set[str]:
    """Functions of a module that a file calls, by ``FUNCTION()`` or ``MODULE.FUNCTION()``."""
    taken, last = set(_imports(tree, names_of=module)), module.rpartition(".")[2]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in taken:
                found.add(name)
            elif name.startswith(f"{last}."):
                found.add(name.removeprefix(f"{last}."))
    return found


@functools.cache
def _closure(path: Path) -> tuple[Path, ...]:
    """The files of this repository that importing a file reads, without itself."""
    seen, todo = {path}, [path]
    while todo:
        for name in _imports(_tree(todo.pop())):
            other = _path_of(name)
            if name.split(".")[0] in PACKAGES and other is not None and other not in seen:
                seen.add(other)
                todo.append(other)
    return tuple(sorted(seen - {path}))


def _absl(tree: ast.Module, of: str | None = None) -> Iterator[Flag]:
    """Flags that a file defines: all, those of a function, or (``""``) those on import."""
    if of is None:
        nodes = [*ast.walk(tree)]
    elif of:
        functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == of]
        nodes = [node for function in functions for node in ast.walk(function)]
    else:
        plain = [n for n in tree.body if isinstance(n, (ast.Assign, ast.AnnAssign, ast.Expr))]
        nodes = [node for statement in plain for node in ast.walk(statement)]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: call.lineno):
        if not isinstance(call.func, ast.Attribute) or not call.func.attr.startswith("DEFINE_"):
            continue
        kind, words = call.func.attr, {k.arg: k.value for k in call.keywords if k.arg}
        enum = kind in ("DEFINE_enum", "DEFINE_multi_enum")
        default = call.args[1] if len(call.args) > 1 else words.get("default")
        choices = call.args[2] if enum and len(call.args) > 2 else None
        text = call.args[3 if enum else 2 :] or [words.get("help")]
        yield Flag(
            name=f"--{_text(call.args[0])}",
            help=_text(text[0]),
            default=_default(default),
            choices=_strings(choices),
            is_bool=kind in ("DEFINE_bool", "DEFINE_boolean"),
        )


def _arguments(tree: ast.Module) -> Iterator[Flag]:
    """What a file gives to argparse."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: call.lineno):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "add_argument":
            continue
        words = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        text = words.get("help")
        if text is not None and ast.unparse(text) == "argparse.SUPPRESS":
            continue
        default = words.get("default")
        help_text = _text(text).replace("%(default)s", _default(default) or "")
        names = [_text(argument) for argument in call.args]
        yield Flag(names[-1], help_text, _default(default), _strings(words.get("choices")))


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(n) if isinstance(n, ast.Constant) else "…" for n in node.values)
    return ""


def _default(node: ast.expr | None) -> str | None:
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return None
    if isinstance(node, (ast.Constant, ast.List, ast.Tuple, ast.UnaryOp)):
        value = ast.literal_eval(node)
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, value)) or None
        return str(value).lower() if isinstance(value, bool) else str(value)
    return None


def _strings(node: ast.expr | None) -> tuple[str, ...]:
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(text for text in map(_text, node.elts) if text)
    return ()


def _tuple(tree: ast.Module, name: str) -> tuple[str, ...]:
    """A tuple of strings that is assigned to a name of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _strings(node.value)
    return ()
