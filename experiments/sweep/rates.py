"""The ViT paper's way to a learning rate (appendix B.1.1): held-out runs, a choice, final runs."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.sweep.runs import Experiment, Metrics, percent, run
from experiments.vit import recipes
from train_jax import hosts
from train_jax.errors import UserError


def sweep(
    experiment: Experiment, workdir: str, *, rates: Sequence[float], seeds: Sequence[int]
) -> str:
    """Makes all runs and returns the table of results.

    Raises:
        PreemptedError: a stop was asked for.
        UserError: a run cannot be made, or none of the rates stays finite.
    """
    held_out = {}
    for rate in rates:
        found = run(
            experiment.config(lr=rate, final=False), f"{workdir}/select/lr={rate:g}", f"lr {rate:g}"
        )
        held_out[rate] = None if found is None else found.get("held_out/accuracy", 0.0)
    best = choose(held_out)
    final = []
    for seed in seeds:
        name = f"lr={best:g},seed={seed}"
        found = run(
            experiment.config(lr=best, final=True, seed=seed),
            f"{workdir}/final/{name}",
            f"final, lr {best:g}, seed {seed}",
        )
        if found is None:
            raise UserError(
                f"The final run in {workdir}/final/{name} did not stay finite, although the same "
                "rate did on the sweep's part; leave it out of --rates."
            )
        final.append(found)
    return table(held_out, best, final, seeds)


def choose(held_out: Mapping[float, float | None]) -> float:
    """The rate with the best held-out accuracy (of equals, the first), the same on all processes.

    Args:
        held_out: accuracy by rate; None where the loss did not stay finite.

    Raises:
        UserError: it did for none of them.
    """
    finite = {rate: accuracy for rate, accuracy in held_out.items() if accuracy is not None}
    if not finite:
        raise UserError("The loss stays finite at none of the rates; give lower ones to --rates.")
    best = max(finite, key=lambda rate: finite[rate])
    rates = list(held_out)
    return rates[hosts.from_main(rates.index(best))]


def table(
    held_out: Mapping[float, float | None],
    best: float,
    final: Sequence[Metrics],
    seeds: Sequence[int],
) -> str:
    """The grid with the choice, and the final runs."""
    lines = ["", "held-out accuracy in %"]
    for rate, accuracy in held_out.items():
        shown = "not finite" if accuracy is None else percent([accuracy])
        lines.append(f"  lr {rate:<8g}{shown:>10}{'   chosen' if rate == best else ''}")
    lines.append(f"final runs on the whole training set, lr {best:g}, seeds {_listed(seeds)}")
    for name in final[0] if final else ():
        split, _, metric = name.partition("/")
        if metric == "accuracy":
            values = [metrics[name] for metrics in final]
            lines.append(
                f"  {split:<11}{percent(values):>14}   ({_listed(percent([v]) for v in values)})"
            )
    return "\n".join(lines) + "\n"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def rates_of(arg: str) -> tuple[float, ...]:
    """Table 4's grid for VARIANT,DATASET,...

    Raises:
        UserError: the table has no such data set.
    """
    parts = arg.split(",")
    named = [part.partition("=")[2] for part in parts if part.startswith("dataset=")]
    plain = [part for part in parts if "=" not in part]
    return recipes.finetune_row((named or plain[1:2] or [""])[0]).lrs
