"""Several runs by one command: sweeps over learning rates."""
