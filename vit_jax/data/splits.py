"""Splits as text, for sources that cut their own: `train`, `train[:98%]`, `train[-500:]`, `a+b`."""

import dataclasses
import re

from train_jax.errors import UserError

_SLICE = re.compile(r"^\s*([\w.-]+)\s*(?:\[(-?\d+%?)?:(-?\d+%?)?\])?\s*$")


@dataclasses.dataclass(frozen=True)
class Part:
    """A contiguous piece of one split.

    Attributes:
        name: of the split.
        start: the first example, a number or percentage, from the end where negative; None: 0.
        stop: the one after the last, likewise; None: all.
    """

    name: str
    start: str | None = None
    stop: str | None = None

    def range(self, count: int) -> range:
        """Indices of its examples in a split of `count`."""
        return range(_bound(self.start, 0, count), _bound(self.stop, count, count))


def parse(split: str) -> list[Part]:
    """The pieces that a split is the sum of, in order.

    Raises:
        UserError: the text is no split.
    """
    return [_parse(part, split) for part in split.split("+")]


def _parse(part: str, split: str) -> Part:
    match = _SLICE.match(part)
    if match is None:
        raise UserError(
            f"'{split}' is not a split: write train, train[:98%], train[-500:] or train+val."
        )
    return Part(match[1], match[2], match[3])


def _bound(text: str | None, default: int, n: int) -> int:
    """A slice bound in examples; percent are rounded to the closest example as in TFDS."""
    if not text:
        return default
    at = round(int(text[:-1]) * n / 100) if text.endswith("%") else int(text)
    return max(at + n, 0) if at < 0 else min(at, n)
