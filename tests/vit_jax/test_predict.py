"""Predictions of image files: prepared as in evaluation, with the names of their classes."""

import dataclasses
import json

import commands
import cv2
import jax
import numpy as np
import pytest
import tiny

from train_jax.checkpoint import save_once
from train_jax.config import to_dict
from train_jax.errors import UserError
from vit_jax import classifier as classifiers
from vit_jax.class_names import KNOWN, find_names, read_list
from vit_jax.data.digits import _load
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import ResizeSmallCrop, Squash, height_width
from vit_jax.models import api
from vit_jax.predict import predict, table

SIZES = {
    "imagenet2012": 1000,
    "imagenet21k": 21_843,
    "cifar10": 10,
    "cifar100": 100,
    "oxford_iiit_pet": 37,
    "oxford_flowers102": 102,
}


@pytest.fixture(scope="module")
def published(request):
    """The published file of a tiny model of 10 classes, for images of 16 x 16."""
    return str(request.path.parents[1] / "data" / "vit" / "tiny_token.npz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A directory with two photographs of noise, one of them deeper."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    draw = np.random.default_rng(0).integers
    for name, shape in (("a.png", (40, 60, 3)), ("more/b.jpg", (33, 20, 3))):
        cv2.imwrite(str(root / name), draw(0, 255, shape).astype(np.uint8))
    (root / "notes.txt").write_text("no image")
    return root


def test_the_lists_have_the_names_of_the_published_heads_in_their_order():
    assert {name: len(read_list(name)) for name in KNOWN} == SIZES
    imagenet, large = read_list("imagenet2012"), read_list("imagenet21k")
    assert imagenet[0].startswith("tench")
    assert imagenet[281].startswith("tabby")
    assert imagenet[388].startswith("giant panda")
    assert imagenet[999].startswith("toilet tissue")
    # The first and the last synset of the published heads are n00004475 and n15102894.
    assert (large[0], large[-1]) == ("organism", "knothole")
    assert large.index("giant panda") == 3690
    assert read_list("cifar10")[3] == "cat"
    assert read_list("cifar100")[8] == "bicycle"
    assert read_list("oxford_flowers102")[0] == "pink primrose"
    for name in KNOWN:
        assert all(each and each == each.strip() for each in read_list(name)), name


def config(source, **changes):
    return DataConfig(**({"source": source, "split": "train", "preprocess": Squash(8)} | changes))


def test_the_data_decide_which_list(tmp_path):
    assert find_names(10, data=config("tfds:cifar10")).names[9] == "truck"
    assert find_names(4, data=config("digits", classes=(1, 4, 7, 9))).names == ("1", "4", "7", "9")
    for index, wordnet in enumerate(("n01443537", "n01440764", "quokka")):
        (tmp_path / "train" / wordnet).mkdir(parents=True)
        (tmp_path / "train" / wordnet / f"{index}.jpg").write_bytes(b"")
    names = find_names(3, data=config(f"folder:{tmp_path}")).names
    assert names == ("tench, Tinca tinca", "goldfish, Carassius auratus", "quokka")
    # A published file does not say; ten classes are of many data sets.
    assert find_names(1000).names == read_list("imagenet2012")
    assert find_names(10).names[3] == "class 3"
    # Data that are not here, and a head that is not theirs.
    assert find_names(3, data=config("folder:/no/such")).names[0] == "class 0"
    assert find_names(12, data=config("tfds:cifar10")).names[0] == "class 0"


def test_names_that_are_given_have_the_right_number(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n\n")
    assert find_names(2, given=str(path)).names == ("cat", "dog")
    assert find_names(10, given="cifar10").names[0] == "airplane"
    with pytest.raises(UserError, match="has 2 names and the model 3 classes"):
        find_names(3, given=str(path))
    with pytest.raises(UserError, match="cannot be read"):
        find_names(3, given=str(tmp_path / "none"))


def logits_of(opened, seen):
    """What the model says of one input, uint8 (h, w, 3), float64 (1, K)."""
    images = (seen[None].astype(np.float32) - 127.5) / 127.5
    run = jax.jit(lambda params, images: api.apply(opened.model, params, {}, images)[0])
    return np.asarray(run(opened.params, images), np.float64)


def test_a_published_file_sees_the_whole_image_in_its_range(published, pictures):
    opened = classifiers.open_classifier(published)
    assert opened.preprocess == Squash(size=(16, 16))
    picture = classifiers.open_picture(str(pictures / "a.png"))
    seen = classifiers.seen_pixels(opened, picture)
    odds = np.exp(logits_of(opened, seen)[0])
    odds /= odds.sum()
    (result,) = predict(opened, [str(pictures / "a.png")], top=3)
    order = np.argsort(-odds)[:3]
    assert [one["class"] for one in result["predictions"]] == list(order)
    found = [one["probability"] for one in result["predictions"]]
    np.testing.assert_allclose(found, odds[order], rtol=1e-4)


def test_batches_do_not_matter_and_images_keep_their_order(published, pictures):
    opened = classifiers.open_classifier(published)
    images = classifiers.find_pictures([str(pictures)]) * 2
    assert [image.rsplit("/", 1)[1] for image in images[:2]] == ["a.png", "b.jpg"]
    together = list(predict(opened, images, batch_size=3))
    alone = [next(predict(opened, [image])) for image in images]
    assert [one["image"] for one in together] == images
    for a, b in zip(together, alone, strict=True):
        assert [x["class"] for x in a["predictions"]] == [x["class"] for x in b["predictions"]]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A checkpoint as a run on the digits saves it, whose evaluation cuts out the centre."""
    cut = ResizeSmallCrop(resize=20, size=16)
    made = tiny.make_config(
        evaluations={"test": config("digits", preprocess=cut)},
        loss="sigmoid",
        model={"dropout": 0.0, "stochastic_depth": 0.0},
    )
    draw = jax.jit(lambda key: api.init(made.model, key, (16, 16, 3))[0])
    params = draw(jax.random.key(0))
    path = str(tmp_path_factory.mktemp("run") / "checkpoint")
    meta = {"config": to_dict(made), "model": to_dict(made.model), "grid": [4, 4]}
    save_once(path, {"params": params}, meta)
    return path


def test_a_run_of_ours_says_how_it_evaluates(ours):
    opened = classifiers.open_classifier(ours)
    assert opened.preprocess == ResizeSmallCrop(resize=20, size=16)
    assert opened.class_names == tuple("0123456789")
    picture = np.round(_load()[0][0])
    png = cv2.imencode(".png", picture)[1].tobytes()
    score = classifiers.make_scorer(opened)
    seen = classifiers.seen_pixels(opened, classifiers.Picture(png))
    odds = 1 / (1 + np.exp(-logits_of(opened, seen)))
    np.testing.assert_allclose(score(seen[None]), odds, rtol=1e-4)


def test_another_size_keeps_the_cut(ours):
    opened = classifiers.open_classifier(ours, size=32)
    assert opened.preprocess == ResizeSmallCrop(resize=40, size=32)
    assert height_width(opened.preprocess.size) == (32, 32)


def test_a_config_takes_the_place_of_what_the_checkpoint_says(ours):
    other = tiny.make_config(evaluations={"x": config("digits", preprocess=Squash(16))})
    assert classifiers.open_classifier(ours, config=other).preprocess == Squash(16)


def test_models_without_a_head_are_told():
    opened = classifiers.Classifier(
        "here", dataclasses.replace(tiny.MODEL, num_classes=0), {}, {}, Squash(8), "softmax", (), ""
    )
    with pytest.raises(UserError, match="here has no classification head"):
        classifiers.make_scorer(opened)


def test_a_table_aligns_and_cuts_names():
    found = {"image": "x.png", "predictions": [{"name": "a" * 60 + ", b", "probability": 0.5}]}
    first, second = table(found, width=10).splitlines()
    assert first == "x.png"
    assert second == "   50.00%  aaaaaaaaa…  ██████████"


def test_the_command_prints_a_table_or_json(published, pictures):
    run = commands.shared().run
    flag = f"--checkpoint={published}"
    done = run("vit_jax.predict", str(pictures), flag, "--top=2", "--class_names=cifar10")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.startswith("  ") for line in lines] == [False, True, True] * 2
    assert any(name in lines[1] for name in read_list("cifar10"))
    done = run("vit_jax.predict", str(pictures / "a.png"), flag, "--format=json")
    assert json.loads(done.stdout)["predictions"][0]["name"].startswith("class ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Give IMAGE...; see python -m vit_jax.predict --help."),
        (("{pictures}/none.jpg",), "There is no file {pictures}/none.jpg; name image files"),
        (("{pictures}/notes.txt",), "{pictures}/notes.txt is not a readable image"),
        (("{empty}",), "There is no image in {empty}; images end in .jpg"),
        (("{pictures}/a.png", "--checkpoint="), "--checkpoint is missing"),
        (("{pictures}/a.png", "--class_names=cifar100"), "has 100 names and the model 10 classes"),
        (("{pictures}/a.png", "--size=17"), "17"),
    ],
)
def test_what_cannot_work_is_one_sentence(published, pictures, tmp_path, words, sentence):
    fill = {"pictures": pictures, "empty": tmp_path}
    words = [word.format(**fill) for word in words]
    if not any(word.startswith("--checkpoint") for word in words):
        words.append(f"--checkpoint={published}")
    done = commands.shared().run("vit_jax.predict", *words)
    assert done.code == 2, done.stderr
    assert done.stderr.startswith("Error: ")
    assert sentence.format(**fill) in done.stderr
    assert "Traceback" not in done.stderr
