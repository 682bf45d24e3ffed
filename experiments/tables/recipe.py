"""From the command of a figure to its config, and from the config to what it costs.

Costs are planned, not measured. Of a pre-training run whose core-days the ViT paper's Table 2
prints they are those. Of any other run of images they follow from its operations (6 for a
multiply-add of the forward pass and example, the rule of the paper's Table 6), at the rate that
Table 2 implies for L/16 on JFT: 1,567 exaFLOP in 680 core-days. Runs of poses are counted in hours
of the GPU on which the original's authors trained: printed (24, 11 and 6 for 243, 81 and 27
frames), or in proportion to the operations of the printed run of as many frames (else of 243).
"""

import ast
import dataclasses
import functools
import importlib
import shlex
from typing import Any

from ml_collections import ConfigDict

from experiments.tables.target import targets_of
from pose_jax import flops as poses
from pose_jax.outline import SUBJECT_FRAMES
from pose_jax.train_config import PoseTrainConfig
from train_jax.outline import read_config
from train_jax.record import TRAINING_OPERATIONS
from train_jax.schedules import steps_of
from vit_jax.flops import multiply_adds
from vit_jax.task import ViTTrainConfig, image_shape

#: ViT paper, Tables 2 and 6, L/16 on JFT for 14 epochs.
EXAFLOP_PER_CORE_DAY = 1567 / 680

#: The configs of the two packages.
Config = ViTTrainConfig | PoseTrainConfig

CORE_DAYS = "TPUv3-core-days"
GPU_HOURS = "hours on a GPU of the Pascal generation"

#: The source of VTAB's configs before a task is chosen.
ALL_OF_VTAB = "vtab:all"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run is planned to take.

    Attributes:
        exaflop: its useful operations; None where they are not known.
        amount: in `unit`; None likewise.
        unit: `CORE_DAYS` or `GPU_HOURS`.
        printed: whether the amount is published for this very run.
    """

    exaflop: float | None
    amount: float | None
    unit: str
    printed: bool = False


def path_of(command: str) -> str:
    """The experiment file of a config command, with its arguments."""
    return shlex.split(command)[0]


@functools.cache
def config_of(command: str) -> Config:
    """The checked config of FILE:ARGUMENTS --config.key=value ...

    Raises:
        UserError: the arguments or keys are not right.
    """
    name, *overrides = shlex.split(command)
    file, _, arg = name.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    values: ConfigDict = module.get_config(arg) if arg else module.get_config()
    for override in overrides:
        key, _, text = override.removeprefix("--config.").partition("=")
        *groups, last = key.split(".")
        group: Any = functools.reduce(getattr, groups, values)
        group[last] = _parsed(text, group.get_type(last))
    config = read_config(values)
    assert isinstance(config, Config)
    return config


def _parsed(text: str, kind: type) -> Any:
    return ast.literal_eval(text) if kind in (tuple, bool) else kind(text)


@functools.cache
def cost_of(command: str) -> Cost:
    """What the run of a command is planned to take; see the module's docstring."""
    config = config_of(command)
    if isinstance(config, PoseTrainConfig):
        return _of_poses(command, config)
    exaflop = exaflop_of(command)
    printed = {
        target.config: target.value
        for target in targets_of("vit_table2")
        if target.metric == "@v3_core_days"
    }
    if command in printed:
        return Cost(exaflop, printed[command], CORE_DAYS, printed=True)
    days = None if exaflop is None else exaflop / EXAFLOP_PER_CORE_DAY
    return Cost(exaflop, days, CORE_DAYS)


def _of_poses(command: str, config: PoseTrainConfig) -> Cost:
    exaflop = exaflop_of(command)
    printed = {
        target.config: target.value
        for target in targets_of("pose_readme")
        if target.metric == "@published_hours"
    }
    if command in printed:
        return Cost(exaflop, printed[command], GPU_HOURS, printed=True)
    like = next((one for one in printed if _widths(one) == config.model.widths), None)
    like = like or "experiments/pose/h36m.py:243"
    whole = exaflop_of(like)
    if exaflop is None or whole is None:
        return Cost(exaflop, None, GPU_HOURS)
    return Cost(exaflop, printed[like] * exaflop / whole, GPU_HOURS)


def _widths(command: str) -> tuple[int, ...] | None:
    """Of a printed run on Human3.6M; None of HumanEva, whose operations are not known."""
    config = config_of(command)
    assert isinstance(config, PoseTrainConfig)
    return None if exaflop_of(command) is None else config.model.widths


@functools.cache
def exaflop_of(command: str) -> float | None:
    """Useful operations of the run of a command, 1e18; None where its data are not known."""
    config = config_of(command)
    if isinstance(config, PoseTrainConfig):
        products, examples = poses.multiply_adds(config), _pose_examples(config)
    else:
        products = multiply_adds(config.model, image_shape(config.data))
        examples = config.data.examples
        if examples is not None and config.pseudo_labels is not None:
            # An epoch is one over the labelled images, of which a batch has one in 1 + ratio.
            examples *= 1 + config.pseudo_labels.ratio
    if examples is None:
        if "epoch" in config.total:
            return None
        examples = config.batch_size
    steps = steps_of(config.total, batch_size=config.batch_size, examples_per_epoch=examples)
    return TRAINING_OPERATIONS * products * steps * config.batch_size / 1e18


def _pose_examples(config: PoseTrainConfig) -> int | None:
    """Labelled examples of an epoch; None where the subjects' frames are not published."""
    data = config.data
    known = [SUBJECT_FRAMES.get(subject) for subject in data.subjects]
    if None in known:
        return None
    frames = sum(filter(None, known)) * data.fraction / data.downsample
    return max(1, round(frames * (2 if config.flip else 1) / config.chunk))


@functools.cache
def mflop_per_frame(command: str) -> float:
    """Operations of a lifter per frame of a long video, 1e6 (VideoPose3D paper, Table 5)."""
    config = config_of(command)
    assert isinstance(config, PoseTrainConfig)
    return 2 * config.model.multiplications_per_frame / 1e6


@functools.cache
def million_parameters(command: str) -> float:
    """Parameters of a lifter, 1e6."""
    config = config_of(command)
    assert isinstance(config, PoseTrainConfig)
    return config.model.num_params / 1e6


def is_all_of_vtab(command: str) -> bool:
    """Whether a command stands for the runs of all tasks of VTAB."""
    config = config_of(command)
    return isinstance(config, ViTTrainConfig) and config.data.source == ALL_OF_VTAB
