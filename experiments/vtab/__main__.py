r"""VTAB-1k, all 19 tasks: makes every run and prints the means as the ViT paper's Table 9.

    python -m experiments.vtab --config=experiments/vit/vtab.py:L/16 \
        --config.init_from=ViT-L_16.npz --workdir=DIR

With one rate and one length (the recipe's, unless --rates and --steps say others) it makes the
final runs at once: each task trained on its 1,000 examples, measured on its test set, three seeds.
With several it first trains every task with every setting on 800 examples, and chooses the one
setting with the best mean accuracy over all tasks on their 200, as the paper did. The experiment
file takes task=, final= and seed= behind its colon, and what is chosen among (vtab.py; in
bit_vtab.py there is nothing to choose). The same command goes on after an interruption, without the
runs that are done; what it needs is checked before the first run.

Runs are in DIR/select/lr=X,steps=N/TASK and DIR/final/lr=X,steps=N/TASK/seed=N, or, where neither
is given, in DIR/final/recipe/TASK/seed=N.
"""

from absl import flags

from experiments.sweep.runs import LEAST_RATE, named_experiment, numbers, print_table
from experiments.vtab.protocol import settings_of, tasks_of, vtab
from train_jax import main
from train_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all runs, local or gs://.")
_TASKS = flags.DEFINE_string("tasks", None, "Some of the tasks, as in dtd,svhn; by default all.")
_RATES = flags.DEFINE_string(
    "rates", None, "Learning rates to choose from; by default the recipe's."
)
_STEPS = flags.DEFINE_string("steps", None, "Lengths to choose from; by default the recipe's.")
_SEEDS = flags.DEFINE_string("seeds", "0,1,2", "Seeds of the final runs.")


def _command() -> int:
    experiment = named_experiment()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a directory for the runs.")
    rates, steps = (), ()
    if _RATES.value is not None:
        rates = numbers(_RATES.value, float, "rates", least=LEAST_RATE)
    if _STEPS.value is not None:
        steps = numbers(_STEPS.value, int, "steps", least=1)
    workdir, seeds = _WORKDIR.value.rstrip("/"), numbers(_SEEDS.value, int, "seeds")
    settings, tasks = settings_of(rates, steps), tasks_of(_TASKS.value)
    return print_table(
        lambda: vtab(experiment, workdir, settings=settings, seeds=seeds, tasks=tasks)
    )


if __name__ == "__main__":
    main.launch(_command, __doc__ or "")
