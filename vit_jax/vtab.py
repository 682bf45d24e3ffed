"""VTAB-1k: the 19 tasks, their labels, splits and exceptions (Zhai et al. 2019; ViT paper, 4.1).

Every task has 1,000 labelled images: 800 to train on and 200 to choose on, then all 1,000 for the
model that is reported on the test set. Which images these are, and what of them is the label, is
that of the code published with VTAB (google-research/task_adaptation): the first 800 examples of
the training part, the first 200 of the validation part, in TFDS's order. Where a data set has no
validation part, one is cut off. The score is the mean accuracy of the 19.
"""

import dataclasses
import difflib
import statistics
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from train_jax.errors import UserError

Group = Literal["natural", "specialized", "structured"]
GROUPS: tuple[Group, ...] = ("natural", "specialized", "structured")

#: Examples to train on, and to choose on.
TRAIN, VAL = 800, 200
EXAMPLES = TRAIN + VAL
#: Names of the splits of every task.
SPLITS = ("train800", "val200", "train800val200", "test")

#: The values of the features that a label is made of -> the class.
LabelRule = Callable[[Mapping[str, np.ndarray]], int]


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """One of the 19.

    Attributes:
        title: as the columns of the ViT paper's Table 9.
        group: which of VTAB's three.
        data: the TFDS data set.
        num_classes: outputs of the head.
        val: split that the validation examples come from, and the percentage of it (rounded down
            to an example) at which they begin.
        test: likewise, of the test set, which ends with its split.
        features: TFDS features that the label is made of.
        label: makes it.
        flip: whether images may be mirrored in training; not where left and right are the label.
        crop: whether they may be cropped; not where size and place are the label (BiT paper,
            appendix; the same exceptions in the ViT paper).
        levels: the brightest pixel as stored.
    """

    title: str
    group: Group
    data: str
    num_classes: int
    val: tuple[str, int]
    test: tuple[str, int]
    features: tuple[str, ...]
    label: LabelRule
    flip: bool = True
    crop: bool = True
    levels: int = 255


def _as_is(feature: str) -> LabelRule:
    return lambda values: int(values[feature][0])


def _bins(feature: str, divisor: float) -> LabelRule:
    """Neighbouring values share a class; in float32 as the original."""
    return lambda values: int(np.floor(np.float32(values[feature][0]) / np.float32(divisor)))


def _last_below(thresholds: tuple[float, ...], value: float) -> int:
    """Index of the last threshold that is smaller than the value."""
    return int(np.flatnonzero(np.array(thresholds, np.float32) < np.float32(value))[-1])


def clevr_count(values: Mapping[str, np.ndarray]) -> int:
    """Number of objects, three to ten, from 0."""
    return len(values["objects/size"]) - 3


def clevr_distance(values: Mapping[str, np.ndarray]) -> int:
    """Distance of the closest object, in six bins."""
    depths = values["objects/pixel_coords"].reshape(-1, 3)[:, 2]
    return _last_below((0.0, 8.0, 8.5, 9.0, 9.5, 10.0), depths.min())


def kitti_distance(values: Mapping[str, np.ndarray]) -> int:
    """Distance of the closest vehicle: below 8 m, below 20 m, farther, none."""
    depths = values["objects/location"].reshape(-1, 3)[:, 2]
    # Car, van and truck.
    vehicles = depths[values["objects/type"] < 3]
    return _last_below((-100.0, 8.0, 20.0, 999.0), min([1000.0, *vehicles]))


def _plain(
    title: str, group: Group, data: str, num_classes: int, *, val: tuple[str, int] | None = None,
    test: tuple[str, int] = ("test", 0), crop: bool = True,
) -> VtabTask:  # fmt: skip
    """A task whose label is the data set's own."""
    val = val or ("validation", 0)
    return VtabTask(
        title, group, data, num_classes, val, test, ("label",), _as_is("label"), crop=crop
    )


_CLEVR: tuple[tuple[str, int], tuple[str, int]] = ("train", 90), ("validation", 0)
_DSPRITES: tuple[tuple[str, int], tuple[str, int]] = ("train", 80), ("train", 90)
_NORB: tuple[tuple[str, int], tuple[str, int]] = ("test", 0), ("test", 50)

