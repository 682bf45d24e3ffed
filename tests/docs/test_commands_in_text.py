"""What the documentation tells people to type exists: programs, flags, recipes, keys."""

import ast
import functools
import importlib
import re
import shlex
from pathlib import Path

import commands as processes
import program_source as commands
import pytest
from ml_collections import ConfigDict

ROOT = Path(__file__).parents[2]

TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "experiments" / "RESULTS.md",
    ROOT / "experiments" / "launch" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def commands_of(text: str) -> list[list[str]]:
    """The words after ``python -m`` of every command in a text, up to the end of its line."""
    text = re.sub(r"\\\n\s*", " ", text)
    # A command within a sentence may go over the end of a line.
    text = re.sub(r"(?<!`)`(?!`)[^`]+`", lambda found: " ".join(found[0].split()), text)
    found = []
    for line in re.findall(r"python -m +([^\n`#]+)", text):
        line = re.split(r" && | \| |; |\)|\.$", line)[0].replace("[--", "--").rstrip("].,: ")
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        package = words[0].partition(".")[0]
        # NAME stands for any of several.
        if package in commands.PACKAGES and not words[0].endswith(".NAME"):
            found.append(words)
    return found


@functools.cache
def config_of(named: str) -> ConfigDict:
    """The config that ``--config=FILE:ARGUMENT`` names."""
    path, _, argument = named.partition(":")
    assert (ROOT / path).is_file(), f"there is no {path}"
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return module.get_config(argument) if argument else module.get_config()


def faults_of(words: list[str]) -> list[str]:
    """What is wrong with a command; nothing where a part is left to the reader (``...``)."""
    command = commands.named(words[0])
    if command is None:
        return [f"python -m {words[0]} is no program"]
    names = {sub.words.split()[1]: sub for sub in command.subcommands}
    if len(words) > 1 and words[1] in names:
        command = names[words[1]]
    flags = [word for word in words[1:] if word.startswith("--") and word not in ("--", "--config")]
    faults = [f"{command.words} has no {flag}" for flag in flags if not command.accepts(flag)]
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    if faults or not named or re.search(r"\.\.\.|\$|[A-Z]{4}", named[0]):
        return faults
    try:
        config = config_of(named[0])
    except Exception as error:
        return [f"--config={named[0]}: {error}"]
    for flag in flags:
        found = re.match(r"--config\.([\w.]+)(?:=(.*))?$", flag)
        if found:
            faults += _misfits(config, found[1], found[2])
    return faults


def _misfits(config: ConfigDict, key: str, value: str | None) -> list[str]:
    tree = config
    *groups, last = key.split(".")
    for name in groups:
        if not isinstance(tree, ConfigDict) or name not in tree:
            return [f"no group {name} of config.{key}"]
        tree = tree[name]
    if not isinstance(tree, ConfigDict) or last not in tree:
        return [f"no key config.{key}"]
    kind = tree.get_type(last)
    if value and kind in (int, float) and not value.isupper():
        try:
            kind(value)
        except ValueError:
            return [f"config.{key} is of type {kind.__name__}, not {value}"]
    return []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_the_pages_say_to_type_exists(path):
    text = path.read_text(encoding="utf-8")
    faults = {" ".join(words): faults_of(words) for words in commands_of(text)}
    assert not {words: found for words, found in faults.items() if found}


def test_what_docstrings_say_to_type_exists():
    # These are the pages of commands and recipes, and what --help prints.
    paths = [p for name in commands.PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]
    faults = {}
    for path in paths:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for words in commands_of(text):
            found = faults_of(words)
            if found:
                faults[f"{path.relative_to(ROOT)}: {' '.join(words)}"] = found
    assert not faults


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("python -m vit_jax.trian --workdir=DIR", "no program"),
        ("python -m vit_jax.train --wrokdir=DIR", "has no --wrokdir"),
        ("python -m pose_jax.prepare cmu --layout=coco17", "has no --layout"),
        ("python -m vit_jax.train --config=experiments/vit/finetun.py:B/16", "there is no"),
        ("python -m vit_jax.train --config=experiments/vit/finetune.py:B/16,cifar11", "no row for"),
        ("python -m vit_jax.train --config=experiments/vit/finetune.py:B/16,cifar10 "
         "--config.optimiser.b1=0.9", "no group optimiser"),
        ("python -m vit_jax.train --config=experiments/vit/finetune.py:B/16,cifar10 "
         "--config.batch_size=many", "of type int"),
    ],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(line, fault):
    (words,) = commands_of(line)
    assert fault in " ".join(faults_of(words))


@pytest.mark.parametrize("command", commands.find(), ids=lambda command: command.words)
def test_help_opens_with_what_it_does_and_an_example(command):
    first, _, rest = command.usage.partition("\n\n")
    assert first.strip()
    if command.words.split(".")[0] != "benchmarks":
        assert f"python -m {command.words}" in "\n".join(rest.splitlines()[:4])


@pytest.mark.parametrize(
    "module", ["vit_jax.evaluate", "pose_jax.convert", "experiments.tables", "train_jax.report"]
)
def test_flags_read_from_the_source_are_those_of_the_program(module):
    shown = processes.shared().run(module, "--help").stdout
    command = commands.named(module)
    assert command is not None
    told = set(re.findall(r"^  (?:-h, )?(--\w+)", shown, re.MULTILINE)) - {"--help"}
    dashed = {flag.name for flag in (*command.flags, *command.shared) if flag.name[0] == "-"}
    assert told == dashed
