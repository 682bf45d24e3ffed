"""The flag ``--config``, which every command that takes an experiment file has."""

from typing import Any

from ml_collections import config_flags

from train_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file with its arguments, such as experiments/vit/pretrain.py:L/16,imagenet21k; "
    "override its keys with --config.key=value.",
    lock_config=True,
)


def named_config() -> Any:
    """The ``ConfigDict`` of the experiment that the command line names.

    Raises:
        UserError: it names none.
    """
    if CONFIG.value is None:
        raise UserError("--config is missing; name an experiment file, e.g. --config=FILE.py:ARGS.")
    return CONFIG.value
