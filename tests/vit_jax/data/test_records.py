"""Record files of our own: random access, label sets, splits, damage."""

import dataclasses
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from configs import parsed
from tensorflow_datasets.proto import tf_example_pb2

from train_jax.errors import UserError
from vit_jax.data.pipeline import DataConfig, data_source, eval_data, train_data
from vit_jax.data.preprocess import Squash
from vit_jax.data.sources import open_source
from vit_jax.task import ViTTrainConfig

KINDS = ("array_record", "tfrecord")
LABELS = ([0], [2, 1], [], [1], [0, 1, 2])


def png(level: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 8, 3), level, np.uint8))[1].tobytes()


def record(i: int, **changes) -> bytes:
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["image/encoded"].bytes_list.value.append(changes.get("image", png(i)))
    features["image/filename"].bytes_list.value.append(f"{i}.png".encode())
    key = changes.get("key", "image/class/label")
    features[key].int64_list.value.extend(changes.get("labels", LABELS[i % 5]))
    return example.SerializeToString()


def checksum(data: bytes) -> bytes:
    """CRC-32C bit by bit (polynomial 0x1EDC6F41, reflected), masked as TFRecord asks."""
    crc = 0xFFFFFFFF
    for bit in (byte >> k & 1 for byte in data for k in range(8)):
        crc = (crc >> 1) ^ (0x82F63B78 if (crc ^ bit) & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32).to_bytes(4, "little")


def write(path: Path, records: list[bytes]) -> None:
    if path.name.endswith(".tfrecord"):
        with path.open("wb") as file:
            for data in records:
                length = len(data).to_bytes(8, "little")
                file.write(length + checksum(length) + data + checksum(data))
    else:
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for data in records:
            writer.write(data)
        writer.close()


def make(root: Path, kind: str, records: list[bytes] | None = None) -> str:
    """Eleven records of a split `train` in three files, four of `val`; the source's name."""
    (root / "labels.txt").write_text("cat\ndog\nfox\n")
    records = [record(i) for i in range(11)] if records is None else records
    cuts = {"train-0": records[:4], "train-1": records[4:5], "train-2": records[5:]}
    for name, some in {**cuts, "val-0": [record(i) for i in range(20, 24)]}.items():
        write(root / f"{name}.{kind}", some)
    return f"records:{root}/{{split}}-*.{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_read_at_random(tmp_path, kind):
    source = open_source(make(tmp_path, kind), "train")
    assert (len(source), source.num_classes, source.max_labels) == (11, 3, 16)
    assert source.class_names == ("cat", "dog", "fox")
    for i in (10, 0, 4, 3, 5, 7):
        example = source[i]
        assert (example["image"], example["labels"]) == (png(i), LABELS[i % 5])
        file, at = [(0, i), (1, i - 4), (2, i - 5)][(i > 3) + (i > 4)]
        assert example["name"] == f"{i}.png (record {at} of {tmp_path}/train-{file}.{kind})"
    assert source.labels() == [LABELS[i % 5] for i in range(11)]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(11)] == [source[i] for i in range(11)]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_slices_over_all_files_of_a_name(tmp_path, kind):
    name = make(tmp_path, kind)
    expected = {
        "train[3:7]": range(3, 7),
        "train[-2:]": (9, 10),
        "train[:50%]+val[1:2]": (*range(6), 21),
        "val+train[10:]": (*range(20, 24), 10),
    }
    sources = {split: open_source(name, split) for split in expected}
    for split, which in expected.items():
        source = sources[split]
        assert [source[i]["image"] for i in range(len(source))] == [png(i) for i in which]
    assert len({s.fingerprint for s in sources.values()}) == 4
    # Without the split's name in the path there is one.
    every = open_source(f"records:{tmp_path}/*.{kind}", "all[10:12]")
    assert [every[i]["image"] for i in range(2)] == [png(10), png(20)]
    with pytest.raises(UserError, match="one split 'all', not 'train'"):
        open_source(f"records:{tmp_path}/*.{kind}", "train")


