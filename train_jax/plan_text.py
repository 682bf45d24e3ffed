"""Forecasts as people read them."""

import textwrap
from collections.abc import Sequence

from train_jax.forecast import METHOD, TRAINING_OPERATIONS, Forecast

_GIB = 2**30
_NOTE = textwrap.fill(METHOD, 100)


def report(one: Forecast, *, price: float | None) -> str:
    """All that is known of one run on one slice."""
    lines = [*_run(one), *_memory(one), *_work(one)]
    if one.fits:
        lines += [*_time(one, price), "", _NOTE]
        if one.kernels:
            lines.append(f"{one.kernels} hand-written kernels have no estimate and are left out.")
        if one.unknown_loops:
            lines.append(
                f"{one.unknown_loops} loops run as often as data decide; each counts as one trip."
            )
    return "\n".join(lines)


def _run(one: Forecast) -> list[str]:
    chip, mesh = one.slice.chip, " x ".join(f"{name} {size}" for name, size in one.mesh.items())
    return [
        f"{one.slice.name}: {one.slice.num_chips:,} chips {chip.name}, "
        f"{one.slice.num_cores:,} cores, {one.slice.num_devices:,} devices; mesh {mesh}",
        f"batch {one.batch_size:,} ({one.batch_size / one.slice.num_devices:,.6g} a device), "
        f"{one.total:,} steps, {one.total * one.batch_size:,} {one.unit}",
        f"parameters {one.num_params:,}",
        *_length(one),
    ]


def _length(one: Forecast) -> list[str]:
    """Where the length of the run comes from, if it is an estimate itself."""
    if one.budget is None:
        return []
    if not one.fits:
        return [f"The run is as long as {one.budget} afford, which is not known: it does not fit."]
    return [
        f"The run is as long as {one.budget} afford at the estimated speed, but for the reserve.",
        "Compilation and evaluations, which the run itself takes into account, are left out.",
    ]


def _memory(one: Forecast) -> list[str]:
    memory = one.memory
    rows = [
        ("parameters", memory.params),
        ("optimiser state", memory.optimizer),
        ("batch, data, averages", memory.rest),
    ]
    if memory.temporaries is not None:
        rows.append(("activations, gradients, scratch", memory.temporaries))
    lines = ["", "Memory of a device, GiB"]
    lines += [f"  {name:34s}{nbytes / _GIB:9.3f}" for name, nbytes in rows]
    of = f"{memory.total / _GIB:9.3f} of {memory.usable / _GIB:.2f}"
    lines.append(f"  {'at the worst moment, together':34s}{of}")
    if one.fits:
        verdict = f"It fits; {(memory.usable - memory.total) / _GIB:.2f} GiB are left."
    elif memory.missing:
        verdict = f"It does not fit: {memory.missing / _GIB:.2f} GiB are missing on each device."
    else:
        verdict = "It does not fit."
    return [*lines, f"  {verdict}"]


def _work(one: Forecast) -> list[str]:
    lines = [
        "",
        "Work of a step",
        f"  counted from the model      {one.model_flops / 1e12:12,.1f} TFLOP ({one.unit} times "
        f"{TRAINING_OPERATIONS} operations per multiply-add)",
    ]
    if one.flops is not None:
        lines.append(
            f"  in the compiler's program   {one.flops / 1e12:12,.1f} TFLOP (products, "
            "recomputation included)"
        )
    for each in one.exchanges:
        lines.append(
            f"  {each.kind + ' over ' + (each.axes or 'devices'):28s}"
            f"{each.nbytes / _GIB:12.3f} GiB a device, {each.count:,} times"
        )
    return lines


