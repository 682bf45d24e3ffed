"""What the commands that measure a checkpoint share: their flags, and the record of the result."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from train_jax.checkpoint import require_writable
from train_jax.errors import UserError
from train_jax.record import file_result, make_record
from train_jax.stored import as_path, find, read_meta
from vit_jax.init_from import is_published

# What is defined here belongs to the command, whose --help tells of it.
flags.disclaim_key_flags()


def define_flags() -> None:
    """Not on import, because other commands have flags of the same names."""
    flags.DEFINE_string(
        "checkpoint", None, "A run's directory, one of its checkpoints, or a published .npz file."
    )
    flags.DEFINE_string(
        "record", None, "A directory for the result record, in the place of the run's own."
    )


def named_checkpoint() -> str:
    """The checkpoint that the user named.

    Raises:
        UserError: there is none, or the directory for the record cannot be written.
    """
    given = flags.FLAGS
    if not given.checkpoint:
        raise UserError("--checkpoint is missing; name a run's directory or an .npz file.")
    if given.record is not None:
        require_writable(as_path(given.record))
    return given.checkpoint


def file_results(
    program: str,
    config: Any,
    results: Mapping[str, Mapping[str, float]],
    *,
    data: Mapping[str, Any] | None = None,
    multiply_adds: float | None = None,
) -> None:
    """Writes the result record of the checkpoint, where the user wants it or by its run.

    Args:
        program: the command.
        config: its config.
        results: by split or data set, then metric; ``examples`` among them.
        data: as for :func:`train_jax.record.make_record`.
        multiply_adds: likewise.

    Raises:
        UserError: it cannot be written where the user wants it.
    """
    checkpoint = flags.FLAGS.checkpoint
    published = is_published(checkpoint)
    made = make_record(
        program,
        config,
        results,
        meta={} if published else read_meta(checkpoint),
        checkpoint=checkpoint if published else str(find(checkpoint)),
        multiply_adds=multiply_adds,
        data=data,
    )
    file_result(made, flags.FLAGS.record)
