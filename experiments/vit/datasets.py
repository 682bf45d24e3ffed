"""The data sets of the ViT paper: where they come from, their sizes and splits.

| data set | how to prepare it |
|---|---|
| CIFAR, Pets, Flowers | `python -m vit_jax.data.prepare tfds:NAME` |
| ImageNet | the same, after its archives were put where the command asks for them |
| ImageNet-ReaL, ImageNet-V2 | the same, for imagenet2012_real and imagenet_v2/matched-frequency |
| ImageNet-21k | `python -m vit_jax.data.imagenet21k ARCHIVE DIR`; `source=records:DIR/{split}-*` |
| JFT-300M | not public: another set under `source=`, as records (vit_jax/data/records.py) |
| VTAB's 19 tasks | their TFDS data sets, see experiments/vit/vtab.py |

`source=tfds:NAME`, `source=folder:/PATH` or `source=records:/PATH/{split}-*` behind the colon puts
another data set in the place of one in this table; `--config.data.split` and
`--config.evaluations.NAME.split` its splits. The variable TFDS_DATA_DIR says where TFDS data sets
are. Images with several labels have a multi-hot vector or a sequence of class labels; more than 16
of them need `--config.data.max_labels`.

What the papers call test set of ImageNet is its public validation set (50,000 images); rates are
chosen on the last percent of its training set. That is a part of ImageNet-21k too, and so a
flattering one after pre-training on it (AugReg, section 3.2, which chooses on ImageNet-V2).

Flowers-102 is published as 1,020 images for training, 1,020 for validation and 6,149 for testing.
Which of the former the paper trained on it does not say ("the training set"); here it is the first
1,020, of which the last tenth chooses the rate. With `--config.data.split=train+validation` the
final model sees all 2,040.
"""

import dataclasses
import difflib
from typing import Literal

from train_jax.errors import UserError
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.randaugment import RandAugment


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Facts about a data set.

    Attributes:
        source: where its examples come from (vit_jax/data/sources.py).
        num_classes: outputs of the head; 0 where the user's data decide.
        num_examples: in all of `whole`.
        part: split to train on while hyper-parameters are chosen; pre-training always uses it.
        held_out: split to choose them on.
        whole: split to train the final model on.
        test: split that is reported; None where there is none.
        corrupt: what an unreadable image does, see `DataConfig`.
    """

    source: str
    num_classes: int
    num_examples: int
    part: str
    held_out: str
    whole: str
    test: str | None
    corrupt: Literal["stop", "skip"] = "stop"


# Held-out parts: ViT paper, appendix B.1.1 (1 % of ImageNet, the "minival" of the authors' code;
# 2 % of CIFAR; 10 % of Pets and Flowers); big_vision for ImageNet-21k; that of JFT is ours. Sets of
# millions of files are never without a broken one, which must not end a run of days: it is left
# out, counted and named in the log.
DATASETS: dict[str, Dataset] = {
    # 18,291 classes, 1.26 labels per image (BiT paper, section 3.1); 303 M images.
    "jft300m": Dataset(
        "user:jft300m", 18_291, 303_000_000,
        "train[51200:]", "train[:51200]", "train", None, "skip",
    ),
    # The authors' own copy, de-duplicated against all test sets, had about 12.4 M images.
    "imagenet21k": Dataset(
        "tfds:imagenet21k", 21_843, 14_197_122,
        "full[51200:]", "full[25600:51200]", "full", "full[:25600]", "skip",
    ),
    "imagenet2012": Dataset(
        "tfds:imagenet2012", 1_000, 1_281_167,
        "train[:99%]", "train[99%:]", "train", "validation",
    ),
    "cifar10": Dataset(
        "tfds:cifar10", 10, 50_000,
        "train[:98%]", "train[98%:]", "train", "test",
    ),
    "cifar100": Dataset(
        "tfds:cifar100", 100, 50_000,
        "train[:98%]", "train[98%:]", "train", "test",
    ),
    "oxford_iiit_pet": Dataset(
        "tfds:oxford_iiit_pet", 37, 3_680,
        "train[:90%]", "train[90%:]", "train", "test",
    ),
    # TFDS's train split, ten images a class; its "validation" split is not used.
    "oxford_flowers102": Dataset(
        "tfds:oxford_flowers102", 102, 1_020,
        "train[:90%]", "train[90%:]", "train", "test",
    ),
    # One of VTAB's 19 tasks, named by source= and classes=.
    "vtab": Dataset(
        "user:vtab", 0, 1_000,
        "train[:800]", "train[800:1000]", "train[:1000]", "test",
    ),
}  # fmt: skip

# Other labels, or other images, for ImageNet's classes (ViT paper, Table 2; AugReg, section 4).
REAL = ("tfds:imagenet2012_real", "validation")
V2 = ("tfds:imagenet_v2/matched-frequency", "test")


def dataset_named(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        UserError: no such name.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, 1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(DATASETS)}."
        raise UserError(f"Unknown data set {name!r}; {hint}")
    return DATASETS[name]


def data_config(
    dataset: Dataset,
    split: str,
    *,
    preprocess: Preprocess,
    source: str = "",
    randaugment: RandAugment | None = None,
) -> DataConfig:
    """One split of a data set as a run reads it.

    Args:
        dataset: its facts.
        split: which examples.
        preprocess: from the picture to the input size.
        source: another place to read from.
        randaugment: augmentation in training.
    """
    return DataConfig(
        source=source or dataset.source,
        split=split,
        preprocess=preprocess,
        corrupt=dataset.corrupt,
        randaugment=randaugment,
        examples=None if source else _examples(dataset, split),
    )


def _examples(dataset: Dataset, split: str) -> int | None:
    """How many examples a split of the published data set has; None if the table does not say."""
    name, _, part = split.rstrip("]").partition("[")
    if name != dataset.whole.partition("[")[0]:
        return None
    whole, ends = dataset.num_examples, []
    for text, default in zip((part or ":").split(":"), ("0", str(whole)), strict=True):
        number = int((text or default).rstrip("%"))
        ends.append(round(number * whole / 100) if "%" in text else number)
    return min(ends[1], whole) - ends[0]
