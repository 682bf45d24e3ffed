"""VTAB's 19 tasks: which examples, which labels, and that every one of them builds."""

import io
import pickle

import cv2
import numpy as np
import pytest
import vtab_data

from train_jax.errors import UserError
from vit_jax import vtab
from vit_jax.data.pipeline import DataConfig, eval_data, train_data
from vit_jax.data.preprocess import ResizeCrop, Squash
from vit_jax.data.sources import open_source

tfds = pytest.importorskip("tensorflow_datasets")

# Examples in the splits of TFDS, as published.
SIZES = {
    "caltech101": {"train": 3057, "test": 6087},
    "cifar100": {"train": 50_000, "test": 10_000},
    "dtd": {"train": 1880, "validation": 1880, "test": 1880},
    "oxford_iiit_pet": {"train": 3680, "test": 3669},
    "eurosat/rgb": {"train": 27_000},
    "clevr": {"train": 70_000, "validation": 15_000, "test": 15_000},
    "dsprites": {"train": 737_280},
    "smallnorb": {"train": 24_300, "test": 24_300},
}


@pytest.mark.parametrize(
    ("name", "val200", "test"),
    [
        ("caltech101", "train[2751:2951]", "test[0:]"),
        ("cifar100", "train[45000:45200]", "test[0:]"),
        ("dtd", "validation[0:200]", "test[0:]"),
        ("pets", "train[2944:3144]", "test[0:]"),
        ("eurosat", "train[16200:16400]", "train[21600:]"),
        ("clevr_count", "train[63000:63200]", "validation[0:]"),
        ("dsprites_location", "train[589824:590024]", "train[663552:]"),
        ("smallnorb_azimuth", "test[0:200]", "test[12150:]"),
    ],
)
def test_splits_are_those_of_the_published_code(name, val200, test):
    task = vtab.TASKS[name]
    found = {split: vtab.tfds_split(task, split, SIZES[task.data]) for split in vtab.SPLITS}
    assert found == {
        "train800": "train[:800]",
        "val200": val200,
        "train800val200": f"train[:800]+{val200}",
        "test": test,
    }


def test_data_sets_that_are_too_small_or_cut_otherwise_are_refused():
    task = vtab.TASKS["cifar100"]
    with pytest.raises(UserError, match=r"cifar100 is too small for VTAB.*it has train 1990, test"):
        vtab.tfds_split(task, "val200", {"train": 1990, "test": 5})
    with pytest.raises(UserError, match=r"dtd has no split 'validation'"):
        vtab.tfds_split(vtab.TASKS["dtd"], "test", {"train": 2000, "test": 5})
    with pytest.raises(UserError, match="no split 'train' but train800, val200"):
        vtab.tfds_split(task, "train", SIZES["cifar100"])
    with pytest.raises(UserError, match="Unknown VTAB task 'clevr'; did you mean clevr_"):
        open_source("vtab:clevr", "test")


def test_tasks_are_those_of_table_9():
    titles = [[t.title for t in vtab.TASKS.values() if t.group == group] for group in vtab.GROUPS]
    assert titles == [
        ["Caltech101", "CIFAR-100", "DTD", "Flowers102", "Pets", "Sun397", "SVHN"],
        ["Camelyon", "EuroSAT", "Resisc45", "Retinopathy"],
        [
            *("Clevr-Count", "Clevr-Dist", "DMLab", "dSpr-Loc", "dSpr-Ori", "KITTI-Dist"),
            *("sNORB-Azim", "sNORB-Elev"),
        ],
    ]
    unflipped = {name for name, task in vtab.TASKS.items() if not task.flip}
    assert unflipped == {"dsprites_location", "dsprites_orientation", "smallnorb_azimuth"}
    uncropped = {name for name, task in vtab.TASKS.items() if not task.crop}
    assert uncropped == {
        *("clevr_count", "clevr_distance", "dmlab", "dsprites_location", "kitti_distance")
    }


def test_means_reproduce_table_9():
    # L/16 pre-trained on ImageNet-21k (ViT paper, Table 9; its mean in Table 2: 72.72).
    row = (
        "90.8 84.1 74.1 99.3 92.7 61.0 80.9 82.5 95.6 85.2 75.3 "
        "70.3 56.1 41.9 74.7 64.9 79.9 30.5 41.7"
    )
    scores = dict(zip(vtab.TASKS, map(float, row.split()), strict=True))
    found = vtab.means(scores)
    assert found["mean"] == pytest.approx(72.72, abs=0.05)
    assert found["natural"] == pytest.approx(582.9 / 7)
    assert found["specialized"] == pytest.approx(338.6 / 4)
    assert found["structured"] == pytest.approx(460.0 / 8)
    # A mean of some of the tasks would pass for the score.
    del scores["dmlab"]
    assert list(vtab.means(scores)) == ["natural", "specialized"]


