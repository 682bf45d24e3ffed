"""What the pose experiments have in common: models, optimiser, and files of Human3.6M.

"The paper" is D. Pavllo et al., "3D human pose estimation in video with temporal convolutions and
semi-supervised training", CVPR 2019, arXiv 1811.11742. What it leaves open is as in its published
implementation.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pose_jax.data.views import PoseDataConfig
from train_jax.errors import UserError
from train_jax.optimizers import Adam
from train_jax.schedules import ExponentialConfig

#: Kernel widths by receptive field. The single-frame baseline has W=1 and B=4 (paper, section 6.1),
#: and as many parameters as the model of 27 frames. How 3 frames are seen is not published.
WIDTHS: Mapping[int, tuple[int, ...]] = {
    1: (1, 1, 1, 1, 1),
    3: (3, 1, 1),
    9: (3, 3),
    27: (3, 3, 3),
    81: (3, 3, 3, 3),
    243: (3, 3, 3, 3, 3),
}

#: AMSGrad as PyTorch has it (paper, section 5).
OPTIMIZER = Adam(b1=0.9, b2=0.999, eps=1e-8, amsgrad=True)

#: Files of 2D keypoints, those of the paper's Table 3: CPN (on the boxes of Mask R-CNN), ground
#: truth, Mask R-CNN and Stacked Hourglass; fine-tuned on Human3.6M, or, where they have the joints
#: of another data set, as they come. CPN was also run on ground-truth boxes (Table 1).
H36M_KEYPOINTS: Mapping[str, str] = {
    "cpn": "h36m_cpn_ft_h36m_dbb.npz",
    "cpn_gt_boxes": "h36m_cpn_ft_h36m_gt_boxes.npz",
    "cpn_coco": "h36m_cpn_pt_coco.npz",
    "gt": "h36m.npz",
    "detectron": "h36m_detectron_ft_h36m.npz",
    "detectron_coco": "h36m_detectron_pt_coco.npz",
    "hourglass": "h36m_sh_ft_h36m.npz",
    "hourglass_mpii": "h36m_sh_pt_mpii.npz",
}
H36M_POSITIONS = "h36m.npz"
_MPII_JOINTS = ("hourglass", "hourglass_mpii")


def decaying(factor: float, *, every: str = "1 epoch") -> ExponentialConfig:
    """The paper's learning rate: 1e-3, times a factor after every epoch."""
    return ExponentialConfig(base=1e-3, factor=factor, every=every)


def h36m_data(keypoints: str, subjects: Iterable[str], **changes: Any) -> PoseDataConfig:
    """Recordings of Human3.6M with the keypoints of one of `H36M_KEYPOINTS`.

    Raises:
        UserError: there are no such keypoints.
    """
    file = chosen("keypoints", keypoints, H36M_KEYPOINTS)
    return PoseDataConfig(
        keypoints=file,
        positions=None if file == H36M_POSITIONS else H36M_POSITIONS,
        subjects=tuple(subjects),
        **changes,
    )


def h36m_joints(keypoints: str) -> int:
    """How many joints one of `H36M_KEYPOINTS` has: the hourglass has the 16 of MPII."""
    return 16 if keypoints in _MPII_JOINTS else 17


def widths(frames: int, *, known: Iterable[int] = tuple(WIDTHS)) -> tuple[int, ...]:
    """Kernel widths of a model that sees so many frames.

    Raises:
        UserError: the experiment has no such model.
    """
    return chosen("frames", frames, {number: WIDTHS[number] for number in known})


def chosen(name: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """What an argument stands for.

    Raises:
        UserError: it is none of the choices.
    """
    if value not in choices:
        raise UserError(
            f"Config argument {name}={value} must be one of {', '.join(map(str, choices))}."
        )
    return choices[value]
