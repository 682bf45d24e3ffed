"""Downloads a TFDS data set and writes it in the format that training reads.

    python -m vit_jax.data.prepare tfds:cifar100 [--data_dir=/data/tfds]

Once per data set and machine (or shared directory). Data sets that TFDS may not download, such as
ImageNet, first want their archives in `DATA_DIR/downloads/manual`; TFDS says which.
"""

import sys
from collections.abc import Sequence

from train_jax import command_line
from train_jax.errors import UserError
from vit_jax.data import digits, tfds_source


def prepare(source: str, *, data_dir: str | None = None) -> str:
    """Prepares a data set unless it is there.

    Args:
        source: "tfds:NAME" or "digits".
        data_dir: directory of TFDS data sets; TFDS's own default if None.

    Returns:
        A line that says what there is now.

    Raises:
        UserError: there is no such data set, or it needs a package that is missing.
    """
    if source == "digits":
        directory = digits.prepare(data_dir)
        return tfds_source.prepare_tfds("digits", data_dir=directory)
    kind, _, name = source.partition(":")
    if kind != "tfds" or not name:
        raise UserError(f"'{source}' cannot be prepared: name tfds:NAME or digits.")
    return tfds_source.prepare_tfds(name, data_dir=data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_line.Parser("python -m vit_jax.data.prepare", __doc__)
    parser.add_argument("source", help="tfds:NAME or digits")
    parser.add_argument("--data_dir", help="directory of TFDS data sets")

    def command() -> None:
        options = parser.parse_args(arguments)
        sys.stdout.write(prepare(options.source, data_dir=options.data_dir) + "\n")

    return command_line.exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
