"""Makes files of poses, the only ones that training and evaluation read, from a data set.

    python -m pose_jax.prepare h36m     Human3.6M, licensed. Needs the poses ("D3 Positions") from
                                        vision.imar.ro/human3.6m, or data_3d_h36m.npz made of them
                                        by VideoPose3D; and that project's 2D detections.
    python -m pose_jax.prepare humaneva HumanEva-I, licensed. Needs data_3d_humaneva15.npz, or what
                                        VideoPose3D's MATLAB script exports from the data set of
                                        humaneva.is.tue.mpg.de; and that project's 2D detections.
    python -m pose_jax.prepare cmu      The open benchmark, free for all. Fetches motion capture
                                        from mocap.cs.cmu.edu, or takes .amc, .bvh or clip files.
    python -m pose_jax.prepare custom   Keypoints of your own video, as a 2D detector writes them.

Without a licence, `cmu` and experiments/pose/cmu.py run the same protocol on open data. Each source
tells its arguments and exact commands: python -m pose_jax.prepare h36m --help. What is written is
described in pose_jax/data/store.py; nothing is ever overwritten.
"""

import importlib
import sys
from collections.abc import Sequence

from train_jax import command_line
from train_jax.errors import UserError

#: Each is a module of this package, which only its own command imports.
SOURCES = ("h36m", "humaneva", "cmu", "custom")

_COMMAND = "python -m pose_jax.prepare"
_HELP = ("--help", "-help", "-h", "help")


def prepare(arguments: Sequence[str]) -> int:
    """The command.

    Args:
        arguments: the words after its name.

    Returns:
        The exit code.

    Raises:
        UserError: no known source, or what its module raises.
    """
    if arguments and arguments[0] in _HELP:
        sys.stdout.write(__doc__ or "")
        return 0
    if not arguments or arguments[0] not in SOURCES:
        given = f"there is no source {arguments[0]!r}" if arguments else "the source is missing"
        raise UserError(f"{_COMMAND}: {given}; give one of {', '.join(SOURCES)}, or --help.")
    module = importlib.import_module(f"pose_jax.prepare.{arguments[0]}")
    parser = command_line.Parser(f"{_COMMAND} {arguments[0]}", module.__doc__)
    module.add_arguments(parser)
    sys.stdout.write(f"{module.run(parser.parse_args(arguments[1:]))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.exit_code(lambda: prepare(sys.argv[1:])))