def _time(one: Forecast, price: float | None) -> list[str]:
    assert one.cycles is not None
    cores = f"{one.slice.chip.name} core-days"
    lines = [
        "",
        "Estimate",
        f"  step                 {one.step_seconds:12.4g} s ({one.cycles / 1e6:,.1f} Mcycles), "
        f"and {one.link_seconds:.3g} s of communication if none of it is hidden",
        f"  {one.unit + '/s per core':20s} {one.rate:12.1f} ({one.slowest_rate:.1f} with "
        f"communication unhidden)",
        f"  MFU                  {one.mfu:12.1%}",
        f"  exaFLOP              {one.exaflop:12,.4g}",
        f"  {cores:20s} {one.core_days:12,.4g}",
        f"  days                 {one.days:12,.4g}",
    ]
    if price is not None:
        lines.append(f"  cost                 {one.cost(price):12,.0f} at {price:g} per chip-hour")
    return lines + _published(one)


def _published(one: Forecast) -> list[str]:
    lines = []
    for fact in one.published:
        if fact.what == "exaflop":
            lines.append(f"  exaFLOP, published   {fact.value:12,.4g} ({fact.source})")
        elif fact.what == "v3_core_days":
            lines.append(f"  v3 core-days, publ.  {fact.value:12,.4g} ({fact.source})")
            lines.append(
                f"  which is             {implied_rate(one, fact.value):12.1f} {one.unit}/s per "
                "v3 core"
            )
    return lines


def implied_rate(one: Forecast, core_days: float) -> float:
    """Examples per second and core that core-days of the same run imply."""
    return one.total * one.batch_size / (core_days * 86_400)


def compared(forecasts: Sequence[Forecast], *, price: float | None) -> str:
    """A table, a slice a row."""
    unit = forecasts[0].unit
    head = [
        "slice",
        "fits",
        "GiB a device",
        f"{unit}/s per core",
        "MFU",
        "core-days",
        "days",
    ]
    rows = [
        [
            one.slice.name,
            _fits(one),
            _of_memory(one),
            *(
                (
                    f"{one.rate:.1f}",
                    f"{one.mfu:.0%}",
                    f"{one.core_days:,.4g}",
                    f"{one.days:,.3g}",
                )
                if one.fits
                else ("",) * 4
            ),
        ]
        for one in forecasts
    ]
    if price is not None:
        head.append("cost")
        for row, one in zip(rows, forecasts, strict=True):
            row.append(f"{one.cost(price):,.0f}" if one.fits else "")
    return f"{table(head, rows)}\n\n{_NOTE}"


def swept(attempts: Sequence[tuple[str, Forecast]]) -> str:
    """A table of changes, the fastest first, and the one to take."""
    ranked = sorted(attempts, key=lambda a: a[1].step_seconds if a[1].fits else float("inf"))
    head = ["flags", "fits", "GiB a device", "Mcycles", "step, s", "communication, s"]
    rows = [
        [
            words,
            _fits(one),
            _of_memory(one),
            *(
                (
                    f"{one.cycles / 1e6:,.1f}",
                    f"{one.step_seconds:.4g}",
                    f"{one.link_seconds:.3g}",
                )
                if one.cycles is not None
                else ("",) * 3
            ),
        ]
        for words, one in ranked
    ]
    text = f"{table(head, rows)}\n\n"
    fitting = [(words, one) for words, one in ranked if one.fits]
    if not fitting:
        return f"{text}None of them fits.\n\n{_NOTE}"
    best = min(fitting, key=lambda a: a[1].step_seconds + a[1].link_seconds)
    return (
        f"{text}Recommended, the shortest step if no communication is hidden: {best[0]}\n\n{_NOTE}"
    )


def _fits(one: Forecast) -> str:
    if one.fits:
        return "yes"
    return f"lacks {one.memory.missing / _GIB:.1f} GiB" if one.memory.missing else "no"


def _of_memory(one: Forecast) -> str:
    return f"{one.memory.total / _GIB:.2f} of {one.memory.usable / _GIB:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that is readable as text."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(head), f"|{'|'.join('-' * (w + 2) for w in widths)}|", *map(line, rows)])
