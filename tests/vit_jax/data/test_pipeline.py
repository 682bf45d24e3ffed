"""Batches: the same for any number of threads, processes and hosts; resumable; complete."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from train_jax.data.dataset import EvalData, TrainData
from train_jax.data.order import GlobalOrder
from train_jax.errors import UserError
from vit_jax.data.pipeline import DataConfig, data_source, eval_data, train_data
from vit_jax.data.preprocess import InceptionCrop, ResizeSmallCrop, Squash
from vit_jax.data.randaugment import RandAugment

NUM = 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i in range(NUM):
        directory = root / "train" / "abc"[i % 3]
        directory.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)
        noise[..., 0] = 10 * i  # tells the examples apart
        suffix = ".jpg" if i % 2 else ".png"
        cv2.imwrite(str(directory / f"{i}{suffix}"), cv2.blur(noise, (3, 3)))
    return root


@pytest.fixture
def config(folder) -> DataConfig:
    return DataConfig(
        source=f"folder:{folder}",
        split="train",
        preprocess=InceptionCrop(16),
        randaugment=RandAugment(2, 10),
        threads=2,
    )


def take(data: TrainData, steps: range, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    iterator = data.start(steps.start, rows)
    batches = [dict(next(iterator)) for _ in steps]
    iterator.close()  # pyright: ignore
    return batches


def assert_equal(one: Iterator, two: Iterator) -> None:
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_batches_are_uint8_images_and_padded_labels(config):
    [batch] = take(train_data(config, batch_size=8, seed=0), range(1), np.arange(8))
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 16, 16, 3), np.uint8)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((8, 1), np.int32)
    assert "mask" not in batch


def test_examples_come_in_the_global_order(config):
    data = train_data(config, batch_size=8, seed=3)
    source = data_source(config)
    labels = np.concatenate([b["labels"][:, 0] for b in take(data, range(6), np.arange(8))])
    order = GlobalOrder(NUM, 3).indices(0, 48)  # two epochs and a bit
    np.testing.assert_array_equal(labels, [source[i]["labels"][0] for i in order])
    assert data.examples_per_epoch == NUM


def test_resuming_in_the_middle_of_an_epoch_equals_not_stopping(config):
    data, rows = train_data(config, batch_size=8, seed=0), np.arange(8)
    whole = take(data, range(7), rows)
    assert_equal(whole[4:], take(data, range(4, 7), rows))
    again = train_data(dataclasses.replace(config, cache_mib=0), batch_size=8, seed=0)
    assert_equal(whole[4:], take(again, range(4, 7), rows))


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("cache_mib", [0, 256])
def test_threads_and_caching_change_nothing(config, threads, cache_mib):
    rows, other = np.arange(24), dataclasses.replace(config, threads=threads, cache_mib=cache_mib)
    expected = take(train_data(config, batch_size=24, seed=0), range(4), rows)
    assert_equal(expected, take(train_data(other, batch_size=24, seed=0), range(4), rows))


def test_worker_processes_change_nothing(config):
    other, rows = dataclasses.replace(config, workers=2), np.arange(24)
    expected = take(train_data(config, batch_size=24, seed=0), range(3, 7), rows)
    assert_equal(expected, take(train_data(other, batch_size=24, seed=0), range(3, 7), rows))


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hosts_load_slices_of_the_same_batch(config, hosts):
    data = train_data(config, batch_size=12, seed=0)
    expected = take(data, range(2, 5), np.arange(12))
    parts = [take(data, range(2, 5), rows) for rows in np.split(np.arange(12), hosts)]
    for key in ("image", "labels"):
        for step in range(3):
            union = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(union, expected[step][key])


def test_crops_and_augmentations_differ_between_epochs_and_seeds(config):
    images = []
    for seed in (0, 1):
        data = train_data(config, batch_size=NUM, seed=seed)
        epochs = take(data, range(2), np.arange(NUM))
        for k, batch in enumerate(epochs):
            back = np.argsort(GlobalOrder(NUM, seed).indices(k * NUM, (k + 1) * NUM))
            images.append(batch["image"][back])
    for i, one in enumerate(images):
        for two in images[:i]:
            same = [np.array_equal(a, b) for a, b in zip(one, two, strict=True)]
            assert sum(same) < 4  # operations that leave one colour may coincide


def test_fingerprint_follows_what_decides_the_batches(config):
    def of(batch_size: int = 8, seed: int = 0, **changes: object) -> str:
        changed = dataclasses.replace(config, **changes)  # pyright: ignore
        return train_data(changed, batch_size=batch_size, seed=seed).fingerprint

    assert of() == of(threads=7, workers=3, cache_mib=1, data_dir="/elsewhere")
    different = [
        of(),
        of(seed=1),
        of(batch_size=16),
        of(randaugment=None),
        of(preprocess=InceptionCrop(17)),
        of(split="train[:90%]"),
        of(classes=(0, 1)),
        of(classes=(1, 0)),
        of(shots=2),
    ]
    assert len(set(different)) == len(different)


def evaluate(data: EvalData, hosts: int) -> list[dict[str, np.ndarray]]:
    rows = np.split(np.arange(data.batch_size), hosts)
    passes = [list(data.start(r)) for r in rows]
    assert {len(batches) for batches in passes} == {data.num_batches}
    return [dict(batch) for batches in passes for batch in batches]


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 20, 24, 32])
def test_evaluation_counts_every_example_once(config, batch_size, hosts):
    config = dataclasses.replace(config, preprocess=Squash(16), randaugment=None)
    batches = evaluate(eval_data(config, batch_size=batch_size), hosts)
    mask = np.concatenate([b["mask"] for b in batches])
    images = np.concatenate([b["image"] for b in batches])
    labels = np.concatenate([b["labels"] for b in batches])
    assert mask.sum() == NUM
    assert len({image.tobytes() for image in images[mask]}) == NUM
    assert np.bincount(labels[mask, 0]).tolist() == [7, 7, 7]
    assert np.all(images[~mask] == 0)
    assert np.all(labels[~mask] == -1)


def test_random_evaluation_is_refused(config):
    with pytest.raises(UserError, match="must not be random"):
        eval_data(config, batch_size=8)
    squash = dataclasses.replace(config, preprocess=Squash(16))
    with pytest.raises(UserError, match="must not be random"):
        eval_data(squash, batch_size=8)


@pytest.fixture
def damaged(folder, tmp_path, config) -> tuple[DataConfig, set[str]]:
    """The same pictures, two of them unreadable."""
    names = set()
    for path in sorted(folder.rglob("*.*")):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        if path.stem in ("4", "7"):
            names.add(str(target))
            content = content[: len(content) // 2]
        target.write_bytes(content)
    return dataclasses.replace(config, source=f"folder:{tmp_path}", corrupt="skip"), names


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_stops_the_run_with_its_name(damaged, workers):
    config = dataclasses.replace(damaged[0], corrupt="stop", workers=workers)
    data = train_data(config, batch_size=NUM, seed=0)
    with pytest.raises(UserError, match=r"[47]\.(jpg|png): .*corrupt='skip'"):
        take(data, range(1), np.arange(NUM))


def test_corrupt_images_are_replaced_counted_and_named(damaged):
    config, names = damaged
    data, rows = train_data(config, batch_size=NUM, seed=0), np.arange(NUM)
    batches = take(data, range(3), rows)
    skipped = data.skipped()
    assert {line.split(": ")[0] for line in skipped} == names
    # Three epochs were asked for; further ones may have been begun.
    assert len(skipped) >= 6
    again = train_data(dataclasses.replace(config, threads=5), batch_size=NUM, seed=0)
    assert_equal(batches, take(again, range(3), rows))
    # The replacement is the next example of the data set, labels and all.
    source = data_source(config)
    order = GlobalOrder(NUM, 0).indices(0, NUM)
    for row, index in enumerate(order):
        bad = source[index]["name"] in names
        kept = source[(index + 1) % NUM if bad else index]
        if kept["name"] not in names:
            assert batches[0]["labels"][row, 0] == kept["labels"][0]


def test_corrupt_images_are_not_counted_in_evaluation(damaged):
    config = dataclasses.replace(damaged[0], preprocess=ResizeSmallCrop(20, 16), randaugment=None)
    data = eval_data(config, batch_size=8)
    for _ in range(2):
        batches = evaluate(data, 1)
        assert sum(int(b["mask"].sum()) for b in batches) == NUM - 2
    assert {line.split(": ")[0] for line in data.skipped()} == damaged[1]


def test_nothing_readable_ends_the_run(tmp_path, config):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "train" / "a" / f"{i}.jpg").write_bytes(b"\xff\xd8 no")
    config = dataclasses.replace(config, source=f"folder:{tmp_path}", corrupt="skip")
    with pytest.raises(UserError, match="No image"):
        take(train_data(config, batch_size=2, seed=0), range(1), np.arange(2))


class LabelSets:
    """A source with label sets, some of them empty."""

    num_classes, class_names, max_labels, fingerprint = 5, (), 2, "label sets"
    sets = ([1], [], [0, 4], [2, 3], [])

    def __len__(self):
        return len(self.sets)

    def __getitem__(self, index):
        image = np.full((4, 4, 3), index, np.uint8)
        return {"image": image, "labels": self.sets[index], "name": f"image {index}"}

    def labels(self):
        return list(self.sets)


def test_examples_without_labels_are_not_counted(monkeypatch):
    # As in ImageNet-ReaL, where an empty set means that nobody could tell.
    monkeypatch.setattr("vit_jax.data.pipeline.data_source", lambda config: LabelSets())
    config = DataConfig(source="sets", split="test", preprocess=Squash(4))
    [batch] = evaluate(eval_data(config, batch_size=8), 1)
    assert batch["mask"].tolist() == [True, False, True, True, False, False, False, False]
    assert batch["labels"][:5].tolist() == [[1, -1], [-1, -1], [0, 4], [2, 3], [-1, -1]]


def test_more_labels_than_expected_are_an_error(monkeypatch):
    source = LabelSets()
    source.max_labels = 1
    monkeypatch.setattr("vit_jax.data.pipeline.data_source", lambda config: source)
    config = DataConfig(source="sets", split="test", preprocess=Squash(4))
    with pytest.raises(UserError, match="image 2 has 2 labels: set max_labels"):
        evaluate(eval_data(config, batch_size=8), 1)


def test_threads_end_with_the_iterator(config):
    import threading

    iterator = train_data(config, batch_size=8, seed=0).start(0, np.arange(8))
    next(iterator)
    assert [t for t in threading.enumerate() if t.name.startswith("images")]
    iterator.close()  # pyright: ignore
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


def test_workers_end_when_their_parent_is_killed(folder, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        "import numpy as np\n"
        "from vit_jax.data.pipeline import DataConfig, train_data\n"
        "from vit_jax.data.preprocess import InceptionCrop\n"
        "if __name__ == '__main__':\n"
        "    config = DataConfig(source=sys.argv[1], split='train', workers=2,\n"
        "                        preprocess=InceptionCrop(16))\n"
        "    batches = train_data(config, batch_size=16, seed=0).start(0, np.arange(16))\n"
        "    next(batches)\n"
        "    print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script), f"folder:{folder}"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in ended.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] != "Z"
    except OSError:
        return False
