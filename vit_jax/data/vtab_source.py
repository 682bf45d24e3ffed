"""The examples of a VTAB task: a TFDS data set, with VTAB's splits and labels."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from train_jax.errors import UserError
from vit_jax.data.decode import Picture
from vit_jax.data.sources import Example, Source
from vit_jax.data.tfds_source import open_builder
from vit_jax.vtab import VtabTask, task_named, tfds_split


class VtabSource:
    """One split of a task; images stay encoded, except those that are not stored as grey levels."""

    class_names = ()
    max_labels = 1

    def __init__(self, name: str, data: Any, task: VtabTask) -> None:
        """Wraps the serialized records of a TFDS data source.

        Args:
            name: of the task.
            data: what `builder.as_data_source` returned.
            task: of that name.
        """
        self._name, self._data = name, data
        self.num_classes = task.num_classes
        info = data.dataset_info
        self._where = f"{info.full_name} {data.split}"
        self.fingerprint = f"vtab:{name}:{info.full_name}:{data.split}:n={len(data)}"

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        task, record = task_named(self._name), self._record(index)
        image: Any = record["image"].bytes_list.value[0]
        if task.levels < 255:
            image = Picture(image).pixels * np.uint8(255 // task.levels)
        return {
            "image": image,
            "labels": [self._label(task, record)],
            "name": f"example {index} of {self._where} (VTAB's {self._name})",
        }

    def _record(self, index: int) -> Any:
        return tf_example_pb2.Example.FromString(self._data[index]).features.feature  # pyright: ignore

    def _label(self, task: VtabTask, record: Any) -> int:
        values = {}
        for name in task.features:
            feature = record[name]
            kind = feature.WhichOneof("kind") or "float_list"
            values[name] = np.array(getattr(feature, kind).value)
        return task.label(values)

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example; reads the whole split."""
        task = task_named(self._name)
        return [[self._label(task, self._record(i))] for i in range(len(self))]


def open_vtab(name: str, split: str, *, data_dir: str | None) -> Source:
    """Opens a split of a task; see `vit_jax.data.sources.open_source`."""
    task = task_named(name)
    builder = open_builder(task.data, data_dir=data_dir)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"tfds:{task.data} in {builder.data_path} is not stored as ArrayRecord: prepare it in "
            f"another directory with `python -m vit_jax.data.prepare tfds:{task.data} "
            "--data_dir=DIRECTORY`."
        )
    sizes = {key: found.num_examples for key, found in builder.info.splits.items()}
    data = builder.as_data_source(
        split=tfds_split(task, split, sizes),
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    )
    return VtabSource(name, data, task)
