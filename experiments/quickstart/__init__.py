"""The main job in small: ``python -m experiments.quickstart``."""
