"""What a Vision Transformer is made of, as plain values."""

import dataclasses
import math
from typing import Literal

from train_jax.errors import UserError

# A scanned stack without rematerialisation keeps every float32 intermediate of every layer.
MAX_SCAN_DEPTH_WITHOUT_REMAT = 4


@dataclasses.dataclass(frozen=True)
class ResNetStem:
    """The convolutional front of a hybrid (ViT paper, section 3.1; groups and widths as BiT).

    Attributes:
        stages: number of bottleneck units in each stage; empty means the root alone.
        width: channels of the root; stage i (from 0) gives ``4 * width * 2**i`` channels.
    """

    stages: tuple[int, ...]
    width: int = 64

    @property
    def stride(self) -> int:
        """Pixels per feature: 4 in the root, and 2 more in each stage after the first."""
        return 4 * 2 ** max(len(self.stages) - 1, 0)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer; :func:`vit_jax.models.variants.config_for` knows the published ones.

    Attributes:
        patch_size: height and width of a patch, in pixels, or in features behind a stem.
        width: size D of the residual stream.
        depth: number of encoder blocks.
        mlp_dim: hidden size of the MLPs.
        num_heads: attention heads; D must be a multiple.
        num_classes: outputs of the head; 0 for no head, when the representation is returned.
        stem: the convolutional front of a hybrid.
        pool: "token" reads the class token, "gap" the mean of all tokens, "map" attends to them
            with one learned query. Only "token" has a class token.
        position: "learned" has one vector per token, "learned2d" half a vector per row and half a
            vector per column, "relative" one per distance in the sequence, which the queries look
            at, "sincos2d" is fixed, "none" is a bag of patches (ViT paper, Appendix D.4).
        position_at: where learned vectors are added: at the "stem", or before every block, those
            of its own ("layers") or the same ones ("layers_shared").
        representation_size: size of the tanh layer before the head (the hidden layer of the
            pre-training head); None for none.
        head_bias: initial value of the head's bias (-10 where the loss is a sigmoid).
        dropout: rate after the position embedding and after every dense layer but Q, K and V.
        attention_dropout: rate on the attention weights.
        stochastic_depth: rate in the last block of skipping a residual branch, for one example;
            it grows linearly from 0 in the first.
        execution: "scan" compiles one block, "unrolled" all of them; the numbers are the same.
        remat: what the backward pass finds kept of each block: "names" the products that are dear
            to repeat (Q, K, V, the attention output, the MLP before its GELU), "dots" every
            product of weights, "full" nothing, "none" everything.
        compute_dtype: of the matrix products and the residual stream. Parameters, LayerNorm
            statistics, softmax, representation layer and head are float32 in any case.
        attention: "einsum", "cudnn" (GPU, bfloat16), or "auto": cuDNN where it runs.
        gelu: the MLPs' GELU: "tanh" is the approximation that the ViT paper's code computes, "erf"
            the exact form of PyTorch's libraries.
        norm_epsilon: what every LayerNorm adds to the variance: 1e-6 in the paper's code, 1e-12 in
            the configs of Hugging Face.
        patch_outputs: outputs of a linear head on every patch, for masked patch prediction
            (vit_jax/masked_patch.py), whose [mask] embedding the model then has too; 0 for neither.
        name: tells this kind of model from the others.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_classes: int = 1000
    stem: ResNetStem | None = None
    pool: Literal["token", "gap", "map"] = "token"
    position: Literal["learned", "learned2d", "relative", "sincos2d", "none"] = "learned"
    position_at: Literal["stem", "layers", "layers_shared"] = "stem"
    representation_size: int | None = None
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    execution: Literal["scan", "unrolled"] = "scan"
    remat: Literal["none", "names", "dots", "full"] = "names"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "einsum", "cudnn"] = "auto"
    gelu: Literal["tanh", "erf"] = "tanh"
    norm_epsilon: float = 1e-6
    patch_outputs: int = 0
    name: Literal["vit"] = "vit"

    def __post_init__(self):
        if self.width % self.num_heads:
            raise UserError(
                f"The width {self.width} is not a multiple of the {self.num_heads} heads; "
                "choose another number of heads."
            )
        if self.position == "sincos2d" and self.width % 4:
            raise UserError(
                f"position='sincos2d' needs a width that is a multiple of 4, not {self.width}."
            )
        if self.position == "learned2d" and self.width % 2:
            raise UserError(
                f"position='learned2d' needs an even width, not {self.width}; choose another."
            )
        if self.position_at != "stem" and self.position not in ("learned", "learned2d"):
            raise UserError(
                f"position_at='{self.position_at}' is for position='learned' and 'learned2d', not "
                f"'{self.position}'; set position_at='stem'."
            )
        if self.position == "relative" and self.attention == "cudnn":
            raise UserError(
                "attention='cudnn' knows no relative positions; set attention='auto' or another "
                "position."
            )
        if not self.norm_epsilon > 0:
            raise UserError(f"norm_epsilon={self.norm_epsilon} is not positive; 1e-6 is usual.")
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not a rate in [0, 1).")
        if (
            self.execution == "scan"
            and self.remat == "none"
            and self.depth > MAX_SCAN_DEPTH_WITHOUT_REMAT
        ):
            raise UserError(
                f"execution='scan' with remat='none' would keep every intermediate of "
                f"{self.depth} layers in memory; set remat to 'names', or execution to 'unrolled'."
            )

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.width // self.num_heads

    @property
    def class_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.pool == "token"

    def grid(self, image_shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches.

        Args:
            image_shape: (..., height, width, channels).

        Raises:
            UserError: the patches do not tile the image.
        """
        stride = 1 if self.stem is None else self.stem.stride
        sides = []
        for pixels, patch in zip(image_shape[-3:-1], self.patch_size, strict=True):
            if pixels % (patch * stride):
                raise UserError(
                    f"The image side {pixels} is not divisible by the patch of {patch * stride} "
                    "pixels; choose another resolution."
                )
            sides.append(pixels // (patch * stride))
        return sides[0], sides[1]

    def num_tokens(self, image_shape: tuple[int, ...]) -> int:
        """Length of the sequence, class token included."""
        return math.prod(self.grid(image_shape)) + self.class_token
