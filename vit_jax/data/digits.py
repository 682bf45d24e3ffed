"""scikit-learn's handwritten digits as a TFDS data set: real images that need no download.

1,797 grey pictures of 8x8 pixels (the test part of the UCI "optical recognition of handwritten
digits" data), written as PNG into ArrayRecord files: the very path that ImageNet takes.
"""

import fcntl
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import DATA_DIR

from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError

_NUM_TEST = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, 1,437 for training and 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Splits by a seeded permutation."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        images, labels = _load()
        # The file is sorted by writer: a permutation makes the parts alike.
        order = GlobalOrder(len(labels), seed=0).indices(0, len(labels))
        parts = {"train": order[_NUM_TEST:], "test": order[:_NUM_TEST]}
        return {name: self._generate_examples(images, labels, part) for name, part in parts.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, part: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in part:
            png = cv2.imencode(".png", images[i])[1].tobytes()
            yield int(i), {"image": io.BytesIO(png), "label": int(labels[i])}


def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "The digits come with scikit-learn: pip install vit-pose-jax[quickstart]."
        ) from error
    data: Any = load_digits()
    # Sixteen grey levels and white.
    return np.round(data.images * (255 / 16)).astype(np.uint8), data.target


def prepare(data_dir: str | None) -> str:
    """Writes the data set into `data_dir` unless it is there.

    Args:
        data_dir: directory of TFDS data sets; TFDS's own default if None.

    Returns:
        The directory.
    """
    if data_dir and "://" in data_dir:
        raise UserError(f"The digits are written to a local directory, not to {data_dir}.")
    directory = Path(data_dir or DATA_DIR).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".digits.lock").open("w")
    except OSError as error:
        raise UserError(f"Data sets cannot be written to {directory}: {error}.") from error
    # Several processes of one run may come here at once.
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder = Digits(data_dir=str(directory), file_format="array_record")
        if not builder.is_prepared():
            tfds.disable_progress_bar()
            builder.download_and_prepare()
    return str(directory)
