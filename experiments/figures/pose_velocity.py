"""The velocity error of pose lifters by action (VideoPose3D paper, Table 2).

    python -m experiments.figures.pose_velocity
    python -m experiments.figures.pose_velocity --results="27 frames=runs/27,one frame=runs/1"

MPJVE, in mm per frame: how far the estimated motion from one frame to the next is off. In the
paper 243 frames bring it from 11.6 to 2.8. Drawn are results of `python -m pose_jax.evaluate`, and
the paper's values as by experiments.figures.pose_actions.

Written are figures/pose_velocity.png, .pdf and .csv.
"""

from absl import flags

from experiments.figures import canvas, measured
from experiments.figures.pose_actions import compared, draw


def _command() -> canvas.Drawing:
    return draw(compared(measured.read_results(flags.FLAGS.results), "mpjve"), "mpjve")


if __name__ == "__main__":
    measured.define_flags()
    canvas.launch(_command, __doc__ or "", name="pose_velocity", flags_of=(measured.__name__,))
