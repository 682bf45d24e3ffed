"""What defines a temporal model, and what follows from it."""

import dataclasses
import math
from typing import Literal

from train_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """A temporal convolutional network that lifts 2D keypoints to 3D (paper, section 3).

    Attributes:
        joints_in: keypoints per frame.
        features: numbers per keypoint: 2, or 3 with the detector's confidence.
        joints_out: joints of the pose; 1 for a trajectory.
        widths: odd kernel widths, the first of the layer that expands keypoints to channels, each
            other of a residual block. Their product is the receptive field: (3, 3, 3, 3, 3) sees
            243 frames, (1, 1, 1, 1, 1) is the paper's single-frame baseline.
        channels: hidden channels (paper: 1024).
        dropout: rate after every activation (paper: 0.25).
        causal: whether a pose depends on its own frame and earlier ones only.
        dense: the paper's ablation without dilation: wider kernels, the same receptive field.
        compute_dtype: of products and activations; parameters and batch statistics are float32.
    """

    joints_in: int = 17
    features: int = 2
    joints_out: int = 17
    widths: tuple[int, ...] = (3, 3, 3)
    channels: int = 1024
    dropout: float = 0.25
    causal: bool = False
    dense: bool = False
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not self.widths or any(width < 1 or width % 2 == 0 for width in self.widths):
            raise UserError(f"widths must be odd numbers, such as 3,3,3; got {self.widths}.")
        for name in ("joints_in", "features", "joints_out", "channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {self.dropout}.")

    @property
    def receptive_field(self) -> int:
        """Input frames that one output frame depends on."""
        return math.prod(self.widths)

    @property
    def pad(self) -> int:
        """Frames that a sequence needs on each side to get a pose for every frame."""
        return (self.receptive_field - 1) // 2

    @property
    def pad_before(self) -> int:
        """Input frames before the frame whose pose is estimated."""
        return 2 * self.pad if self.causal else self.pad

    @property
    def pad_after(self) -> int:
        """Input frames after the frame whose pose is estimated: the delay of the model."""
        return 0 if self.causal else self.pad

    @property
    def dilations(self) -> tuple[int, ...]:
        """Distance of neighbouring taps in frames, by layer: the product of the widths before."""
        return tuple(math.prod(self.widths[:i]) for i in range(len(self.widths)))

    @property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """(kernel width, dilation) of the wide convolution of every layer."""
        if not self.dense:
            return tuple(zip(self.widths, self.dilations, strict=True))
        first, *rest = zip(self.widths, self.dilations, strict=True)
        return (first, *(((width - 1) * dilation + 1, 1) for width, dilation in rest))

    @property
    def num_params(self) -> int:
        """Trainable parameters: kernels, two per normalised channel, and the last bias."""
        outputs = 3 * self.joints_out
        norms = 2 * self.channels * (2 * len(self.widths) - 1)
        return self.multiplications_per_frame + norms + outputs

    @property
    def multiplications_per_frame(self) -> int:
        """Multiply-adds of all products for one more frame of a long sequence (paper, Table 5)."""
        (first, _), *rest = self.taps
        expand = first * self.joints_in * self.features * self.channels
        blocks = sum((width + 1) * self.channels**2 for width, _ in rest)
        return expand + blocks + 3 * self.joints_out * self.channels

    @property
    def multiplications_per_window(self) -> int:
        """Multiply-adds of the strided form for a single output (receptive field in, one out)."""
        left, total = self.receptive_field, 3 * self.joints_out * self.channels
        for i, width in enumerate(self.widths):
            left //= width
            inputs = self.joints_in * self.features if i == 0 else self.channels
            total += left * (width * inputs + (self.channels if i else 0)) * self.channels
        return total
