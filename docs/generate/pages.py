"""Pages that are made of the source: one per command, per recipe and per module.

MkDocs calls ``on_config`` and ``on_files`` (``hooks`` in mkdocs.yml).
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import program_source as commands

API = ("train_jax", "vit_jax", "pose_jax")

_GROUPS = {
    "train_jax": "Core",
    "vit_jax": "Images",
    "pose_jax": "Poses",
    "experiments": "Experiments",
    "benchmarks": "Benchmarks",
    "colabs": "Notebooks",
}


def on_config(config: Any) -> Any:
    """Puts the generated pages into the navigation."""
    made = {"Commands": _command_nav, "Recipes": _recipe_nav, "API": _api_nav}
    for entry in config["nav"]:
        for name in made.keys() & entry.keys():
            entry[name] = made[name]()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Writes them, without a file on disk."""
    pages = {"commands/index.md": _command_index(), "recipes/index.md": _recipe_index()}
    pages["api/index.md"] = _api_index()
    for command in commands.find():
        pages[f"commands/{command.words}.md"] = command_page(command)
    for path in recipes():
        pages[f"recipes/{_slug(path)}.md"] = recipe_page(path)
    for module in modules():
        pages[f"api/{module}.md"] = f"# `{module}`\n\n::: {module}\n"
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def command_page(command: commands.Command) -> str:
    """Markdown of a command's page."""
    lines = [f"# `{command.words}`", "", _prose(command.usage), ""]
    lines += _flag_table("## Flags", command.flags)
    if command.shared:
        lines += ["## Flags of every run", ""] if command.flags else ["## Flags", ""]
        lines += _flag_table("", command.shared)
        if any(flag.name == "--config" for flag in command.shared):
            lines += [
                "Every key of the config is a flag too: `--config.batch_size=256`; see "
                "[Configs](../concepts/configs.md).",
                "",
            ]
    for sub in command.subcommands:
        lines += [f"## `{sub.words}`", "", _prose(sub.usage), "", *_flag_table("", sub.flags)]
    lines += ["A mistake ends in one sentence on stderr and exit code 2.", ""]
    return "\n".join(lines)


def _flag_table(title: str, flags: tuple[commands.Flag, ...]) -> list[str]:
    if not flags:
        return []
    rows = []
    for flag in flags:
        text = " ".join(flag.help.split()).replace("|", "\\|").replace("<", "&lt;")
        if flag.choices:
            text = f"{text} One of {', '.join(f'`{choice}`' for choice in flag.choices)}.".strip()
        default = "" if flag.default in (None, "") else f"`{flag.default}`"
        rows.append(f"| `{flag.name}` | {text[:1].upper()}{text[1:]} | {default} |")
    head = [title, ""] if title else []
    return [*head, "| flag | what it does | default |", "|---|---|---|", *rows, ""]


def _prose(docstring: str) -> str:
    """A module docstring as Markdown: indented lines are what to type, or a table in plain text."""
    lines, blocks = [], re.split(r"\n\n", docstring)
    for block in blocks:
        rows = block.split("\n")
        start = next((i for i, row in enumerate(rows) if row.startswith("    ")), None)
        if start is None:
            lines += [_inline(block), ""]
            continue
        if start:
            lines += [_inline("\n".join(rows[:start])), ""]
        rest = rows[start:]
        end = next((i for i, row in enumerate(rest) if not row.startswith(" ")), len(rest))
        code = "\n".join(row[4:] for row in rest[:end])
        kind = "bash" if code.startswith("python -m") else "text"
        lines += [f"```{kind}", code.rstrip(), "```", ""]
        if end < len(rest):
            lines += [_inline("\n".join(rest[end:])), ""]
    return "\n".join(lines).strip()


