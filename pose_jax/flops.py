"""How many products the networks of a run take, counted from their sizes."""

import dataclasses

from pose_jax.models.config import TemporalConfig
from pose_jax.train_config import PoseTrainConfig


def multiply_adds(config: PoseTrainConfig) -> int:
    """Multiply-adds of the products of a forward pass for one example, of all networks."""
    models = [config.model]
    if config.has_trajectory:
        models.append(dataclasses.replace(config.model, joints_out=1))
    kinds = 2 if config.semi is not None else 1
    return kinds * sum(_window(model, config.chunk) for model in models)


def _window(model: TemporalConfig, chunk: int) -> int:
    if chunk == 1 and not model.dense:
        return model.multiplications_per_window
    left, total = model.receptive_field - 1 + chunk, 0
    inputs = model.joints_in * model.features
    for i, (width, dilation) in enumerate(model.taps):
        left -= (width - 1) * dilation
        total += left * (width * inputs + (model.channels if i else 0)) * model.channels
        inputs = model.channels
    return total + left * 3 * model.joints_out * model.channels