TASKS: dict[str, VtabTask] = {
    "caltech101": _plain("Caltech101", "natural", "caltech101", 102, val=("train", 90)),
    "cifar100": _plain("CIFAR-100", "natural", "cifar100", 100, val=("train", 90)),
    "dtd": _plain("DTD", "natural", "dtd", 47),
    "flowers102": _plain("Flowers102", "natural", "oxford_flowers102", 102),
    "pets": _plain("Pets", "natural", "oxford_iiit_pet", 37, val=("train", 80)),
    "sun397": _plain("Sun397", "natural", "sun397/tfds", 397),
    "svhn": _plain("SVHN", "natural", "svhn_cropped", 10, val=("train", 90)),
    "camelyon": _plain("Camelyon", "specialized", "patch_camelyon", 2),
    "eurosat": _plain(
        "EuroSAT", "specialized", "eurosat/rgb", 10, val=("train", 60), test=("train", 80)
    ),
    "resisc45": _plain(
        "Resisc45", "specialized", "resisc45", 45, val=("train", 60), test=("train", 80)
    ),
    "retinopathy": _plain(
        "Retinopathy", "specialized", "diabetic_retinopathy_detection/btgraham-300", 5
    ),
    "clevr_count": VtabTask(
        "Clevr-Count", "structured", "clevr", 8, *_CLEVR, ("objects/size",), clevr_count,
        crop=False,
    ),
    "clevr_distance": VtabTask(
        "Clevr-Dist", "structured", "clevr", 6, *_CLEVR, ("objects/pixel_coords",), clevr_distance,
        crop=False,
    ),
    "dmlab": _plain("DMLab", "structured", "dmlab", 6, crop=False),
    "dsprites_location": VtabTask(
        "dSpr-Loc", "structured", "dsprites", 16, *_DSPRITES, ("label_x_position",),
        _bins("label_x_position", 32 / 16), flip=False, crop=False, levels=1,
    ),
    "dsprites_orientation": VtabTask(
        "dSpr-Ori", "structured", "dsprites", 16, *_DSPRITES, ("label_orientation",),
        _bins("label_orientation", 40 / 16), flip=False, levels=1,
    ),
    "kitti_distance": VtabTask(
        "KITTI-Dist", "structured", "kitti", 4, ("validation", 0), ("test", 0),
        ("objects/location", "objects/type"), kitti_distance, crop=False,
    ),
    "smallnorb_azimuth": VtabTask(
        "sNORB-Azim", "structured", "smallnorb", 18, *_NORB, ("label_azimuth",),
        _as_is("label_azimuth"), flip=False,
    ),
    "smallnorb_elevation": VtabTask(
        "sNORB-Elev", "structured", "smallnorb", 9, *_NORB, ("label_elevation",),
        _as_is("label_elevation"),
    ),
}  # fmt: skip


def task_named(name: str) -> VtabTask:
    """The task of a name.

    Raises:
        UserError: no such name.
    """
    if name == "all":
        raise UserError("Name one of VTAB's tasks; python -m experiments.vtab runs all of them.")
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, 1)
        hint = f"did you mean {close[0]}?" if close else f"VTAB has {', '.join(TASKS)}."
        raise UserError(f"Unknown VTAB task {name!r}; {hint}")
    return TASKS[name]


def tfds_split(task: VtabTask, split: str, sizes: Mapping[str, int]) -> str:
    """One of `SPLITS` in TFDS's words.

    Args:
        task: whose.
        split: which.
        sizes: number of examples in the splits of the TFDS data set.

    Raises:
        UserError: no such split, or a data set that is too small or has other splits.
    """
    if split not in SPLITS:
        raise UserError(f"A VTAB task has no split '{split}' but {', '.join(SPLITS)}.")
    missing = {"train", task.val[0], task.test[0]} - set(sizes)
    if missing:
        raise UserError(f"tfds:{task.data} has no split '{missing.pop()}': prepare it again.")
    (val, val_percent), (test, test_percent) = task.val, task.test
    first, test_first = val_percent * sizes[val] // 100, test_percent * sizes[test] // 100
    val_end = test_first if val == test else sizes[val]
    train_end = first if val == "train" else sizes["train"]
    if train_end < TRAIN or val_end < first + VAL or test_first >= sizes[test]:
        counts = ", ".join(f"{name} {count}" for name, count in sizes.items())
        raise UserError(
            f"tfds:{task.data} is too small for VTAB, which takes {TRAIN} examples to train on and "
            f"{VAL} to choose on: it has {counts}."
        )
    train800, val200 = f"train[:{TRAIN}]", f"{val}[{first}:{first + VAL}]"
    return {
        "train800": train800,
        "val200": val200,
        "train800val200": f"{train800}+{val200}",
        "test": f"{test}[{test_first}:]",
    }[split]


def means(scores: Mapping[str, float]) -> dict[str, float]:
    """Mean score of each group that is complete, and of all 19 (`mean`) where all are there.

    Args:
        scores: of tasks, by name.
    """
    of_group = {g: [name for name, task in TASKS.items() if task.group == g] for g in GROUPS}
    wanted: dict[str, list[str]] = {**of_group, "mean": list(TASKS)}
    return {
        what: statistics.fmean(scores[name] for name in names)
        for what, names in wanted.items()
        if all(name in scores for name in names)
    }
