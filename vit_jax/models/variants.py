"""The sizes that have names."""

import re
from typing import Any

from train_jax.errors import UserError
from vit_jax.models.config import ResNetStem, ViTConfig

#: width, depth, mlp_dim, num_heads. B, L, H: ViT paper, Table 1; Ti, S: "How to train your ViT?",
#: Table 2; g, G: "Scaling Vision Transformers"; the rest as big_vision names them.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}

#: Stem and the total stride written after the slash, to units per stage. At /16 the last stage is
#: taken away and its units join the third (ViT paper, section 4.1).
STEMS: dict[tuple[str, int], tuple[int, ...]] = {
    ("R26", 32): (2, 2, 2, 2),
    ("R26", 16): (2, 2, 4),
    ("R50", 32): (3, 4, 6, 3),
    ("R50", 16): (3, 4, 9),
    # The published R+Ti/16 is the root and patches of 8 x 8 features: 32 pixels, whatever its name.
    ("R", 16): (),
}
ROOT_ONLY_PATCH = 8

_NAME = re.compile(r"(?:(R\d*)\+)?([A-Za-z][\w-]*)/(\d+)(?:x(\d+))?")


def config_for(variant: str, **overrides: Any) -> ViTConfig:
    """The model of a name.

    Args:
        variant: "B/16", "H/14", "mu/16", any size with any patch ("S/8", or "S/16x8" for height
            and width), or a hybrid: "R50+B/16", "R26+S/32", "R+Ti/16".
        **overrides: fields of :class:`ViTConfig`.

    Raises:
        UserError: no such name.
    """
    match = _NAME.fullmatch(variant)
    if match is None:
        raise UserError(f"The model {variant!r} is not written like 'B/16' or 'R50+B/16'.")
    stem, size, height, width = match.groups()
    if size not in SIZES:
        raise UserError(f"Unknown model size {size!r} in {variant!r}; known: {', '.join(SIZES)}.")
    patch = (int(height), int(width or height))
    if 0 in patch:
        raise UserError(f"The model {variant!r} has a patch of no pixels.")
    fields: dict[str, Any] = dict(
        zip(("width", "depth", "mlp_dim", "num_heads"), SIZES[size], strict=True)
    )
    if stem is None:
        fields["patch_size"] = patch
    else:
        stages = STEMS.get((stem, patch[0]))
        if stages is None or width is not None:
            known = ", ".join(f"{name}+{size}/{stride}" for name, stride in STEMS)
            raise UserError(f"Unknown hybrid {variant!r}; known: {known}.")
        side = 1 if stages else ROOT_ONLY_PATCH
        fields |= {"stem": ResNetStem(stages), "patch_size": (side, side)}
    return ViTConfig(**(fields | overrides))
