"""Few-shot evaluation and nearest neighbours on scikit-learn's digits; for both commands.

python -m vit_jax.fewshot --config=tests/tiny_probes.py:fewshot --checkpoint=DIR
"""

import dataclasses

import tiny

from train_jax.config import to_config_dict
from vit_jax.fewshot import FewShotRun
from vit_jax.knn import KnnRun
from vit_jax.least_squares import FewShotConfig
from vit_jax.representations import ProbeData

TEST = tiny.make_config().evaluations["test"]
DIGITS = ProbeData(train=dataclasses.replace(TEST, split="train[:400]"), test=TEST)
FEWSHOT = FewShotConfig(datasets={"digits": DIGITS}, shots=(1, 5), seeds=2)


def get_config(arg):
    """The config of the command of that name."""
    configs = {
        "fewshot": FewShotRun(fewshot=FEWSHOT, batch_size=104),
        "knn": KnnRun(datasets={"digits": DIGITS}, neighbours=(1, 10), batch_size=104),
    }
    return to_config_dict(configs[arg])
