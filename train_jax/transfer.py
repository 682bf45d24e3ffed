"""From somebody's checkpoint to our parameters, by a plan that explains every name.

A plan is made from names, shapes and dtypes alone, so it can be printed, and refused, before any
weight is read. Each parameter of the model and each array of the checkpoint must be explained by
the first rule that matches its name; whatever is left over stops the run with a list.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train_jax.errors import UserError
from train_jax.sharding import flat_names, path_name

Action = Literal["load", "resize", "zero", "fresh", "drop"]
Status = Literal[
    "loaded", "resized", "zero-initialised", "fresh", "dropped", "missing", "unexpected", "mismatch"
]

#: Turns an array of the checkpoint into one of the shape given.
Resize = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]

_PROBLEMS = ("missing", "unexpected", "mismatch")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to the names that ``pattern`` matches from end to end.

    Attributes:
        pattern: a regular expression over flat names ("head/.*").
        action: ``load`` takes the array as it is, ``resize`` through ``resize``; ``zero`` makes
            zeros and ``fresh`` keeps the model's own initial values, both whatever the checkpoint
            holds; ``drop`` leaves an array of the checkpoint unused.
        resize: the function for ``resize``.
        hint: the remedy, in the model's terms, when the rule cannot be carried out.
    """

    pattern: str
    action: Action
    resize: Resize | None = None
    hint: str = ""

    def __post_init__(self):
        if (self.action == "resize") != (self.resize is not None):
            raise ValueError(f"Rule {self.pattern!r}: a resize function belongs to action resize.")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The fate of one name.

    Attributes:
        name: the flat name.
        status: what happens to it; the last three of ``Status`` are problems.
        source: shape and dtype in the checkpoint, if it is there.
        target: shape and dtype in the model, if it is there.
        resize: the function for ``resized``.
        remedy: what to do about a problem.
    """

    name: str
    status: Status
    source: jax.ShapeDtypeStruct | None
    target: jax.ShapeDtypeStruct | None
    resize: Resize | None = None
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The fate of every name, the model's first, in the model's order."""

    entries: tuple[Entry, ...]

    @property
    def problems(self) -> tuple[Entry, ...]:
        """The names that no rule explains."""
        return tuple(entry for entry in self.entries if entry.status in _PROBLEMS)

    @property
    def needed(self) -> frozenset[str]:
        """The names of the checkpoint's arrays that must be read."""
        return frozenset(e.name for e in self.entries if e.status in ("loaded", "resized"))

    def names(self, status: Status) -> tuple[str, ...]:
        """The names with one fate."""
        return tuple(entry.name for entry in self.entries if entry.status == status)

    def table(self) -> str:
        """Every name with its fate and both shapes, and the counts at the end."""
        rows = [("parameter", "", "checkpoint", "model")]
        rows += [(e.name, e.status, _describe(e.source), _describe(e.target)) for e in self.entries]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """One line: how many parameters were loaded, resized, and so on."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            counts[entry.status] = counts.get(entry.status, 0) + 1
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def check(self) -> None:
        """Raises a UserError that lists every problem with both shapes and the remedy."""
        if self.problems:
            count = len(self.problems)
            names = "1 name is" if count == 1 else f"{count} names are"
            lines = [f"  {e.name}: {_sentence(e)}" for e in self.problems]
            raise UserError(
                f"The checkpoint does not fit the model; {names} unexplained:\n" + "\n".join(lines)
            )


def make_plan(source: Any, target: Any, rules: Sequence[Rule]) -> Plan:
    """Decides what happens to every name; see :func:`draft_plan`.

    Raises:
        UserError: lists every parameter the checkpoint lacks, every array of the checkpoint that
            the model has no place for, and every pair whose shapes or dtypes disagree.
    """
    plan = draft_plan(source, target, rules)
    plan.check()
    return plan


def draft_plan(source: Any, target: Any, rules: Sequence[Rule]) -> Plan:
    """The plan with its problems in it, for printing before it is refused.

    Args:
        source: the checkpoint, a nested or flat dict of anything with ``shape`` and ``dtype``.
        target: the model's parameters in the same way.
        rules: the first that matches a name decides.
    """
    sources = {name: _struct(leaf) for name, leaf in flat_names(source).items()}
    targets = {name: _struct(leaf) for name, leaf in flat_names(target).items()}
    names = [*targets, *(name for name in sources if name not in targets)]
    entries = (_explain(name, sources.get(name), targets.get(name), rules) for name in names)
    return Plan(tuple(entries))


def apply_plan(plan: Plan, source: Mapping[str, Any], fresh: Any) -> Any:
    """Carries the plan out.

    Args:
        plan: a plan without problems.
        source: flat name -> array. Only the names in ``plan.needed`` are looked up, one at a time
            and once each, so a mapping that reads from a file when asked reads nothing else.
        fresh: the model's initial parameters. Leaves whose fate is not ``fresh`` may be
            ``ShapeDtypeStruct``: they are only asked for shape, dtype and sharding.

    Returns:
        A tree like ``fresh``; each leaf has the model's shape and dtype, and is placed where the
        leaf of ``fresh`` says (host arrays where it says nothing).

    Raises:
        UserError: the plan has problems, or an array has not the shape the plan was made for.
    """
    plan.check()
    entries = {entry.name: entry for entry in plan.entries}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _fill(entries[path_name(path)], source, leaf), fresh
    )


def _explain(
    name: str,
    source: jax.ShapeDtypeStruct | None,
    target: jax.ShapeDtypeStruct | None,
    rules: Sequence[Rule],
) -> Entry:
    rule = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
    action = rule.action if rule else None
    hint = rule.hint if rule else ""
    if target is None:
        # zero and fresh say that the checkpoint's array does not matter, as drop does.
        if action in ("drop", "zero", "fresh"):
            return Entry(name, "dropped", source, None)
        return Entry(name, "unexpected", source, None, remedy=hint or "drop it by a rule")
    if action in ("zero", "fresh"):
        return Entry(name, "zero-initialised" if action == "zero" else "fresh", source, target)
    if action not in ("load", "resize"):
        why = "the model needs what a rule drops" if rule else "no rule matches it"
        return Entry(name, "mismatch" if source else "missing", source, target, remedy=hint or why)
    if source is None:
        remedy = hint or "allow a fresh value by a rule, or use the checkpoint's architecture"
        return Entry(name, "missing", None, target, remedy=remedy)
    if not _widens(source.dtype, target.dtype):
        remedy = "convert the checkpoint first: only lossless casts between floats are made"
        return Entry(name, "mismatch", source, target, remedy=remedy)
    if action == "resize" and rule:
        return Entry(name, "resized", source, target, resize=rule.resize)
    if source.shape != target.shape:
        remedy = hint or "use the checkpoint's architecture, or a rule that resizes or replaces it"
        return Entry(name, "mismatch", source, target, remedy=remedy)
    return Entry(name, "loaded", source, target)


def _fill(entry: Entry, source: Mapping[str, Any], leaf: Any) -> Any:
    assert entry.target is not None
    if entry.status == "fresh":
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise UserError(
                f"{entry.name} would keep its initial value, but there is none; the checkpoint "
                "must hold it."
            )
        return leaf
    if entry.status == "zero-initialised":
        return _place(np.zeros(entry.target.shape, entry.target.dtype), leaf)
    assert entry.source is not None
    value = source[entry.name]
    if tuple(value.shape) != entry.source.shape:
        raise UserError(
            f"{entry.name} was announced as {_describe(entry.source)} but holds "
            f"{_describe(_struct(value))}; the checkpoint is damaged."
        )
    if entry.resize is not None:
        value = entry.resize(np.asarray(value), entry.target.shape)
        if value.shape != entry.target.shape:
            raise ValueError(f"{entry.name} was resized to {value.shape}: not {entry.target.shape}")
    return _place(value, leaf)


def _place(value: Any, leaf: Any) -> Any:
    """Casts to the leaf's dtype and puts the value where the leaf is or would be."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(value, jax.Array) and sharding is not None:
        return jax.device_put(value.astype(leaf.dtype), sharding)
    host = np.asarray(value).astype(leaf.dtype, copy=False)
    if sharding is None:
        return host
    # Unlike device_put this also works when some of the devices belong to other processes.
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)


def _widens(source: Any, target: Any) -> bool:
    """Whether every value of ``source`` can be written as ``target``: equal, or a wider float."""
    if source == target:
        return True
    if not (jnp.issubdtype(source, jnp.floating) and jnp.issubdtype(target, jnp.floating)):
        return False
    narrow, wide = jnp.finfo(source), jnp.finfo(target)
    return narrow.nmant <= wide.nmant and narrow.nexp <= wide.nexp


def _describe(struct: jax.ShapeDtypeStruct | None) -> str:
    if struct is None:
        return "-"
    return f"{struct.dtype}({', '.join(map(str, struct.shape))})"


def _sentence(entry: Entry) -> str:
    what = {
        "missing": "missing in the checkpoint",
        "unexpected": "not in the model",
        "mismatch": "does not fit",
    }[entry.status]
    source, target = _describe(entry.source), _describe(entry.target)
    return f"{what} (checkpoint {source}, model {target}); {entry.remedy}."