@pytest.mark.parametrize(
    ("name", "values", "label"),
    [
        ("clevr_count", {"objects/size": [0, 1, 1]}, 0),
        ("clevr_count", {"objects/size": [0] * 10}, 7),
        ("clevr_distance", {"objects/pixel_coords": [1, 1, 9.7, 3, 3, 7.9]}, 0),
        ("clevr_distance", {"objects/pixel_coords": [1, 1, 8.0]}, 0),
        ("clevr_distance", {"objects/pixel_coords": [1, 1, 8.01]}, 1),
        ("clevr_distance", {"objects/pixel_coords": [1, 1, 9.75, 1, 1, 12]}, 4),
        ("clevr_distance", {"objects/pixel_coords": [1, 1, 10.5]}, 5),
        # A car at 25 m and a pedestrian (type 3) at 5 m: only vehicles count.
        ("kitti_distance", {"objects/location": [0, 0, 25, 0, 0, 5], "objects/type": [0, 3]}, 2),
        ("kitti_distance", {"objects/location": [9, 9, 19, 0, 0, 7], "objects/type": [1, 2]}, 0),
        ("kitti_distance", {"objects/location": [9, 9, 8, 0, 0, 12], "objects/type": [2, 2]}, 0),
        ("kitti_distance", {"objects/location": [9, 9, 12], "objects/type": [0]}, 1),
        ("kitti_distance", {"objects/location": [0, 0, 5], "objects/type": [4]}, 3),
        ("kitti_distance", {"objects/location": [], "objects/type": []}, 3),
        ("dsprites_location", {"label_x_position": [0]}, 0),
        ("dsprites_location", {"label_x_position": [31]}, 15),
        ("dsprites_location", {"label_x_position": [5]}, 2),
        ("dsprites_orientation", {"label_orientation": [2]}, 0),
        ("dsprites_orientation", {"label_orientation": [3]}, 1),
        ("dsprites_orientation", {"label_orientation": [39]}, 15),
        ("smallnorb_azimuth", {"label_azimuth": [17]}, 17),
        ("smallnorb_elevation", {"label_elevation": [8]}, 8),
        ("pets", {"label": [36]}, 36),
    ],
)
def test_labels_by_hand(name, values, label):
    task = vtab.TASKS[name]
    assert set(values) == set(task.features)
    kinds = {True: np.int64, False: np.float32}
    arrays = {
        key: np.array(value, kinds["type" in key or "label" in key or "size" in key])
        for key, value in values.items()
    }
    assert task.label(arrays) == label
    assert 0 <= label < task.num_classes


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("vtab"))
    for name in dict.fromkeys(task.data for task in vtab.TASKS.values()):
        vtab_data.make(name, directory)
    return directory


@pytest.fixture
def few(monkeypatch):
    vtab_data.use_few(monkeypatch)


@pytest.mark.parametrize("name", vtab.TASKS)
def test_every_task_is_read_with_the_labels_of_its_data_set(name, data_dir, few):
    task = vtab.TASKS[name]
    sources = {s: open_source(f"vtab:{name}", s, data_dir=data_dir) for s in vtab.SPLITS}
    assert [len(sources[s]) for s in vtab.SPLITS[:3]] == [8, 2, 10]
    assert len({source.fingerprint for source in sources.values()}) == 4
    # Nothing is both trained and chosen or tested on.
    images = {
        s: {np.asarray(bytes(source[i]["image"])).tobytes() for i in range(len(source))}
        for s, source in sources.items()
    }
    assert images["train800"] | images["val200"] == images["train800val200"]
    assert len(images["train800val200"]) == 10
    assert not images["train800val200"] & images["test"]
    every = sources["test"]
    assert every.num_classes == task.num_classes
    labels = {label for [label] in every.labels()}
    assert labels <= set(range(task.num_classes))
    assert len(labels) > 1
    assert [every[i]["labels"] for i in range(3)] == every.labels()[:3]
    copy = pickle.loads(pickle.dumps(every))
    assert copy[1]["name"] == every[1]["name"]
    assert f"VTAB's {name}" in copy[1]["name"]
    # The features are those of the catalogue.
    builder = tfds.builder(task.data, data_dir=data_dir)
    if task.features == ("label",):
        assert builder.info.features["label"].num_classes == task.num_classes


@pytest.mark.parametrize("name", vtab.TASKS)
def test_batches_of_a_task(name, data_dir, few):
    def config(split, preprocess):
        return DataConfig(
            source=f"vtab:{name}", split=split, data_dir=data_dir, preprocess=preprocess, threads=1
        )

    train = train_data(config("train800", ResizeCrop(18, 16)), batch_size=8, seed=0)
    batch = next(train.start(0, np.arange(8)))
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["labels"].shape == (8, 1)
    # Shades between black and white, however the pixels were stored.
    assert int(batch["image"].max()) > 200
    test = eval_data(config("val200", Squash(16)), batch_size=8)
    [batch] = test.start(np.arange(8))
    np.testing.assert_array_equal(batch["mask"], [True] * 2 + [False] * 6)


def test_the_thousand_examples_of_a_real_size(tmp_path):
    builder = tfds.builder("svhn_cropped", data_dir=str(tmp_path), file_format="array_record")
    png = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    counts = {"train": 2000, "test": 1}
    builder._split_generators = lambda manager: {
        split: ((i, {"image": io.BytesIO(png), "label": i % 10, "id": str(i)}) for i in range(n))
        for split, n in counts.items()
    }
    builder.download_and_prepare()
    found = {}
    for split in vtab.SPLITS[:3]:
        source = open_source("vtab:svhn", split, data_dir=str(tmp_path))
        again = open_source("vtab:svhn", split, data_dir=str(tmp_path))
        ids = [source._record(i)["id"].bytes_list.value[0] for i in range(len(source))]
        assert ids == [again._record(i)["id"].bytes_list.value[0] for i in range(len(again))]
        found[split] = set(ids)
    assert list(map(len, found.values())) == [800, 200, 1000]
    assert not found["train800"] & found["val200"]