def test_the_recipe_of_jft_reads_them(tmp_path):
    source = make(tmp_path, "array_record")
    config = parsed(ViTTrainConfig, "vit/pretrain.py", f"L/16,jft300m,source={source}")
    assert (config.data.source, config.data.split) == (source, "train[51200:]")
    with pytest.raises(UserError, match=r"'train\[51200:\]' of records:.* holds no records"):
        data_source(config.data)
    assert len(data_source(config.evaluations["held_out"])) == 11


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_all_labels_and_masks(tmp_path, kind):
    config = DataConfig(source=make(tmp_path, kind), split="train", preprocess=Squash(8))
    with pytest.raises(UserError, match="has 3 labels: set max_labels"):
        list(eval_data(dataclasses.replace(config, max_labels=2), batch_size=4).start(np.arange(4)))
    batches = list(
        eval_data(dataclasses.replace(config, max_labels=3), batch_size=6).start(np.arange(6))
    )
    labels = np.concatenate([b["labels"] for b in batches])
    padded = [[*LABELS[i % 5], -1, -1, -1][:3] for i in range(11)]
    np.testing.assert_array_equal(labels, [*padded, [-1, -1, -1]])
    mask = np.concatenate([b["mask"] for b in batches])
    # An image without labels is not evaluated, nor is padding.
    np.testing.assert_array_equal(mask, [i % 5 != 2 for i in range(11)] + [False])
    for workers in (0, 2) if kind == "tfrecord" else (0,):
        data = train_data(dataclasses.replace(config, workers=workers), batch_size=11, seed=0)
        batch = next(data.start(0, np.arange(11)))
        assert sorted(batch["image"][:, 0, 0, 0]) == list(range(11))


def damage(path: Path, inside: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = bytes(data).index(inside) + len(inside) // 2
    data[at : at + 4] = bytes(255 - byte for byte in data[at : at + 4])
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_records_end_a_run_or_are_left_out_by_name(tmp_path, kind):
    name = make(tmp_path, kind)
    damage(tmp_path / f"train-2.{kind}", png(7))
    config = DataConfig(source=name, split="train", preprocess=Squash(8), threads=1)
    with pytest.raises(UserError, match=rf"record 2 of {tmp_path}/train-2.{kind}.*corrupt='skip'"):
        list(eval_data(config, batch_size=11).start(np.arange(11)))
    skip = dataclasses.replace(config, corrupt="skip")
    data = eval_data(skip, batch_size=11)
    [batch] = data.start(np.arange(11))
    np.testing.assert_array_equal(batch["mask"], [i not in (2, 7) for i in range(11)])
    assert [f"record 2 of {tmp_path}/train-2.{kind}" in text for text in data.skipped()] == [True]
    train = train_data(skip, batch_size=11, seed=0)
    batch = next(train.start(0, np.arange(11)))
    # The next readable one in its place.
    assert sorted(batch["image"][:, 0, 0, 0]) == [0, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10]


def test_the_index_of_a_tfrecord_is_made_once_and_again_for_another_file(tmp_path):
    name, index = make(tmp_path, "tfrecord"), tmp_path / "train-0.tfrecord.index"
    assert len(open_source(name, "train")) == 11
    made = index.stat().st_mtime_ns
    assert len(open_source(name, "train")) == 11
    assert index.stat().st_mtime_ns == made
    write(tmp_path / "train-0.tfrecord", [record(i) for i in (3, 1)])
    os.utime(tmp_path / "train-0.tfrecord", ns=(made + 1, made + 1))
    source = open_source(name, "train")
    assert [source[i]["image"] for i in range(3)] == [png(3), png(1), png(4)]
    # Where nothing can be written the index is made each time.
    for place in tmp_path.glob("*.index"):
        place.unlink()
        place.mkdir()
    assert len(open_source(name, "train[:2]")) == 2


def test_bad_records(tmp_path):
    def refused(message: str, split: str = "train", kind: str = "tfrecord", **options) -> None:
        with pytest.raises(UserError, match=message):
            open_source(f"records:{tmp_path}/{{split}}-*.{kind}", split, **options)[0]

    refused("No record file matches .*train-")
    make(tmp_path, "tfrecord")
    refused("No record file matches .*test-", "test")
    refused("holds no records", "train[7:7]")
    refused("no feature 'colour' but image/class/label, image/encoded", label_key="colour")
    (tmp_path / "labels.txt").write_text("cat\n")
    open_source(f"records:{tmp_path}/{{split}}-*.tfrecord", "train")[0]
    with pytest.raises(UserError, match=r"label 2, but labels.txt names the 1 classes 0 to 0"):
        open_source(f"records:{tmp_path}/{{split}}-*.tfrecord", "train")[1]
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    refused("without empty lines")
    (tmp_path / "labels.txt").unlink()
    refused("labels.txt is missing")
    make(tmp_path, "tfrecord")
    whole = (tmp_path / "train-1.tfrecord").read_bytes()
    for data, at in [(whole[:-1], 0), (whole + whole[:30], len(whole)), (b"\x1f\x8b" * 40, 0)]:
        (tmp_path / "train-1.tfrecord").write_bytes(data)
        refused(f"train-1.tfrecord is damaged at byte {at} .*copy it again")
    make(tmp_path, "array_record")
    file = tmp_path / "train-1.array_record"
    file.write_bytes(file.read_bytes()[:-70_000])
    refused("train-1.array_record is damaged, or is no ArrayRecord", kind="array_record")
    with pytest.raises(UserError, match="local or mounted directory, not gs://data"):
        open_source("records:gs://data/{split}-*", "train")
