r"""Chooses a learning rate on the held-out split, then makes the final runs on all training data.

    python -m experiments.sweep --config=experiments/vit/finetune.py:L/16,cifar100 \
        --config.init_from=ViT-L_16.npz --workdir=DIR

The protocol of the ViT paper (appendix B.1.1): one run for every rate of Table 4's row of the data
set, trained on the sweep's part and measured on the held-out rest; then three runs with the best
rate on the whole training set, measured on the test set. It prints the grid, the choice, and mean
and standard deviation of the final runs. The experiment file takes lr=, final= and seed= behind its
colon, as finetune.py does, and bit_finetune.py with rule=vit. The same command goes on after an
interruption, without the runs that are done. A rate whose loss does not stay finite is not chosen.

Runs are in DIR/select/lr=X and DIR/final/lr=X,seed=N.
"""

from absl import flags

from experiments.sweep.rates import rates_of, sweep
from experiments.sweep.runs import LEAST_RATE, named_experiment, numbers, print_table
from train_jax import main
from train_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all runs, local or gs://.")
_RATES = flags.DEFINE_string(
    "rates", None, "Learning rates to choose from, as in 0.01,0.03; by default those of Table 4."
)
_SEEDS = flags.DEFINE_string("seeds", "0,1,2", "Seeds of the final runs.")


def _command() -> int:
    experiment = named_experiment()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name a directory for the runs.")
    rates = _RATES.value
    rates = (
        rates_of(experiment.arg)
        if rates is None
        else numbers(rates, float, "rates", least=LEAST_RATE)
    )
    workdir, seeds = _WORKDIR.value.rstrip("/"), numbers(_SEEDS.value, int, "seeds")
    return print_table(lambda: sweep(experiment, workdir, rates=rates, seeds=seeds))


if __name__ == "__main__":
    main.launch(_command, __doc__ or "")
