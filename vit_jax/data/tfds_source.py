"""TFDS data sets in the ArrayRecord format, read without TensorFlow."""

import difflib
from typing import Any

import numpy as np

from train_jax.errors import UserError
from vit_jax.data.sources import Example, Source

# Enough for ImageNet-ReaL and Open Images; the width of the label array on the device.
_DEFAULT_MAX_LABELS = 16
# Of several label features, the ones that are meant unless the config says otherwise.
_PREFERRED = ("real_label", "label", "labels")
_NAMES = ("file_name", "filename", "image/filename", "image_id", "id")


class TfdsSource:
    """One split of a prepared TFDS data set; images stay encoded."""

    def __init__(
        self, data: Any, features: Any, *, keys: tuple[str, str, str | None], max_labels: int | None
    ) -> None:
        """Wraps a TFDS data source.

        Args:
            data: what `builder.as_data_source` returned.
            features: the features of the data set.
            keys: names of the features with the image, the labels and the file name.
            max_labels: see `open_source`.
        """
        self._data, self._keys = data, keys
        label = features[keys[1]]
        self._multi_hot = not _is_class(label) and not _is_class_sequence(label)
        self.num_classes, self.class_names = _classes(label)
        single = _is_class(label)
        self.max_labels = 1 if single else max_labels or _DEFAULT_MAX_LABELS
        info, split = data.dataset_info, data.split
        self._where = f"{info.full_name} {split}"
        self.fingerprint = f"tfds:{info.full_name}:{split}:n={len(data)}:{keys[1]}"

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        record = self._data[index]
        image, label, name = self._keys
        called = f"example {index}"
        if name is not None:
            text = record[name]
            called += f" ({text.decode(errors='replace') if isinstance(text, bytes) else text})"
        return {
            "image": record[image],
            "labels": self._labels(record[label]),
            "name": f"{called} of {self._where}",
        }

    def _labels(self, value: Any) -> list[int]:
        if self._multi_hot:
            return [int(i) for i in np.flatnonzero(value)]
        # TFDS marks unknown labels (hidden test sets) as -1.
        return [int(i) for i in np.atleast_1d(value) if i >= 0]

    def labels(self) -> list[list[int]]:
        """Returns the labels of every example; reads the whole split."""
        return [self._labels(self._data[i][self._keys[1]]) for i in range(len(self))]


def open_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | None,
    label_key: str | None = None,
    max_labels: int | None = None,
) -> Source:
    """Opens a prepared TFDS data set; see `vit_jax.data.sources.open_source`."""
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir=data_dir)
    _check_prepared(builder, name, data_dir=data_dir)
    features = builder.info.features
    image = _one_of(name, features, label_key=None, what="image")
    label = _one_of(name, features, label_key=label_key, what="label")
    called = next((key for key in _NAMES if key in features), None)
    skip = {
        key: tfds.decode.SkipDecoding()
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    _check_split(builder, name, split)
    data = builder.as_data_source(split=split, decoders=skip)  # pyright: ignore[reportCallIssue]
    return TfdsSource(data, features, keys=(image, label, called), max_labels=max_labels)


def _check_split(builder: Any, name: str, split: str) -> None:
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"tfds:{name} has no split '{split}': its splits are "
            f"{', '.join(builder.info.splits)}, with slices as in train[:98%] and sums as in "
            "train+test."
        ) from error
    if not count:
        raise UserError(f"The split '{split}' of tfds:{name} holds no examples: choose another.")


def _builder(name: str, *, data_dir: str | None, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.split("/")[0].split(":")[0], known, 3)
        hint = f", did you mean {' or '.join(close)}?" if close else "."
        where = data_dir or "the default data directory"
        raise UserError(f"TFDS knows no data set '{name}', nor is it in {where}{hint}") from error
    except ImportError as error:
        raise UserError(_needs_package(name, error)) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"TFDS cannot open '{name}': {str(error).splitlines()[0]}") from error


def _check_prepared(builder: Any, name: str, *, data_dir: str | None) -> None:
    import tensorflow_datasets as tfds

    option = f" --data_dir={data_dir}" if data_dir else ""
    if not builder.is_prepared():
        raise UserError(
            f"tfds:{name} is not prepared in {builder.data_path}: run `python -m "
            f"vit_jax.data.prepare tfds:{name}{option}` first."
        )
    found = builder.info.file_format
    if found not in (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET):
        raise UserError(
            f"tfds:{name} in {builder.data_path} is stored as {found.value}, which needs "
            "TensorFlow to read: prepare it in another directory with `python -m "
            f"vit_jax.data.prepare tfds:{name} --data_dir=DIRECTORY`."
        )


def prepare_tfds(name: str, *, data_dir: str | None) -> str:
    """Downloads and writes a data set unless it is there; see `vit_jax.data.prepare`."""
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        builder = _builder(name, data_dir=data_dir, file_format="array_record")
        try:
            builder.download_and_prepare()
        except ImportError as error:
            raise UserError(_needs_package(name, error)) from error
        except (AssertionError, OSError, tfds.download.DownloadError) as error:
            raise UserError(f"tfds:{name} could not be prepared: {error}") from error
    _check_prepared(builder, name, data_dir=data_dir)
    splits = ", ".join(f"{k} ({v.num_examples})" for k, v in builder.info.splits.items())
    return f"tfds:{name} is in {builder.data_path}: {splits}"


def _needs_package(name: str, error: ImportError) -> str:
    return (
        f"tfds:{name} needs another package ({error}): pip install vit-pose-jax[tensorflow], or "
        "the package that is named."
    )


def _one_of(name: str, features: Any, *, label_key: str | None, what: str) -> str:
    """The feature that holds the image or the labels."""
    import tensorflow_datasets as tfds

    if what == "image":
        # Segmentation masks are images, too.
        found = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        found = ["image"] if "image" in found else found
    else:
        found = [k for k, f in features.items() if _num_classes(f)]
        if label_key is not None:
            found = [k for k in found if k == label_key]
        elif len(found) > 1:
            found = [k for k in _PREFERRED if k in found][:1] or found
    if len(found) != 1:
        raise UserError(
            f"tfds:{name} has {len(found)} features that may be the {what}"
            + (f" ({', '.join(found)})" if found else "")
            + (f" named '{label_key}'" if label_key else "")
            + f"; its features are {', '.join(features)}: set label_key."
        )
    return found[0]


def _is_class(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.ClassLabel)


def _is_class_sequence(feature: Any) -> bool:
    return _is_class(getattr(feature, "feature", None))


def _classes(feature: Any) -> tuple[int, tuple[str, ...]]:
    if not _is_class(feature) and not _is_class_sequence(feature):
        return _num_classes(feature), ()
    inner = feature if _is_class(feature) else feature.feature
    names = inner.names if inner.num_classes else ()
    return inner.num_classes, tuple(names or ())


def _num_classes(feature: Any) -> int:
    """Number of classes of a label feature; 0 for features of other kinds."""
    if _is_class(feature):
        return feature.num_classes or 0
    if _is_class_sequence(feature):
        return feature.feature.num_classes or 0
    return _num_multi_hot(feature)


def _num_multi_hot(feature: Any) -> int:
    import tensorflow_datasets as tfds

    if type(feature) is not tfds.features.Tensor:
        return 0
    # A multi-hot vector; subclasses of Tensor are boxes, images and the like.
    shape: Any = feature.shape
    dtype: Any = feature.np_dtype
    if len(shape) != 1:
        return 0
    return (shape[0] or 0) if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else 0
