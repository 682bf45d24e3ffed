"""What the classes of a model are called.

The lists in ``class_lists`` are in the order of the published heads and of TFDS: the 1,000 classes
of ImageNet 2012 by WordNet id with WordNet 3.0's synonyms, the 21,843 of the published ImageNet-21k
heads with the first of them, CIFAR, Oxford Pets and Flowers.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from train_jax.errors import UserError
from train_jax.stored import brief
from vit_jax.data.pipeline import DataConfig, data_source

_LISTS = Path(__file__).with_name("class_lists")
#: Names of the lists that there are.
KNOWN = (
    "imagenet2012",
    "imagenet21k",
    "cifar10",
    "cifar100",
    "oxford_iiit_pet",
    "oxford_flowers102",
)
# TFDS data sets that share the classes of a list.
_SHARED = {"imagenet2012_real": "imagenet2012", "imagenet_v2": "imagenet2012"}
# Heads of published files, which do not say what they were trained on.
_BY_SIZE = {1_000: "imagenet2012", 21_843: "imagenet21k"}


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Names of classes, and why these.

    Attributes:
        names: one per class.
        origin: where they come from, for people.
    """

    names: tuple[str, ...]
    origin: str


@functools.cache
def read_list(name: str) -> tuple[str, ...]:
    """One of the lists of ``KNOWN``."""
    lines = (_LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    if name == "imagenet2012":
        return tuple(line.partition(" ")[2] for line in lines)
    return tuple(lines)


@functools.cache
def wordnet_names() -> dict[str, str]:
    """WordNet id ("n01440764") -> name, of the classes of ImageNet 2012."""
    text = (_LISTS / "imagenet2012.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def find_names(
    num_classes: int, *, data: DataConfig | None = None, given: str | None = None
) -> ClassNames:
    """The names of a model's classes; "class 0" and so on where nobody knows them.

    Args:
        num_classes: outputs of the head.
        data: what the model was trained on; None for a published file, which is told by the number
            of its classes.
        given: a file with a name a line, or one of ``KNOWN``, where the user names them.

    Raises:
        UserError: what the user named cannot be read, or has another number of names.
    """
    if given is not None:
        return _given(given, num_classes)
    found = None
    if data is not None:
        found = _of_data(data)
    elif num_classes in _BY_SIZE:
        name = _BY_SIZE[num_classes]
        found = ClassNames(read_list(name), f"{name}, by their number")
    if found is not None and len(found.names) == num_classes:
        return found
    return ClassNames(
        tuple(f"class {i}" for i in range(num_classes)), "not known; name them with --class_names"
    )


def _given(given: str, num_classes: int) -> ClassNames:
    if given in KNOWN:
        names: Sequence[str] = read_list(given)
    else:
        try:
            text = epath.Path(given).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--class_names={given} cannot be read ({brief(error)}); name a text file with a "
                f"class a line, or one of {', '.join(KNOWN)}."
            ) from error
        names = [line.strip() for line in text.strip().splitlines()]
    if len(names) != num_classes:
        raise UserError(
            f"--class_names={given} has {len(names)} names and the model {num_classes} classes; "
            "give one name a line, in the order of the classes."
        )
    return ClassNames(tuple(names), given)


def _of_data(data: DataConfig) -> ClassNames | None:
    """The names of the classes of a data set, of those that the config keeps."""
    names = _all_of(data)
    if not names:
        return None
    if data.classes is not None:
        if max(data.classes, default=-1) >= len(names):
            return None
        names = tuple(names[i] for i in data.classes)
    known = wordnet_names()
    return ClassNames(tuple(known.get(name, name) for name in names), data.source)


def _all_of(data: DataConfig) -> tuple[str, ...]:
    if data.source == "digits":
        return tuple("0123456789")
    if match := re.fullmatch(r"tfds:(\w+)([:/].*)?", data.source):
        name = _SHARED.get(match[1], match[1])
        if name in KNOWN:
            return read_list(name)
    try:
        # Without the selection, which would read every label.
        return data_source(dataclasses.replace(data, classes=None, shots=None)).class_names
    except (UserError, OSError):
        # The data need not be where the model is used.
        return ()


def short(name: str) -> str:
    """The first of several synonyms."""
    return name.split(", ")[0]
