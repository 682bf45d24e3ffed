"""The keys of a run of ``pose_jax.train``."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from pose_jax.data.training import Order
from pose_jax.data.views import PoseDataConfig
from pose_jax.measure import MeasureConfig
from pose_jax.models.config import TemporalConfig
from train_jax.config import FREE
from train_jax.errors import UserError
from train_jax.train_config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormConfig:
    """Share of the new batch in the running statistics (PyTorch's momentum), by epoch.

    It falls geometrically over the run (paper, section 4: from 0.1 to 0.001).
    """

    first: float = 0.1
    last: float = 0.001

    def __post_init__(self) -> None:
        if not (0 < self.first <= 1 and 0 < self.last <= 1):
            raise UserError(
                f"batch_norm.first and last must lie in (0, 1], got {self.first} and {self.last}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiConfig:
    """Training on video without 3D labels by back-projection (paper, section 3.3).

    A trajectory network estimates where the root is; pose and trajectory, projected to the image,
    shall meet the keypoints; bones shall be as long as those of labelled subjects.

    Attributes:
        data: the unlabelled sequences; cameras need intrinsics, positions are not used.
        warmup: how long only labelled examples count.
        projection: "full" with lens distortion, "linear" without, or None for no such term.
        bone_length: whether the bone-length term is used.
        confidence: weighs the keypoints of the projection term by the detector's confidence.
    """

    data: PoseDataConfig
    warmup: str = "1 epoch"
    projection: Literal["full", "linear"] | None = "full"
    bone_length: bool = True
    confidence: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseTrainConfig(TrainConfig):
    """A run of ``pose_jax.train``: the keys of every run, and those of poses.

    Attributes:
        model: the network; its joints must be those of the data.
        data: labelled sequences.
        evaluations: what is measured, by name.
        measure: how it is measured.
        data_dir: where files with relative paths are.
        chunk: output frames of an example; 1 decorrelates batch statistics and is fastest. (The
            original's batch size counts frames, ours examples.)
        flip: whether an epoch has every example a second time, mirrored.
        order: "device" shuffles in the step; "original" is the original implementation's order.
        batch_norm: momentum of the running statistics.
        trajectory: whether a second network estimates where the root is. Semi-supervised training
            needs it, and has it.
        semi: unlabelled video.
        package: which package the config is of (see train_jax/outline.py).
    """

    model: TemporalConfig
    data: PoseDataConfig
    evaluations: Mapping[str, PoseDataConfig] = dataclasses.field(
        default_factory=dict, metadata=FREE
    )
    measure: MeasureConfig = dataclasses.field(default=MeasureConfig(), metadata=FREE)
    data_dir: str = dataclasses.field(default="data/pose", metadata=FREE)
    chunk: int = 1
    flip: bool = True
    order: Order = "device"
    batch_norm: BatchNormConfig = dataclasses.field(default_factory=BatchNormConfig)
    trajectory: bool = False
    semi: SemiConfig | None = None
    package: Literal["pose_jax"] = dataclasses.field(default="pose_jax", metadata=FREE)

    @property
    def has_trajectory(self) -> bool:
        """Whether the run trains a trajectory network too."""
        return self.trajectory or self.semi is not None

    @property
    def networks(self) -> dict[str, TemporalConfig]:
        """What is trained, by name; the network of the trajectory is of the same size."""
        path = {"trajectory": dataclasses.replace(self.model, joints_out=1)}
        return {"pose": self.model, **(path if self.has_trajectory else {})}
