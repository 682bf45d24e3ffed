"""Sources: random access to TFDS, folders and digits, without TensorFlow; clear sentences."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from train_jax.errors import UserError
from vit_jax.data import prepare
from vit_jax.data.sources import open_source, select

tfds = pytest.importorskip("tensorflow_datasets")


def png(level: int, size: int = 8) -> bytes:
    return cv2.imencode(".png", np.full((size, size, 3), level, np.uint8))[1].tobytes()


class TinyReal(tfds.core.GeneratorBasedBuilder):
    """Twenty training and seven test images with every kind of label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "fox"]),
            "real_label": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3)),
            "multi_hot": tfds.features.Tensor(shape=(4,), dtype=np.uint8),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(7)}

    def _generate_examples(self, n):
        mask = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
        for i in range(n):
            yield (
                i,
                {
                    "image": io.BytesIO(png(i)),
                    "mask": io.BytesIO(mask),
                    "label": i % 3,
                    "real_label": [0, 1, 2][: i % 3],
                    "multi_hot": [1, 0, 0, i % 2],
                    "file_name": f"{i}.png",
                },
            )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("tfds"))
    TinyReal(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def test_tfds_examples_are_encoded_files(tiny):
    source = open_source("tfds:tiny_real", "train", data_dir=tiny, label_key="label")
    assert (len(source), source.num_classes, source.max_labels) == (20, 3, 1)
    assert source.class_names == ("cat", "dog", "fox")
    examples = [source[i] for i in range(20)]
    assert {e["image"] for e in examples} == {png(i) for i in range(20)}
    assert all("tiny_real/1.0.0 train" in e["name"] for e in examples)
    for e in examples:
        i = int(e["name"].split("(")[1].split(".png")[0])
        assert e["image"] == png(i)
        assert e["labels"] == [i % 3]
    assert source.labels() == [e["labels"] for e in examples]


def test_tfds_splits_are_sliced_and_added(tiny):
    sizes = {"train[:25%]": 5, "train[5:]": 15, "train[:50%]+test": 17, "test[-2:]": 2}
    for split, size in sizes.items():
        source = open_source("tfds:tiny_real", split, data_dir=tiny)
        assert len(source) == size
    names = {open_source("tfds:tiny_real", s, data_dir=tiny).fingerprint for s in sizes}
    assert len(names) == 4


def test_real_labels_are_sets(tiny):
    source = open_source("tfds:tiny_real", "train", data_dir=tiny, max_labels=2)
    assert source.max_labels == 2
    assert sorted(map(len, source.labels())) == [0] * 7 + [1] * 7 + [2] * 6
    assert source.num_classes == 3


def test_multi_hot_vectors_are_label_sets(tiny):
    source = open_source("tfds:tiny_real", "train", data_dir=tiny, label_key="multi_hot")
    assert source.num_classes == 4
    assert sorted(source.labels()) == [[0]] * 10 + [[0, 3]] * 10


def test_reading_records_directly_gives_what_tfds_gives(tiny):
    builder = tfds.builder("tiny_real", data_dir=tiny)
    decoders = {key: tfds.decode.SkipDecoding() for key in ("image", "mask")}
    theirs = builder.as_data_source(split="train", decoders=decoders)
    for key in ("label", "real_label", "multi_hot"):
        ours = open_source("tfds:tiny_real", "train", data_dir=tiny, label_key=key)
        for i in range(20):
            assert ours[i]["image"] == theirs[i]["image"]
            labels = theirs[i][key]
            expected = np.flatnonzero(labels) if key == "multi_hot" else np.atleast_1d(labels)
            assert ours[i]["labels"] == expected.tolist()
            assert theirs[i]["file_name"].decode() in ours[i]["name"]


def test_sources_can_be_pickled(tiny):
    for source in [
        open_source("tfds:tiny_real", "test", data_dir=tiny),
        select(open_source("tfds:tiny_real", "test", data_dir=tiny), classes=(1,)),
    ]:
        copy = pickle.loads(pickle.dumps(source))
        assert [copy[i] for i in range(len(copy))] == [source[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("tfds:tiny_rael", "train", "knows no data set 'tiny_rael'.*tiny_real"),
        ("tfds:tiny_real", "val", "no split 'val': its splits are train, test"),
        ("tfds:tiny_real", "train[:200%]", r"no split 'train\[:200%\]'"),
        ("tfds:tiny_real", "train[5:5]", "no examples"),
        ("tfds:cifar100", "train", "not prepared.*vit_jax.data.prepare tfds:cifar100 "),
        ("cifar100", "train", "Unknown data source 'cifar100', did you mean 'tfds:cifar100'"),
        ("tfds:", "train", "Unknown data source"),
    ],
)
def test_what_is_missing_is_said_when_opening(tiny, source, split, message):
    with pytest.raises(UserError, match=message):
        open_source(source, split, data_dir=tiny)
    with pytest.raises(UserError, match="label_key"):
        open_source("tfds:tiny_real", "train", data_dir=tiny, label_key="colour")


def test_data_sets_in_a_format_that_needs_tensorflow_are_refused(tiny, monkeypatch):
    builder = tfds.builder("tiny_real", data_dir=tiny)

    class Other:
        data_path = builder.data_path
        info = type("Info", (), {"file_format": tfds.core.FileFormat.TFRECORD})
        is_prepared = staticmethod(lambda: True)

    monkeypatch.setattr(tfds, "builder", lambda *a, **k: Other())
    with pytest.raises(UserError, match=r"tfrecord.*vit_jax\.data\.prepare tfds:tiny_real"):
        open_source("tfds:tiny_real", "train", data_dir=tiny)

    def needs_tensorflow(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(tfds, "builder", needs_tensorflow)
    with pytest.raises(UserError, match=r"pip install vit-pose-jax\[tensorflow\]"):
        open_source("tfds:tiny_real", "train", data_dir=tiny)


def test_prepare_writes_a_data_set_once(tiny, tmp_path, capsys, monkeypatch):
    for _ in range(2):
        assert prepare.main(["tfds:tiny_real", f"--data_dir={tmp_path}"]) == 0
        text = capsys.readouterr().out
        assert "train (20)" in text
        assert "test (7)" in text
    assert len(open_source("tfds:tiny_real", "train", data_dir=str(tmp_path))) == 20

    def needs_tensorflow(self, dl_manager):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(TinyReal, "_split_generators", needs_tensorflow)
    assert prepare.main(["tfds:tiny_real", f"--data_dir={tmp_path}/other"]) == 2
    assert "pip install vit-pose-jax[tensorflow]" in capsys.readouterr().err
    assert prepare.main(["folder:/data"]) == 2
    assert prepare.main(["digits", f"--data_dir={tmp_path}"]) == 0


def make_folder(root: Path, layout: dict[str, int]) -> Path:
    for directory, count in layout.items():
        (root / directory).mkdir(parents=True)
        for i in range(count):
            suffix = (".png", ".PNG", ".Jpg", ".jpeg")[i % 4]
            (root / directory / f"{i}{suffix}").write_bytes(png(i))
    return root


def test_folder_with_splits(tmp_path):
    root = make_folder(
        tmp_path, {"train/b": 5, "train/a": 4, "val/b": 3, "val/c": 2, "val/.hidden": 3}
    )
    (root / "train" / "a" / "notes.txt").write_text("not an image")
    train = open_source(f"folder:{root}", "train")
    val = open_source(f"folder:{root}", "val")
    # Classes are numbered over all splits.
    assert train.class_names == val.class_names == ("a", "b", "c")
    assert len(train) == 9
    assert {tuple(e["labels"]) for e in map(val.__getitem__, range(5))} == {(1,), (2,)}
    both = open_source(f"folder:{root}", "train+val[:40%]")
    assert len(both) == 11
    example = train[0]
    assert Path(example["name"]).read_bytes() == example["image"]
    assert Path(example["name"]).parent.name == train.class_names[example["labels"][0]]


def test_flat_folder_is_cut_the_same_way_every_time(tmp_path):
    root = make_folder(tmp_path, {"a": 60, "b": 40})
    train = open_source(f"folder:{root}", "all[:80%]")
    test = open_source(f"folder:{root}", "all[80%:]")
    names = [[s[i]["name"] for i in range(len(s))] for s in (train, test)]
    assert list(map(len, names)) == [80, 20]
    assert len(set(names[0]) | set(names[1])) == 100
    # Both classes on both sides.
    assert {label for [label] in test.labels()} == {0, 1}
    assert open_source(f"folder:{root}", "all[:80%]").fingerprint == train.fingerprint
    assert test.fingerprint != train.fingerprint
    assert len(open_source(f"folder:{root}", "all[-30:]")) == 30


def test_bad_folders(tmp_path):
    root = make_folder(tmp_path, {"train/a": 2, "empty/a": 0})
    for split, message in [
        ("val", "no split 'val': its splits are empty, train"),
        ("empty", "holds no images"),
        ("train[", "is not a split"),
        ("train[:0%]", "holds no images"),
    ]:
        with pytest.raises(UserError, match=message):
            open_source(f"folder:{root}", split)
    with pytest.raises(UserError, match="does not exist"):
        open_source(f"folder:{root}/nothing", "train")


def test_classes_and_shots(tiny):
    source = open_source("tfds:tiny_real", "train", data_dir=tiny, label_key="label")
    some = select(source, classes=(2, 0))
    assert some.class_names == ("fox", "cat")
    # 0..19 modulo 3: seven cats, seven dogs, six foxes.
    assert [sum(label == [c] for label in some.labels()) for c in (0, 1)] == [6, 7]
    few = select(source, classes=(2, 0), shots=2, seed=1)
    assert sorted(few.labels()) == [[0], [0], [1], [1]]
    assert [few[i]["labels"] for i in range(4)] == few.labels()
    # A larger number of shots contains the smaller one; other seeds differ.
    more = select(source, classes=(2, 0), shots=5, seed=1)
    names = [{s[i]["name"] for i in range(len(s))} for s in (few, more)]
    assert names[0] < names[1]
    prints = {select(source, classes=(2, 0), shots=2, seed=s).fingerprint for s in range(3)}
    assert len(prints) == 3
    assert select(source) is source
    for classes, shots, message in [
        ((0, 7), None, "classes="),
        ((0, 0), None, "different"),
        ((0,), 8, "has 7 examples"),
        (None, 0, "shots=0"),
    ]:
        with pytest.raises(UserError, match=message):
            select(source, classes=classes, shots=shots)


def test_digits_are_prepared_once_without_tensorflow(tmp_path):
    script = (
        "import sys\n"
        "from vit_jax.data.sources import open_source\n"
        "train = open_source('digits', 'train', data_dir=sys.argv[1])\n"
        "test = open_source('digits', 'test', data_dir=sys.argv[1])\n"
        "assert (len(train), len(test), train.num_classes) == (1437, 360, 10)\n"
        "assert train[0]['image'][:4] == b'\\x89PNG'\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=120
        )
    assert (tmp_path / "digits" / "1.0.0" / "dataset_info.json").exists()


def test_digits_need_a_place_to_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_source("digits", "train", data_dir=str(tmp_path / "file" / "below"))