def _inline(text: str) -> str:
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
    if text.lstrip().startswith("|"):
        return text
    # Names such as __main__ and a bare <x> are no markup.
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([*_<\[])", r"\\\1", p) if i % 2 == 0 else p for i, p in enumerate(parts)]
    return "".join(plain)


def _command_index() -> str:
    lines = [
        "# Commands",
        "",
        "Every program is a module: `python -m NAME --help` prints what it does, an example and "
        "its flags. These pages are made of the same source.",
        "",
        "Exit codes: 0 done; 1 it did not work out, as said; 2 a mistake that you can mend, in one "
        "sentence; 75 stopped as asked or without another process: the same command goes on.",
        "",
    ]
    for package, title in _GROUPS.items():
        rows = [c for c in commands.find() if c.words.split(".")[0] == package]
        if rows:
            lines += [f"## {title}", "", "| command | |", "|---|---|"]
            lines += [f"| [`{c.words}`]({c.words}.md) | {_inline(c.summary)} |" for c in rows]
            lines.append("")
    return "\n".join(lines)


def _command_nav() -> list[Any]:
    nav: list[Any] = ["commands/index.md"]
    for package, title in _GROUPS.items():
        pages = [
            {c.words: f"commands/{c.words}.md"}
            for c in commands.find()
            if c.words.split(".")[0] == package
        ]
        if pages:
            nav.append({title: pages})
    return nav


def recipes() -> list[Path]:
    """The experiment files, which ``--config`` names."""
    found = (commands.ROOT / "experiments").rglob("*.py")
    return sorted(p for p in found if "\ndef get_config(" in p.read_text(encoding="utf-8"))


def _slug(path: Path) -> str:
    return "_".join(path.relative_to(commands.ROOT / "experiments").with_suffix("").parts)


def recipe_page(path: Path) -> str:
    """Markdown of an experiment file's page."""
    name = path.relative_to(commands.ROOT).as_posix()
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    # Without a table of contents its wide tables have room.
    head = f"---\nhide: [toc]\n---\n\n# {name.removeprefix('experiments/')}\n\n"
    return f"{head}`--config={name}`\n\n{_prose(docstring)}\n"


def _recipe_index() -> str:
    rows = []
    for path in recipes():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.relative_to(commands.ROOT).as_posix()
        first = " ".join(docstring.split("\n\n")[0].split())
        rows.append(f"| [`{name}`]({_slug(path)}.md) | {_inline(first)} |")
    return "\n".join(
        [
            "# Recipes",
            "",
            "An experiment file is a run: model, data, optimiser, schedule, where the numbers come "
            "from, what result to expect and what it costs. `--config=FILE:ARGUMENTS` names one.",
            "",
            "| file | |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _recipe_nav() -> list[Any]:
    pages = [
        {p.relative_to(commands.ROOT / "experiments").as_posix(): f"recipes/{_slug(p)}.md"}
        for p in recipes()
    ]
    return ["recipes/index.md", *pages]


def modules() -> list[str]:
    """The modules of the packages that are no mere programs."""
    found = []
    for package in API:
        for path in sorted((commands.ROOT / package).rglob("*.py")):
            parts = path.relative_to(commands.ROOT).with_suffix("").parts
            if parts[-1] != "__main__" and not any(p.startswith("_") for p in parts[:-1]):
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def _api_index() -> str:
    lines = [
        "# API",
        "",
        "Every module of the packages. `experiments` stands on `vit_jax` and `pose_jax`, these on "
        "`train_jax`; arrows run downwards only.",
        "",
    ]
    for package in API:
        lines += [f"## {package}", "", "| module | |", "|---|---|"]
        for module in modules():
            if module.split(".")[0] == package:
                lines.append(f"| [`{module}`]({module}.md) | {_first_line(module)} |")
        lines.append("")
    return "\n".join(lines)


def _first_line(module: str) -> str:
    base = commands.ROOT / Path(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _inline(" ".join(docstring.split("\n\n")[0].split()).rstrip(":"))


def _api_nav() -> list[Any]:
    nav: list[Any] = ["api/index.md"]
    for package in API:
        pages = [
            {m.removeprefix(f"{package}."): f"api/{m}.md"}
            for m in modules()
            if m.split(".")[0] == package
        ]
        nav.append({package: pages})
    return nav
