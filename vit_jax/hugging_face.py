"""Vision Transformers of Hugging Face (a directory) and of timm (.safetensors), read and written.

A directory has ``config.json`` and ``model.safetensors`` (or its shards); the config decides what
shapes do not tell: heads, which GELU, LayerNorm's epsilon, and the classes' names. timm's files
have names and shapes only: 64 numbers per attention head unless the size is known, the exact GELU
and 1e-6, as timm runs them; a config.json of timm beside such a file makes no difference to these.
PyTorch's pickled .bin files are not read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from train_jax.config import to_dict
from train_jax.errors import UserError
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.models.variants import SIZES
from vit_jax.npz import refuse_existing
from vit_jax.recognise import recognise
from vit_jax.safetensors_file import (
    SafetensorsFile,
    open_safetensors,
    open_shards,
    write_safetensors,
)
from vit_jax.torch_names import TorchWeights, to_torch, understand

_WEIGHTS, _CONFIG, _PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
_GELUS: dict[str, Literal["tanh", "erf"]] = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
}
_INSIDE = ("embeddings.", "encoder.", "layernorm.", "pooler.")


def is_torch(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a .safetensors file, or of a directory of Hugging Face."""
    text = os.fspath(path)
    if text.endswith(".safetensors"):
        return True
    if text.endswith((".npz", ".bin")) or ".npz:" in text:
        return False
    try:
        # A run of ours has a config.json, too.
        place = epath.Path(text)
        return (place / _CONFIG).exists() and not (place / "checkpoints").exists()
    except (OSError, ImportError):
        return False


def open_torch(path: str | os.PathLike[str]) -> tuple[TorchWeights, dict[str, Any]]:
    """Understands weights without reading them, and what is told of them.

    Args:
        path: a directory with ``config.json``, or a file of timm's.

    Returns:
        The weights under our names; ``model``, and ``labels`` where classes have names.

    Raises:
        UserError: they cannot be read, or are of an architecture that is not supported.
    """
    place = epath.Path(path)
    if os.fspath(path).endswith(".safetensors"):
        file = open_safetensors(place)
        if any(name.removeprefix("vit.").startswith(_INSIDE) for name in file.shapes):
            raise UserError(
                f"{path} is Hugging Face's: name its directory, whose config.json tells the rest."
            )
        return _timm(file)
    config = _read_json(place / _CONFIG)
    file = _weights_of(place)
    if "architecture" in config and "model_type" not in config:
        return _timm(file)
    if config.get("model_type") != "vit":
        raise UserError(
            f"{path} holds a model of type {config.get('model_type')!r}; of Hugging Face's, only "
            "'vit' is supported."
        )
    return _hugging_face(file, config)


def save_torch(
    path: str | os.PathLike[str],
    model: ViTConfig | BiTConfig,
    params: Any,
    *,
    names: Literal["huggingface", "timm"],
    image_shape: tuple[int, ...] | None,
    labels: Sequence[str] | None = None,
) -> None:
    """Writes a directory for transformers, or a .safetensors file for timm.

    Args:
        path: the directory or file to make; must not exist.
        model: the model.
        params: its parameters.
        names: whose.
        image_shape: (height, width, 3).
        labels: names of the classes, for Hugging Face.

    Raises:
        UserError: the path is taken, or the format has no place for such a model.
    """
    if isinstance(model, BiTConfig):
        raise UserError(f"The format {names} is written of Vision Transformers; convert to .npz.")
    refuse_existing(path)
    is_file = os.fspath(path).endswith(".safetensors")
    if names == "timm":
        if not is_file:
            raise UserError(f"{os.fspath(path)}: timm's file must end in .safetensors.")
        _refuse_timm_default(model)
        write_safetensors(path, *to_torch(model, params, "timm"))
        return
    if is_file or os.fspath(path).endswith(".npz"):
        raise UserError(f"{os.fspath(path)}: --names=huggingface writes a directory; name one.")
    if model.pool != "token" or model.stem is not None or image_shape is None:
        raise UserError(
            "Hugging Face's ViT has a class token and no stem; convert this model to .npz."
        )
    if model.num_classes and model.representation_size:
        raise UserError(
            "Hugging Face's classifier has no representation layer before its head; convert to "
            ".npz."
        )
    shapes, arrays = to_torch(model, params, "huggingface")
    if not model.num_classes:
        shapes = {name.removeprefix("vit."): shape for name, shape in shapes.items()}
        arrays = ((name.removeprefix("vit."), array) for name, array in arrays)
    place = epath.Path(path)
    place.mkdir(parents=True, exist_ok=True)
    write_safetensors(place / _WEIGHTS, shapes, arrays)
    _write_json(place / _CONFIG, _config_of(model, image_shape, labels))
    _write_json(place / _PREPROCESSOR, _preprocessor_of(image_shape))


