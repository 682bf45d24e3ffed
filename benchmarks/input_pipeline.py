"""How many JPEG photographs a core turns into training images, beside tf.data and Grain.

    python benchmarks/input_pipeline.py [--tf_python=/path/to/env/with/tensorflow/bin/python]

Pictures of 500x375 and 70 to 120 kB are made on the spot (scikit-image's photographs where that is
installed, noise with the spectrum of photographs otherwise), held in memory by everybody, cropped
as in Inception (5 to 100 % of the area), resized to 224x224 and batched as uint8. Pipelines take
turns, so that a busy machine is equally busy for all; printed are medians over the rounds, per
second and per CPU-second (all threads counted), and ratios to tf.data in the same round.
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Runs from a checkout that nobody has installed, in environments with nothing but TensorFlow.
sys.path.insert(0, str(Path(__file__).parents[1]))

SIZE = 224
HEIGHT, WIDTH = 375, 500
KILOBYTES = (70, 120)


def photographs(count: int) -> Iterator[Any]:
    """Yields pictures uint8 (375, 500, 3)."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    try:
        photos: Any = importlib.import_module("skimage.data")
        originals = [photos.astronaut(), photos.chelsea(), photos.coffee(), photos.cat()]
    except (ImportError, AttributeError, OSError):
        originals = []
    for i in range(count):
        if originals:
            photo = originals[i % len(originals)]
            scale = rng.uniform(1.05, 1.5) * max(HEIGHT / photo.shape[0], WIDTH / photo.shape[1])
            large = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            top = rng.integers(large.shape[0] - HEIGHT + 1)
            left = rng.integers(large.shape[1] - WIDTH + 1)
            yield np.ascontiguousarray(large[top : top + HEIGHT, left : left + WIDTH])
        else:
            fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
            radius = np.maximum(np.hypot(fy, fx), 1 / WIDTH)
            spectrum = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH))) / radius**1.1
            planes = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
            planes /= planes.std(axis=(1, 2), keepdims=True)
            # Colour of photographs varies less than brightness, and more smoothly.
            light, chroma = planes[0], 0.25 * planes[1:]
            rgb = np.stack([light + chroma[0], light - 0.5 * chroma.sum(0), light + chroma[1]], -1)
            yield np.clip(127 + 50 * rgb, 0, 255).astype(np.uint8)


def make_jpegs(count: int) -> list[bytes]:
    """Encodes pictures, each at the quality that gives a size drawn from `KILOBYTES`."""
    import numpy as np
    import simplejpeg

    rng = np.random.default_rng(1)
    files = []
    for image in photographs(count):
        target = 1000 * rng.uniform(*KILOBYTES)
        low, high = 5, 98
        while low < high:
            middle = (low + high + 1) // 2
            size = len(simplejpeg.encode_jpeg(image, quality=middle, colorsubsampling="420"))
            low, high = (middle, high) if size <= target else (low, middle - 1)
        files.append(simplejpeg.encode_jpeg(image, quality=low, colorsubsampling="420"))
    return files


def measure(
    batches: Iterator[Any], *, images_of: Callable[[Any], int], seconds: float
) -> tuple[float, float]:
    """Runs an iterator; returns images per second and per CPU-second of this process."""
    for _ in range(3):  # buffers are full, threads are running
        next(batches)
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        count += images_of(next(batches))
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu)


class Memory:
    """A data set of encoded images in memory."""

    num_classes, class_names, max_labels, fingerprint = 10, (), 1, "memory"

    def __init__(self, files: list[bytes]) -> None:
        """Keeps the files."""
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return {"image": self.files[index], "labels": [index % 10], "name": str(index)}

    def labels(self) -> list[list[int]]:
        """Returns the labels of all images."""
        return [[i % 10] for i in range(len(self))]


def ours(files: list[bytes], *, batch: int, threads: int, fast_dct: bool) -> Iterator[Any]:
    """Batches of vit_jax.data."""
    import numpy as np

    from vit_jax.data import pipeline
    from vit_jax.data.preprocess import InceptionCrop

    config = pipeline.DataConfig(
        source="memory",
        split="train",
        preprocess=InceptionCrop(SIZE),
        threads=threads,
        fast_dct=fast_dct,
        cache_mib=0,
    )
    pipeline.data_source = lambda config: Memory(files)  # pyright: ignore
    return pipeline.train_data(config, batch_size=batch, seed=0).start(0, np.arange(batch))


def grains(files: list[bytes], *, batch: int, threads: int) -> Iterator[Any]:
    """The same work on each image, ordered and batched by Grain."""
    import numpy as np
    from absl import flags

    from train_jax.data.draws import Draws
    from vit_jax.data.preprocess import InceptionCrop, preprocess

    grain: Any = importlib.import_module("grain")
    flags.FLAGS.mark_as_parsed()
    config = InceptionCrop(SIZE)

    def example(data: bytes, rng: np.random.Generator) -> dict[str, Any]:
        draws = Draws(int(rng.integers(1 << 62)))
        return {"image": preprocess(config, data, draws=draws), "labels": np.zeros(1, np.int32)}

    images = grain.MapDataset.source(files).seed(0).shuffle().repeat()
    examples = images.random_map(example).batch(batch)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    return iter(examples.to_iter_dataset(options))


def tensorflows(files: list[bytes], *, batch: int, accurate: bool) -> Iterator[Any]:
    """The usual tf.data pipeline: fused decoding and cropping, threads by its own choice."""
    tf: Any = importlib.import_module("tensorflow")
    method = "INTEGER_ACCURATE" if accurate else ""

    def example(data: Any) -> Any:
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4], tf.float32),
            area_range=(0.05, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method=method)
        return tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8)

    data = tf.data.Dataset.from_tensor_slices(files).repeat().shuffle(len(files))
    data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(data.batch(batch).prefetch(2))


