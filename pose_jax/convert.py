"""Converts between the original's checkpoints (.bin) and checkpoint directories.

    python -m pose_jax.convert pretrained_h36m_cpn.bin checkpoint/ --nocausal --layout=h36m17
    python -m pose_jax.convert checkpoint/ model.bin

The first form needs --causal or --nocausal, and --layout, the keypoints that the network reads: a
.bin file does not tell. Weights of a causal model load as those of a symmetric one and give wrong
poses, so nothing is assumed. A checkpoint of ours tells, and SOURCE may be a run's working
directory (its newest checkpoint is taken, its averaged parameters where it kept them). Neither
PyTorch nor the pickle in the file is run. Nothing is ever overwritten.
"""

import dataclasses
import os
import sys

import jax
import jax.numpy as jnp
from absl import flags, logging
from etils import epath

from pose_jax.data.store import refuse_existing
from pose_jax.lifter import POSE, TRAJECTORY, load_lifter
from pose_jax.models.config import TemporalConfig
from pose_jax.skeletons import H36M_17
from pose_jax.weights import from_torch, read_bin, recognise, to_torch, write_bin
from train_jax import command_line
from train_jax.checkpoint import save_once
from train_jax.config import differences, to_dict
from train_jax.errors import UserError

_CAUSAL = flags.DEFINE_bool(
    "causal", None, "Whether the network of a .bin file sees past frames only; must be given."
)
_LAYOUT = flags.DEFINE_string(
    "layout", None, "Layout of the keypoints that it reads (h36m17, coco17, ...); must be given."
)
_SKELETON = flags.DEFINE_string("skeleton", None, "Layout of its poses; h36m17 unless given.")
_DENSE = flags.DEFINE_bool(
    "dense", None, "It is the ablation without dilation; needed only where shapes leave that open."
)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    causal: bool | None = None,
    keypoint_layout: str | None = None,
    skeleton: str | None = None,
    dense: bool | None = None,
) -> str:
    """Converts one checkpoint.

    Args:
        source: a .bin file or a checkpoint directory.
        destination: a directory to make, or a .bin file; must not exist.
        causal: of a .bin file: whether the network sees past frames only.
        keypoint_layout: of a .bin file: name of the layout of its keypoints.
        skeleton: of a .bin file: name of the layout of its poses; "h36m17" if None.
        dense: of a .bin file: whether it is the ablation without dilation; needed only where the
            shapes leave that open.

    Returns:
        A report of what was recognised.

    Raises:
        UserError: the source is not a temporal model's, what a file does not tell was not given, or
            the destination exists.
    """
    source, destination = os.fspath(source), os.fspath(destination)
    _refuse_taken(destination)
    if _is_bin(source) == _is_bin(destination):
        kind = "files" if _is_bin(source) else "checkpoint directories"
        raise UserError(
            f"{source} and {destination} are both {kind}; one of SOURCE and DESTINATION must end "
            "in .bin."
        )
    if not _is_bin(source):
        given = {"causal": causal, "layout": keypoint_layout, "skeleton": skeleton, "dense": dense}
        told = [name for name, value in given.items() if value is not None]
        if told:
            raise UserError(f"{source} tells its {told[0]} itself; leave out --{told[0]}.")
        return _export(source, destination)
    if causal is None:
        raise UserError(
            f"{source} does not tell whether it is causal, and would give wrong poses if that were "
            "wrong: give --causal if it was trained with --causal, else --nocausal."
        )
    if keypoint_layout is None:
        raise UserError(
            f"{source} does not tell which keypoints it reads; give --layout, for example "
            "--layout=h36m17 for CPN or ground truth, --layout=coco17 for Detectron."
        )
    about = {"keypoint_layout": keypoint_layout, "skeleton": skeleton or H36M_17.name}
    return _import(source, destination, causal=causal, dense=dense, about=about)


def _import(
    source: str, destination: str, *, causal: bool, dense: bool | None, about: dict[str, str]
) -> str:
    content = read_bin(source)
    pose, path = content["model_pos"], content["model_traj"]
    config = recognise(pose, causal=causal, dense=dense, **about)
    trees = {POSE: from_torch(pose)}
    if path is not None:
        of_path = recognise(path, causal=causal, dense=dense, **{**about, "skeleton": None})
        expected = dataclasses.replace(config, joints_out=1)
        faults = differences(to_dict(expected), to_dict(of_path), path="trajectory")
        if faults:
            raise UserError(
                f"{source}: the trajectory network is not of the size of the pose network "
                f"({'; '.join(faults)}); both must be of one run."
            )
        trees[TRAJECTORY] = from_torch(path)
    state = {
        "params": {name: params for name, (params, _) in trees.items()},
        "model_state": {name: statistics for name, (_, statistics) in trees.items()},
    }
    meta = {
        "converted_from": source,
        "model": to_dict(config),
        "trajectory": TRAJECTORY in trees,
        **about,
        # The original always divides by the width; the rate of its videos is not in the file.
        "longest_side": False,
        "fps": None,
    }
    save_once(destination, jax.tree.map(jnp.asarray, state), meta)
    return _report(config, about, list(trees), source, destination)


def _export(source: str, destination: str) -> str:
    lifter = load_lifter(source)
    states = {name: to_torch(lifter.params[name], lifter.state[name]) for name in lifter.params}
    write_bin(destination, states[POSE], states.get(TRAJECTORY))
    about = {"keypoint_layout": lifter.keypoint_layout.name, "skeleton": lifter.skeleton.name}
    report = _report(lifter.model, about, list(states), source, destination)
    if lifter.longest_side:
        report += (
            "\nIt was trained on keypoints in units of the image's longest side; the original "
            "divides by the width, which is the same unless images are upright."
        )
    return report


def _report(
    config: TemporalConfig, about: dict[str, str], networks: list[str], source: str, to: str
) -> str:
    kind = "causal" if config.causal else "symmetric"
    widths = ",".join(map(str, config.widths))
    return (
        f"{' and '.join(networks)}: {kind}{', dense' if config.dense else ''}, widths {widths} "
        f"({config.receptive_field} frames), {config.channels} channels, "
        f"{about['keypoint_layout']} ({config.features} numbers per keypoint) -> "
        f"{about['skeleton']}\n{config.num_params:,} parameters of the pose network: "
        f"{source} -> {to}"
    )


def _is_bin(path: str) -> bool:
    return path.endswith((".bin", ".pt", ".pth"))


def _refuse_taken(path: str) -> None:
    """An empty directory holds nothing to lose; anything else is in the way."""
    there = epath.Path(path)
    if not (there.is_dir() and not any(there.iterdir())):
        refuse_existing(path)


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    # Weights are only moved: an accelerator would have to be waited for, or may be in use.
    jax.config.update("jax_platforms", "cpu")
    source, destination = command_line.parse(
        sys.argv, __doc__ or "", arguments=("SOURCE", "DESTINATION")
    )
    report = convert(
        source,
        destination,
        causal=_CAUSAL.value,
        keypoint_layout=_LAYOUT.value,
        skeleton=_SKELETON.value,
        dense=_DENSE.value,
    )
    sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    sys.exit(command_line.exit_code(main))
