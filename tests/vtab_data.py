"""TFDS data sets of VTAB's names and features, with a few random examples."""

import io

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vit_jax import vtab

# Eight examples to train on and two to choose on: what matters is that none is in two places.
FEW = {"train": 40, "validation": 5, "test": 12}


def use_few(monkeypatch):
    """Makes a task's thousand examples ten."""
    monkeypatch.setattr(vtab, "TRAIN", 8)
    monkeypatch.setattr(vtab, "VAL", 2)


def example_of(feature, rng, i):
    """Something of a TFDS feature's kind."""
    if isinstance(feature, tfds.features.Image):
        channels = feature.shape[-1]
        height, width = (n or 20 for n in feature.shape[:2])
        # The upper left corner tells examples apart.
        image = rng.integers(0, 2 if channels == 1 and height == 64 else 256, (height, width, 3))
        image = np.uint8(image[..., :channels])
        return io.BytesIO(cv2.imencode(".png", image)[1].tobytes())
    if isinstance(feature, tfds.features.ClassLabel):
        return i % feature.num_classes
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: example_of(value, rng, i) for key, value in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        return [example_of(feature.feature, rng, i + k) for k in range(3 + i % 5)]
    if isinstance(feature, tfds.features.Text):
        return str(i)
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(0.1, 0.1, 0.5, 0.5)
    return np.float32(rng.uniform(1, 30, feature.shape))


def make(name, data_dir, counts=FEW):
    """The TFDS data set of a name, of random examples with its very features."""
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record", try_gcs=False)

    def generate(split):
        rng = np.random.default_rng(len(split))
        features = builder.info.features
        for i in range(counts[split]):
            yield i, {key: example_of(value, rng, i) for key, value in features.items()}

    builder._split_generators = lambda manager: {split: generate(split) for split in counts}
    tfds.disable_progress_bar()
    builder.download_and_prepare()
