"""Hands a pose lifter over to other tools, its weights inside.

    python -m pose_jax.export --checkpoint=DIR --format=onnx --output=lifter.onnx
    python -m pose_jax.export --checkpoint=DIR --format=tflite --frames=243 --output=lifter.tflite

Formats: stablehlo (jax.export, for CPU, TPU and CUDA), onnx, and with TensorFlow installed
saved_model and tflite (one sequence of --frames at a time). The network maps whole sequences, of
any number and length (at least its receptive field), to a pose for every frame that has its whole
receptive field; the caller repeats the first and the last frame as the description beside the file
(OUTPUT.json) says. There, too: joints, units, normalisation. Frame after frame (streaming) stays
in JAX. Everything is computed in float32.
"""

import dataclasses
import os
import sys

import jax
import jax.numpy as jnp
from absl import flags, logging

from pose_jax.lifter import POSE, TRAJECTORY, Lifter, load_lifter, networks
from pose_jax.models import temporal
from pose_jax.onnx_temporal import temporal_graph
from train_jax import command_line
from train_jax import export as exports
from train_jax.config import to_dict
from train_jax.errors import UserError
from train_jax.export import Export, Format, define_flags, metadata_path, required_flags
from train_jax.onnx_graph import Graph


def export_of(lifter: Lifter, *, network: str = POSE, frames: int | None = None) -> Export:
    """The function of keypoints (batch, frames, joints, features) to poses, and its description.

    Args:
        lifter: the networks.
        network: ``pose`` or ``trajectory``.
        frames: their number, if it is fixed.

    Raises:
        UserError: there is no such network, or too few frames.
    """
    if network not in lifter.params:
        raise UserError("This lifter has no trajectory network; leave --network out.")
    config = networks(lifter.model, trajectory=lifter.has_trajectory)[network]
    config = dataclasses.replace(config, compute_dtype="float32")
    if frames is not None and frames < config.receptive_field:
        raise UserError(
            f"The network sees {config.receptive_field} frames; --frames={frames} is too few."
        )
    params, state = jax.tree.map(jnp.asarray, (lifter.params[network], lifter.state[network]))

    def poses(keypoints: jax.Array) -> jax.Array:
        return temporal.dilated(config, params, state, keypoints)[0]

    symbolic = frames is None
    return Export(
        function=poses,
        input_name="keypoints",
        input_shape=("batch", frames or "frames", config.joints_in, config.features),
        output_name="poses",
        constraints=(f"frames >= {config.receptive_field}",) if symbolic else (),
        about={
            "preprocessing": {
                "units": "pixels divided by half the image's "
                f"{'longest side' if lifter.longest_side else 'width'}, its centre at the origin",
                "repeat_first_frame": config.pad_before,
                "repeat_last_frame": config.pad_after,
                "frames_per_second": lifter.fps,
            },
            "poses": "metres in camera space"
            + (", relative to the root" if network == POSE else ": the root"),
            "keypoint_joints": list(lifter.keypoint_layout.joints),
            "pose_joints": list(lifter.skeleton.joints) if network == POSE else ["root"],
            "receptive_field": config.receptive_field,
            "model": to_dict(config),
            "parameters": config.num_params,
        },
    )


def write(
    lifter: Lifter,
    path: str | os.PathLike[str],
    kind: Format,
    *,
    network: str = POSE,
    frames: int | None = None,
) -> None:
    """Writes one format; see :func:`export_of`.

    Raises:
        UserError: the path is taken, or the format does not take this model.
    """

    def graph() -> Graph:
        if frames is not None:
            raise UserError("ONNX takes sequences of any length; leave --frames out.")
        config = networks(lifter.model, trajectory=lifter.has_trajectory)[network]
        return temporal_graph(config, lifter.params[network], lifter.state[network])

    export = export_of(lifter, network=network, frames=frames)
    exports.write(export, path, kind, graph=graph)


def _define_flags() -> None:
    define_flags("A run's directory, or one that was converted.")
    flags.DEFINE_enum(
        "network", POSE, [POSE, TRAJECTORY], "Which network: poses, or where the root is."
    )
    flags.DEFINE_integer(
        "frames", None, "Fixes the number of frames; any number unless given.", lower_bound=1
    )


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")
    command_line.parse(sys.argv, __doc__ or "", exports.__name__)
    checkpoint, kind, output = required_flags()
    lifter = load_lifter(checkpoint)
    write(lifter, output, kind, network=flags.FLAGS.network, frames=flags.FLAGS.frames)
    sys.stdout.write(f"{kind}: {output} and {metadata_path(output)}\n")


if __name__ == "__main__":
    _define_flags()
    sys.exit(command_line.exit_code(main))
