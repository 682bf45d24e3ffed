"""Nearest neighbours of frozen representations (k and temperature as in DINO, Caron et al. 2021).

    python -m vit_jax.knn --config=experiments/vit/knn.py:cifar10 --checkpoint=DIR_OR_NPZ

Behind the colon: names of data sets of experiments/vit/datasets.py, joined by +, then
    resolution=N  image side in pixels (224)

The whole training set votes, as the final runs of fine-tuning train on it; the test set is
classified. Pictures are squashed to 256 and the centre 224 is taken, as in few-shot evaluation.
--config.neighbours='(20,)' and --config.temperature=0.07 set the rule.

Not in the ViT paper, so there is nothing to compare with; on ImageNet 1.28 million representations
of width 768 take 4 GB of the host's memory.
"""

from ml_collections import ConfigDict

from experiments.vit.datasets import dataset_named
from experiments.vit.fewshot import probe_data
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from vit_jax.knn import KnnRun


def get_config(arg: str | None = None) -> ConfigDict:
    """The evaluation, with every key that the command line can override.

    Raises:
        UserError: an unknown data set, one that has no test set, or a wrong argument.
    """
    args = parse_arg(arg, datasets="", resolution=224)
    datasets = {}
    for name in args["datasets"].split("+"):
        dataset = dataset_named(name)
        if dataset.test is None:
            raise UserError(f"{name} has no test set; choose another data set.")
        splits = (dataset.whole, dataset.test)
        datasets[name] = probe_data(dataset.source, splits, size=args["resolution"])
    return to_config_dict(KnnRun(datasets=datasets))