def run_one(name: str, files: list[bytes], arguments: argparse.Namespace) -> tuple[float, float]:
    """Measures one pipeline in this process."""
    batch, threads = arguments.batch, arguments.threads
    if name.startswith("tf.data"):
        batches = tensorflows(files, batch=batch, accurate="accurate" in name)
        count: Callable[[Any], int] = lambda images: int(images.shape[0])  # noqa: E731
    elif name.startswith("Grain"):
        batches = grains(files, batch=batch, threads=threads)
        count = lambda item: len(item["image"])  # noqa: E731
    else:
        batches = ours(files, batch=batch, threads=threads, fast_dct="fast" in name)
        count = lambda item: len(item["image"])  # noqa: E731
    return measure(batches, images_of=count, seconds=arguments.seconds)


def stages(files: list[bytes]) -> dict[str, float]:
    """Returns microseconds per image of each part of the work, in one thread."""
    import numpy as np
    import simplejpeg

    from train_jax.data.draws import Draws
    from train_jax.data.order import GlobalOrder
    from vit_jax.data.decode import Picture
    from vit_jax.data.preprocess import InceptionCrop, sample_crop
    from vit_jax.data.resize import resize, to_uint8

    config, out = InceptionCrop(SIZE), np.empty((SIZE, SIZE, 3), np.uint8)
    boxes = [sample_crop(config, HEIGHT, WIDTH, draws=Draws(i)) for i in range(len(files))]
    crops = [Picture(f).crop(*b) for f, b in zip(files, boxes, strict=True)]
    floats = [crop.astype(np.float32) for crop in crops]
    sized = [resize(x, (SIZE, SIZE), method="bilinear") for x in floats]
    order = GlobalOrder(len(files), 0)

    def each(function: Callable[..., Any], *lists: Any) -> float:
        began = time.process_time()
        for items in zip(*lists, strict=True):
            function(*items)
        return 1e6 * (time.process_time() - began) / len(files)

    return {
        "whole picture decoded (for comparison)": each(simplejpeg.decode_jpeg, files),
        "decode down to the lower edge of the crop": each(
            lambda f, b: Picture(f).crop(*b), files, boxes
        ),
        "crop to float32": each(lambda c: c.astype(np.float32), crops),
        "resize": each(lambda x: resize(x, (SIZE, SIZE), method="bilinear"), floats),
        "round to uint8": each(lambda x: to_uint8(x, out=out), sized),
        "header and random rectangle": each(
            lambda f, i: sample_crop(config, *Picture(f).size, draws=Draws(0, i)),
            files,
            range(len(files)),
        ),
        "order (batches of 8 indices)": each(
            lambda i: order.indices(8 * i, 8 * i + 8) if i % 8 == 0 else None, range(len(files))
        ),
    }


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tf_python", help="interpreter with TensorFlow; this one if it has it")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=5.0, help="per pipeline and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, folder = arguments.child
        files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        print(json.dumps(run_one(name, files, arguments)))
        return
    files = make_jpegs(arguments.images)
    sizes = sorted(len(f) / 1000 for f in files)
    print(
        f"{len(files)} JPEG files of {WIDTH}x{HEIGHT}, {statistics.mean(sizes):.0f} kB on average "
        f"({sizes[0]:.0f} to {sizes[-1]:.0f}); batch {arguments.batch}, {arguments.threads} threads"
    )
    report(compare(files, arguments))
    print("\nWhere a core's time goes, microseconds per image in one thread:")
    for name, microseconds in stages(files).items():
        print(f"  {name:45s} {microseconds:7.0f}")


def compare(files: list[bytes], arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Measures all pipelines that can be run, in turn, each in a process of its own."""
    python = {"vit_jax.data": sys.executable, "vit_jax.data, fast DCT": sys.executable}
    if _has("grain"):
        python["Grain, same work per image"] = sys.executable
    if arguments.tf_python or _has("tensorflow"):
        for name in ("tf.data", "tf.data, accurate DCT"):
            python[name] = arguments.tf_python or sys.executable
    else:
        print("TensorFlow is not installed: name an interpreter that has it with --tf_python.")
    results: dict[str, list[Any]] = {name: [] for name in python}
    with tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate(files):
            (Path(folder) / f"{i:06d}.jpg").write_bytes(file)
        for _ in range(arguments.rounds):
            for name, interpreter in python.items():
                results[name].append(_child(interpreter, name, folder, arguments))
    return results


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _child(interpreter: str, name: str, path: str, arguments: argparse.Namespace) -> Any:
    options = [
        f"--{key}={getattr(arguments, key)}" for key in ("batch", "threads", "seconds", "rounds")
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [interpreter, __file__, "--child", name, path, *options],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def report(results: dict[str, list[Any]]) -> None:
    """Prints medians and, where tf.data ran, the median of the ratios to it in the same round."""
    print(f"\n{'pipeline':30s} {'images/s':>9s} {'per CPU-s':>10s} {'to tf.data, per CPU-s':>22s}")
    for name, rounds in results.items():
        per_second, per_cpu = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        ratio = ""
        if "tf.data" in results:
            ratios = [r[1] / t[1] for r, t in zip(rounds, results["tf.data"], strict=True)]
            ratio = f"{statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:30s} {per_second:9.0f} {per_cpu:10.0f} {ratio:>22s}")


if __name__ == "__main__":
    main()
