"""What would the papers' runs take on TPU slices, and which options are best? Compiled, not timed.

    python benchmarks/plan_table.py --results=plans.jsonl paper     # the table of the README
    python benchmarks/plan_table.py --results=plans.jsonl options   # remat, execution, mesh
    python benchmarks/plan_table.py --results=plans.jsonl peer      # beside big_vision's step

Every program takes about a minute of CPU (an unrolled one: ten) and is kept in the results file, so
a run that was stopped goes on; the next state of the code takes a new file. "big_vision" is that
code base's step (2025-05), data parallel, bfloat16, compiled by the same compiler and summed in the
same way: cycles of loop bodies times their trips.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

# Runs from a checkout that nobody has installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.pose import h36m
from experiments.vit import pretrain
from train_jax.forecast import forecast
from train_jax.outline import read_config, replaced
from train_jax.plan_text import table
from train_jax.topology import slice_named, use_compiler

SLICES = ("v3:16x16", "v4:4x8x8", "v5e:16x16", "v5p:4x8x8", "v6e:16x16")
VITS = ("B/16,jft300m", "L/16,jft300m", "H/14,jft300m")
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    """A program: a config with changes on a slice, and a peer's (million cycles, GiB) for it."""

    config: str
    slice: str
    changes: tuple[tuple[str, object], ...] = ()
    peer: tuple[float, float] | None = None

    @property
    def key(self):
        """What it is called in the results file."""
        return json.dumps([self.config, self.slice, self.changes])


def paper():
    """The runs of Table 2 and 6, and the pose model, at their batch on 256 chips; poses on few."""
    yield from (Case(vit, name) for vit in VITS for name in SLICES)
    # The pose model's batch of 1024 is small: one host of four chips, or one of v3's boards.
    small = ("v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")
    yield from (Case("243", name) for name in small)


def peer():
    """Programs of one device that big_vision's were compiled for."""
    at = (("mesh.data", -1), ("mesh.fsdp", 1))
    for vit, batch, cycles, gib in (
        ("B/16,jft300m", 64, 153.9, 1.9),
        ("L/16,jft300m", 32, 252.5, 5.1),
        ("H/14,jft300m", 16, 379.9, 10.0),
    ):
        yield Case(vit, "v5e:1x1", (("batch_size", batch), *at), (cycles, gib))
    # Of 64 images the float32 logits of a layer are more than a v5e's fast memory holds, of 32 not:
    # two micro-batches are the same update in fewer cycles.
    unrolled = (("model.execution", "unrolled"), ("model.remat", "none"))
    for more in ((), (("accumulate", 2),)):
        changes = (("batch_size", 64), *at, *unrolled, *more)
        yield Case("B/16,jft300m", "v5e:1x1", changes, (118.7, 4.3))
    for vit, cycles, gib in (("L/16,jft300m", 148.1, 4.9), ("H/14,jft300m", 369.6, 10.0)):
        yield Case(vit, "v3:1x1", (("batch_size", 16), *at), (cycles, gib))


def options():
    """Meshes of every ViT of the paper on v3 and v5e, and remat policies on v5e.

    The first of each is the default: parameters split over 64 devices, and "names".
    """
    for vit in VITS:
        for name in ("v3:16x16", "v5e:16x16"):
            yield Case(vit, name)
            for fsdp in (1, 16, 128):
                yield Case(vit, name, (("mesh.data", -1), ("mesh.fsdp", fsdp)))
    for vit in VITS:
        for remat in ("dots", "full"):
            yield Case(vit, "v5e:16x16", (("model.remat", remat),))


def measure(case):
    """The forecast of a case as plain values."""
    source = h36m if case.config == "243" else pretrain
    config = read_config(source.get_config(case.config))
    for key, value in case.changes:
        config = replaced(config, key, value)
    one = forecast(config, slice_named(case.slice))
    row = {
        "key": case.key,
        "fits": one.fits,
        "gib": one.memory.total / _GIB,
        "usable_gib": one.memory.usable / _GIB,
        "num_params": one.num_params,
        "exchanges": [dataclasses.astuple(each) for each in one.exchanges],
    }
    if one.cycles is not None:
        row |= {
            "mcycles": one.cycles / 1e6,
            "step_s": one.step_seconds,
            "link_s": one.link_seconds,
            "per_core": one.rate,
            "slowest_per_core": one.slowest_rate,
            "mfu": one.mfu,
            "exaflop": one.exaflop,
            "core_days": one.core_days,
            "published": {fact.what: fact.value for fact in one.published},
        }
    return row


def main():
    """Compiles what is not in the results file yet, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("paper", "peer", "options"))
    parser.add_argument("--results", default="plans.jsonl")
    parser.add_argument(
        "--known", action="store_true", help="Compiles nothing: the rows that are there so far."
    )
    args = parser.parse_args()
    use_compiler()
    path, rows = Path(args.results), []
    known = {}
    if path.exists():
        lines = map(json.loads, path.read_text().splitlines())
        known = {line["key"]: line for line in lines}
    cases = list({"paper": paper, "peer": peer, "options": options}[args.which]())
    if args.known:
        cases = [case for case in cases if case.key in known]
    for case in cases:
        if case.key not in known:
            known[case.key] = measure(case)
            with path.open("a") as stream:
                stream.write(json.dumps(known[case.key]) + "\n")
            print(case.key, known[case.key].get("mcycles"), file=sys.stderr, flush=True)
        rows.append(_row(case, known[case.key]))
    head = [
        "run",
        "slice",
        "changes",
        "GiB a device",
        "Mcycles",
        "examples/s per core (communication not hidden)",
        "MFU",
        "core-days (paper: v3)",
        "big_vision: Mcycles, GiB",
        "ours / big_vision's: Mcycles, GiB",
    ]
    # What no case has is no column: changes in "paper", a peer but in "peer".
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    print(table([head[i] for i in used], [[row[i] for i in used] for row in rows]))


def _row(case, found):
    changes = " ".join(f"{key}={value}" for key, value in case.changes)
    memory = f"{found['gib']:.2f} of {found['usable_gib']:.2f}"
    start = [case.config, case.slice, changes]
    if not found["fits"]:
        return [*start, f"{memory}: does not fit", *([""] * 6)]
    paper_days = found["published"].get("v3_core_days")
    return [
        *start,
        memory,
        f"{found['mcycles']:.1f}",
        f"{found['per_core']:.1f} ({found['slowest_per_core']:.1f})",
        f"{found['mfu']:.0%}",
        f"{found['core_days']:,.4g}" + (f" ({paper_days:,.0f})" if paper_days else ""),
        *_beside(found, case.peer),
    ]


def _beside(found, peer):
    if peer is None:
        return ["", ""]
    cycles, gib = peer
    ratios = f"{found['mcycles'] / cycles:.2f}, {found['gib'] / gib:.2f}"
    return [f"{cycles:.1f}, {gib:.1f}", ratios]


if __name__ == "__main__":
    main()
