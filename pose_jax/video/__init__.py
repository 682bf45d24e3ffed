"""From a video to the 3D motion of the people in it; the command is `python -m pose_jax.video`."""
