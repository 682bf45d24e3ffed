"""BiT-HyperRule: how to fine-tune on a data set, from two facts about it (BiT paper, section 3.3).

The size of its pictures decides the resolution, the number of its examples decides length and
MixUp; nothing is tuned. SGD of 0.003 with momentum 0.9, batch 512, no weight decay; the rate is
divided by ten at 30, 60 and 90 percent. Training squashes a picture to a square, crops and flips
it; evaluation squashes it to the size of the crop.

What the paper leaves open is as in the code that was published with it: the warm-up, of which the
paper says nothing. That code divides the rates of a run of 500 steps at 200, 300 and 400.
"""

import dataclasses

from train_jax.errors import UserError
from train_jax.optimizers import Sgd
from train_jax.schedules import StepsConfig
from vit_jax.data.preprocess import ResizeCrop, Squash

BATCH = 512
LEARNING_RATE = 0.003
MOMENTUM = 0.9
BOUNDARIES = ("30 percent", "60 percent", "90 percent")

# Examples from which a data set is of medium size, and from which it is large.
MEDIUM = 20_000
LARGE = 500_000
# Pictures of a smaller area, in pixels, are small.
LARGE_AREA = 96 * 96

#: Side of the square that a picture is squashed to, and side of the crop.
Sides = tuple[int, int]
SMALL_SIDES: Sides = (160, 128)
LARGE_SIDES: Sides = (448, 384)
#: Of large pictures for R152x4; in the code that was published, for every model.
LARGEST_SIDES: Sides = (512, 480)


@dataclasses.dataclass(frozen=True)
class HyperRule:
    """What the rule says about one data set.

    Attributes:
        steps: updates.
        warmup: how many of them raise the rate from 0.
        mixup: p of the Beta(p, p) from which the mixing weight is drawn; 0: off.
        resize: side of the square that a picture is squashed to in training, in pixels.
        crop: side of what is cut out of it, and of the squashed picture in evaluation.
    """

    steps: int
    warmup: int
    mixup: float
    resize: int
    crop: int

    @property
    def schedule(self) -> StepsConfig:
        """The learning rate."""
        return StepsConfig(
            base=LEARNING_RATE, boundaries=BOUNDARIES, factor=0.1, warmup=f"{self.warmup} steps"
        )

    @property
    def optimizer(self) -> Sgd:
        """SGD without weight decay or clipping."""
        return Sgd(momentum=MOMENTUM)

    @property
    def training(self) -> ResizeCrop:
        """From the picture to the input, in training."""
        return ResizeCrop(resize=self.resize, size=self.crop)

    @property
    def evaluation(self) -> Squash:
        """From the picture to the input, in evaluation."""
        return Squash(size=self.crop)


def hyperrule(
    num_examples: int, picture: tuple[int, int], *, large: Sides = LARGE_SIDES
) -> HyperRule:
    """The hyper-parameters for a data set.

    Args:
        num_examples: how many examples are trained on.
        picture: height and width of its pictures, in pixels.
        large: sides for large pictures.

    Raises:
        UserError: there are no examples, or no pixels.
    """
    if min(num_examples, *picture) < 1:
        raise UserError(
            f"BiT-HyperRule needs the size of the data set, got {num_examples} examples of "
            f"{picture[0]}x{picture[1]} pixels."
        )
    resize, crop = SMALL_SIDES if picture[0] * picture[1] < LARGE_AREA else large
    if num_examples < MEDIUM:
        return HyperRule(steps=500, warmup=100, mixup=0.0, resize=resize, crop=crop)
    steps = 10_000 if num_examples < LARGE else 20_000
    return HyperRule(steps=steps, warmup=500, mixup=0.1, resize=resize, crop=crop)
