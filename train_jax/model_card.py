"""Writes a model card from what a checkpoint and its result records say.

    python -m train_jax.model_card WORKDIR --output=README.md --name="ViT-B/16 on CIFAR-100"

CHECKPOINT_OR_WORKDIR is a run's directory, or one of its checkpoints or of a conversion. The card
has the YAML head of Hugging Face. Nothing is made up: what nobody recorded is said to be unknown,
and the license stays open until --license names one.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from train_jax import command_line
from train_jax.budget import spent_of
from train_jax.errors import UserError
from train_jax.record import DIRECTORY, Record, hash_of, read_records
from train_jax.sharding import flat_names
from train_jax.stored import as_path, find, read_meta, read_params_shapes

_UNKNOWN = "unknown"
#: Keys of a config that make the recipe; data and model have sections of their own.
_RECIPE = (
    "optimizer",
    "schedule",
    "batch_size",
    "total",
    "ema_decay",
    "loss",
    "mixup",
    "label_smoothing",
    "seed",
    "init_from",
)


def card(
    checkpoint: str | os.PathLike[str], *, name: str | None = None, license_name: str | None = None
) -> str:
    """The text of a card.

    Args:
        checkpoint: as for :func:`train_jax.stored.find`.
        name: of the model; that of the directory if None.
        license_name: of the weights.

    Raises:
        UserError: there is no checkpoint, or its records are damaged.
    """
    directory = find(checkpoint)
    meta = read_meta(directory)
    shapes = flat_names(read_params_shapes(directory))
    parameters = sum(leaf.size for leaf in shapes.values())
    config: Mapping[str, Any] = meta.get("config") or {}
    records = _records(directory, meta)
    title = name or Path(os.fspath(checkpoint)).absolute().name
    sections = [
        _head(license_name, config, records, title),
        f"# {title}\n",
        _section("Model", _model_lines(meta, parameters)),
        _section("Training data", _data_lines(config)),
        _section("Recipe", _recipe_lines(meta, config)),
        _section("Results", _result_lines(records)),
        _section("Cost", _cost_lines(meta, records)),
        _section(
            "Limits",
            [
                "Bias, fairness, and use outside of the data above: unknown.",
                "Results hold for the splits and preprocessing that are named with them.",
            ],
        ),
        f"## How to load\n\n```\n{_load(meta)}\n```\n",
    ]
    return "\n".join(sections)


def _records(directory: Any, meta: Mapping[str, Any]) -> list[Record]:
    parent = directory.parent
    place = parent.parent / DIRECTORY if parent.name == "checkpoints" else None
    if place is None or not place.is_dir():
        return []
    found = [record for _, record in read_records([str(place)])]
    return [record for record in found if record.step in (None, meta.get("step"))]


def _head(
    license_name: str | None, config: Mapping[str, Any], records: Sequence[Record], title: str
) -> str:
    lines = ["---", "library_name: jax"]
    lines += [f"license: {json.dumps(license_name)}"] if license_name else []
    source = _source(config)
    lines += [f"datasets:\n- {json.dumps(source)}"] if source else []
    if records:
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:"]
        for split, result in records[-1].splits.items():
            data = (result.get("data") or {}).get("source") or split
            lines += ["  - task:", "      type: " + _task(config), "    dataset:"]
            lines += [f"      name: {json.dumps(str(data))}", f"      type: {json.dumps(split)}"]
            lines += ["    metrics:"]
            for metric, value in result["metrics"].items():
                lines += [f"    - type: {json.dumps(metric)}", f"      value: {json.dumps(value)}"]
    return "\n".join([*lines, "---", ""])


def _task(config: Mapping[str, Any]) -> str:
    return "image-classification" if config.get("package") == "vit_jax" else "other"


def _source(config: Mapping[str, Any]) -> str | None:
    data = config.get("data")
    return data.get("source") if isinstance(data, Mapping) else None


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines)


def _model_lines(meta: Mapping[str, Any], parameters: int) -> list[str]:
    lines = [f"Parameters: {parameters:,}"]
    lines += [f"{name}: {_text(value)}" for name, value in (meta.get("model") or {}).items()]
    if not meta.get("model"):
        lines.append(f"Architecture: {_UNKNOWN}")
    for name in ("variant", "image_shape", "keypoint_layout", "skeleton", "fps", "converted_from"):
        if meta.get(name) is not None:
            lines.append(f"{name}: {_text(meta[name])}")
    return lines


def _data_lines(config: Mapping[str, Any]) -> list[str]:
    data = config.get("data")
    if not isinstance(data, Mapping):
        return [_UNKNOWN]
    return [f"{name}: {_text(value)}" for name, value in data.items() if name != "data_dir"]


def _recipe_lines(meta: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    if not config:
        return [_UNKNOWN]
    lines = [f"{name}: {_text(config[name])}" for name in _RECIPE if name in config]
    steps, total = meta.get("step"), meta.get("total_steps")
    lines.append(f"Step {steps if steps is not None else _UNKNOWN} of {total or _UNKNOWN}")
    trained = meta.get("identity", {}).get("config")
    lines.append(f"Config hash: {_UNKNOWN if trained is None else hash_of(trained)}")
    return lines


def _result_lines(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in records:
        for split, result in record.splits.items():
            metrics = ", ".join(f"{name} {value:.6g}" for name, value in result["metrics"].items())
            examples = result.get("examples")
            lines.append(
                f"{split}: {metrics} ({_UNKNOWN if examples is None else examples} examples; by "
                f"{record.program}, {record.time[:10]}, commit {record.commit or _UNKNOWN}, config "
                f"hash {record.config_hash})"
            )
    return lines or [f"{_UNKNOWN}: no result record of this checkpoint"]


def _cost_lines(meta: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    if "spent" not in meta:
        return [f"Core-days: {_UNKNOWN}", f"Chips: {_UNKNOWN}"]
    spent = spent_of(meta)
    days = [f"Core-days of {chip}: {value:.6g}" for chip, value in spent.core_days().items()]
    lines = [*(days or [f"Core-days: {_UNKNOWN}"]), f"Hours: {spent.seconds / 3600:.6g}"]
    lines.append(f"Goodput: {spent.goodput():.0%}")
    devices = records[-1].devices if records else None
    kind = f"{devices['count']} x {devices['kind']}" if devices else _UNKNOWN
    return [*lines, f"Devices of the last evaluation: {kind}"]


def _load(meta: Mapping[str, Any]) -> str:
    if "keypoint_layout" in meta:
        return "from pose_jax.lifter import load_lifter\n\nlifter = load_lifter(DIRECTORY)"
    if "image_shape" in meta:
        return "from vit_jax.export import load\n\nclassifier = load(DIRECTORY)"
    return "from train_jax.stored import read_meta\n\nread_meta(DIRECTORY)"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    (checkpoint,) = command_line.parse(
        sys.argv, __doc__ or "", arguments=("CHECKPOINT_OR_WORKDIR",)
    )
    output = flags.FLAGS.output
    if output and as_path(output).exists():
        raise UserError(f"{output} exists already; nothing is overwritten, remove it first.")
    text = card(checkpoint, name=flags.FLAGS.name, license_name=flags.FLAGS.license)
    if not output:
        sys.stdout.write(text)
        return
    try:
        as_path(output).write_text(text)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error


def _define_flags() -> None:
    # Not on import: other commands have flags of the same names.
    flags.DEFINE_string("output", None, "The file to make; printed unless given.")
    flags.DEFINE_string("name", None, "The model's name; that of the directory unless given.")
    flags.DEFINE_string("license", None, "The license of the weights, e.g. apache-2.0.")


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(main))