def _refuse_timm_default(model: ViTConfig) -> None:
    if model.pool != "token" or model.stem is not None:
        raise UserError("timm's names are written of models with a class token and no stem.")
    if model.num_heads != _heads(model.width, model.depth, model.mlp_dim):
        raise UserError(
            f"A file for timm does not tell the {model.num_heads} heads of width {model.width}; "
            "convert with --names=huggingface."
        )


def _hugging_face(
    file: SafetensorsFile, config: Mapping[str, Any]
) -> tuple[TorchWeights, dict[str, Any]]:
    act = config.get("hidden_act", "gelu")
    if act not in _GELUS:
        raise UserError(f"{file.path}: hidden_act {act!r} is not supported; only GELUs are.")
    if config.get("pooler_act", "tanh") != "tanh" or config.get("num_channels", 3) != 3:
        raise UserError(f"{file.path}: only a tanh pooler and images of 3 channels are supported.")
    stored = {f"vit.{name}" if name.startswith(_INSIDE) else name: name for name in file.shapes}
    weights = understand(file, stored, "huggingface", heads=config.get("num_attention_heads", 12))
    labels = config.get("id2label") or {}
    numbered = [str(labels[key]) for key in sorted(labels, key=int)]
    named = numbered and any(label != f"LABEL_{i}" for i, label in enumerate(numbered))
    about = _about(weights, _GELUS[act], float(config.get("layer_norm_eps", 1e-12)))
    return weights, about | ({"labels": numbered} if named else {})


def _timm(file: SafetensorsFile) -> tuple[TorchWeights, dict[str, Any]]:
    stored = {name: name for name in file.shapes}
    patch, fc = file.shapes.get("patch_embed.proj.weight"), file.shapes.get("blocks.0.mlp.fc1.bias")
    depth = sum(name.endswith(".attn.qkv.weight") for name in stored)
    heads = _heads(patch.shape[0], depth, fc.shape[0]) if patch and fc else None
    weights = understand(file, stored, "timm", heads=heads)
    return weights, _about(weights, "erf", 1e-6)


def _heads(width: int, depth: int, mlp_dim: int) -> int:
    known = {size[:3]: size[3] for size in SIZES.values()}
    return known.get((width, depth, mlp_dim), max(width // 64, 1))


def _about(weights: TorchWeights, gelu: str, epsilon: float) -> dict[str, Any]:
    model = to_dict(recognise(weights.shapes).model)
    return {"model": model | {"gelu": gelu, "norm_epsilon": epsilon}}


def _weights_of(place: epath.Path) -> SafetensorsFile:
    if (place / _WEIGHTS).exists():
        return open_safetensors(place / _WEIGHTS)
    if (place / f"{_WEIGHTS}.index.json").exists():
        return open_shards(place / f"{_WEIGHTS}.index.json")
    raise UserError(
        f"{place} holds no {_WEIGHTS}; pickled weights (pytorch_model.bin) may run code and are "
        "not read."
    )


def _config_of(
    model: ViTConfig, image_shape: tuple[int, ...], labels: Sequence[str] | None
) -> dict[str, Any]:
    height, width = image_shape[:2]
    patch_height, patch_width = model.patch_size
    config: dict[str, Any] = {
        "architectures": ["ViTForImageClassification" if model.num_classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_dim,
        "hidden_act": "gelu_pytorch_tanh" if model.gelu == "tanh" else "gelu",
        "layer_norm_eps": model.norm_epsilon,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "image_size": height if height == width else [height, width],
        "patch_size": patch_height if patch_height == patch_width else [patch_height, patch_width],
        "num_channels": 3,
        "qkv_bias": True,
        "dtype": "float32",
    }
    if not model.num_classes:
        config |= {"pooler_act": "tanh", "pooler_output_size": model.representation_size}
        return config
    names = list(labels or (f"LABEL_{i}" for i in range(model.num_classes)))
    if len(names) != model.num_classes:
        raise UserError(f"{len(names)} names were given for {model.num_classes} classes.")
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def _preprocessor_of(image_shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": image_shape[0], "width": image_shape[1]},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object; fetch it again.")
    return values


def _write_json(path: epath.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
