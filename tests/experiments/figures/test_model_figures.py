"""The figures of what a Vision Transformer has learnt, from checkpoints of each kind."""

import math

import commands
import cv2
import jax
import numpy as np
import pytest
import seeded
import tiny_poses
from drawn import assert_refuses, drawn
from matplotlib.figure import Figure

from experiments.figures import (
    attention_distance,
    attention_rollout,
    canvas,
    embedding_filters,
    position_similarity,
    vision,
)
from train_jax.checkpoint import save_once
from train_jax.command_line import USER_ERROR_EXIT_CODE
from train_jax.config import to_dict
from train_jax.errors import UserError
from train_jax.sharding import flat_names
from vit_jax.init_from import nested
from vit_jax.models import api
from vit_jax.models.vit import ViTConfig
from vit_jax.weights import save_published

pytestmark = pytest.mark.timeout(300)

MODEL = ViTConfig((4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, num_classes=10)
BLIND = ViTConfig(
    (4, 4), width=24, depth=1, mlp_dim=8, num_heads=1, num_classes=0, pool="gap", position="none"
)


def weights(config, shape=(16, 16, 3)):
    shapes, _ = jax.eval_shape(lambda key: api.init(config, key, shape), jax.random.key(0))
    flat = {name: seeded.draw(name, leaf.shape, 0) for name, leaf in flat_names(shapes).items()}
    return flat


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """Checkpoints of each kind, and pictures."""
    root = tmp_path_factory.mktemp("figures")
    data = request.path.parents[2] / "data" / "vit"
    for name in ("tiny_token", "tiny_hybrid"):
        (root / f"{name}.npz").write_bytes((data / f"{name}.npz").read_bytes())
    about = {"model": to_dict(MODEL), "image_shape": [16, 24, 3], "grid": [4, 6]}
    save_once(root / "wide", {"params": nested(weights(MODEL, (16, 24, 3)))}, about)
    save_published(root / "blind.npz", nested(weights(BLIND)))
    tiny_poses.save(tiny_poses.lifter(), root / "lifter")
    (root / "pictures" / "within").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(["b.png", "within/a.jpg", "c.PNG"]):
        picture = rng.integers(0, 256, (20 + 10 * i, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "pictures" / name), picture)
    (root / "pictures" / "notes.txt").write_text("not a picture")
    (root / "text.png").write_text("not a picture")
    return root


def command(place, tmp_path, name, *words):
    return drawn(tmp_path, name, *(word.replace("{}", str(place)) for word in words))


def test_position_similarity_by_command(place, tmp_path):
    rows = command(place, tmp_path, "position_similarity", "--checkpoint={}/wide")
    assert len(rows) == 24 * 24
    table = weights(MODEL, (16, 24, 3))["Transformer/posembed_input/pos_embedding"][0, 1:]
    found = {
        tuple(int(row[k]) - 1 for k in ("row", "column", "other_row", "other_column")): float(
            row["cosine_similarity"]
        )
        for row in rows
    }
    a, b = table[1 * 6 + 2], table[3 * 6 + 5]
    assert found[1, 2, 3, 5] == pytest.approx(a @ b / math.hypot(*a) / math.hypot(*b), abs=1e-5)
    assert found[1, 2, 1, 2] == 1


def test_the_tiles_stand_as_the_patches_do():
    similarities = np.arange(36.0).reshape(2, 3, 2, 3) / 36
    with canvas.style():
        drawing = position_similarity.draw(similarities)
    assert isinstance(drawing.figure, Figure)
    (image,) = drawing.figure.axes[0].images
    mosaic = np.asarray(image.get_array())
    assert mosaic.shape == (5, 11)
    np.testing.assert_array_equal(mosaic[3:, 8:], similarities[1, 2])
    assert np.isnan(mosaic[2]).all()


def test_a_fixed_code_is_similar_to_its_neighbours(tmp_path):
    config = ViTConfig((4, 4), 32, 1, 8, 1, num_classes=0, pool="gap", position="sincos2d")
    about = {"model": to_dict(config), "image_shape": [16, 16, 3], "grid": [4, 4]}
    save_once(tmp_path / "fixed", {"params": nested(weights(config))}, about)
    found = position_similarity.similarity(str(tmp_path / "fixed"))
    assert found.shape == (4, 4, 4, 4)
    assert pytest.approx(found[0, 0, 0, 0]) == 1
    assert 1 > found[0, 0, 0, 1] > found[0, 0, 1, 1]


def test_embedding_filters_by_command(place, tmp_path):
    words = ("--checkpoint={}/tiny_token.npz", "--count=9")
    rows = command(place, tmp_path, "embedding_filters", *words)
    assert len(rows) == 9 * 4 * 4 * 3
    filters, shares = embedding_filters.components(f"{place}/tiny_token.npz", 9)
    np.testing.assert_allclose([float(row["value"]) for row in rows], filters.ravel(), atol=1e-6)
    assert (np.diff(shares) <= 0).all()


def test_attention_distance_by_command(place, tmp_path):
    """Two models side by side, of other sizes and with other inputs."""
    words = ("--checkpoint={}/tiny_hybrid.npz,{}/wide", "--images={}/pictures", "--batch_size=2")
    rows = command(place, tmp_path, "attention_distance", *words)
    assert [row["model"] for row in rows] == ["tiny_hybrid.npz"] * 6 + ["wide"] * 6
    assert [(row["layer"], row["head"]) for row in rows[:4]] == [
        ("1", "1"),
        ("1", "2"),
        ("1", "3"),
        ("2", "1"),
    ]
    # No head can look further than the corners are apart.
    assert all(0 < float(row["mean_distance_px"]) < math.hypot(12, 20) for row in rows[6:])


def test_attention_distance_is_a_mean_over_the_pictures(place):
    pictures = vision.find_pictures([f"{place}/pictures"], limit=9)
    each = [attention_distance.distances(f"{place}/wide", [one])[1] for one in pictures]
    name, together = attention_distance.distances(f"{place}/wide", pictures, batch_size=3)
    assert (name, len(pictures)) == ("wide", 3)
    assert np.ptp(each, axis=0).max() > 1e-3
    np.testing.assert_allclose(together, np.mean(each, axis=0), rtol=1e-5)


def test_attention_rollout_by_command(place, tmp_path):
    words = ("--checkpoint={}/tiny_token.npz", "--images={}/pictures/b.png,{}/pictures/within")
    rows = command(place, tmp_path, "attention_rollout", *words)
    assert [row["image"] for row in rows[::16]] == [
        f"{place}/pictures/b.png",
        f"{place}/pictures/within/a.jpg",
    ]
    for picture in (rows[:16], rows[16:]):
        assert 0 < sum(float(row["share"]) for row in picture) < 1


def test_what_is_attended_to_stays_bright():
    shares = np.zeros((4, 6))
    shares[3, 1] = 0.2
    seen = attention_rollout.overlay(np.full((80, 120, 3), 255, np.uint8), shares)
    assert seen.max() == pytest.approx(1)
    assert np.unravel_index(seen[..., 0].argmax(), (80, 120)) == pytest.approx((70, 30), abs=10)
    assert seen[:40].max() < 0.05
    assert seen.min() >= 0


def test_pictures_are_spread_over_the_files(place):
    names = [
        path.rsplit("/", 1)[1] for path in vision.find_pictures([f"{place}/pictures"], limit=9)
    ]
    assert names == ["b.png", "c.PNG", "a.jpg"]
    assert len(vision.find_pictures([f"{place}/pictures"], limit=2)) == 2
    many = vision.find_pictures([f"{place}/text.png"] * 10, limit=5)
    assert len(many) == 5
    with pytest.raises(UserError, match="no images; name files or directories"):
        vision.find_pictures([f"{place}/lifter"], limit=2)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("position_similarity",), "--checkpoint is missing; name a run"),
        (("position_similarity", "--checkpoint={}/none"), "none does not exist"),
        (("position_similarity", "--checkpoint={}/blind.npz"), "blind.npz has no position embed"),
        (("position_similarity", "--checkpoint={}/lifter"), "no embedding/kernel; they are not"),
        (("position_similarity", "--checkpoint={}/wide", "--grid=5x5"), "24 rows for .* the 25"),
        (("position_similarity", "--checkpoint={}/wide", "--grid=a"), "not written like 14x28"),
        (("embedding_filters", "--checkpoint={}/tiny_hybrid.npz"), "is a hybrid, whose patches"),
        (("embedding_filters", "--checkpoint={}/wide"), "have 23 principal components, not 28"),
        (("attention_distance", "--checkpoint={}/wide"), "no images; name files"),
        (
            ("attention_distance", "--checkpoint={}/wide", "--images={}/none.png"),
            "there is no .*none.png; name image files",
        ),
        (
            ("attention_distance", "--checkpoint={}/wide,{}/wide", "--images={}/pictures"),
            "names .*wide twice",
        ),
        (
            ("attention_rollout", "--checkpoint={}/wide", "--images={}/text.png"),
            "text.png is not a readable image",
        ),
        (
            ("attention_rollout", "--checkpoint={}/wide", "--images={}/pictures", "--size=18"),
            "side 18 is not divisible by the patch of 4",
        ),
        (
            ("attention_rollout", "--checkpoint={}/blind.npz", "--images={}/pictures"),
            "say whether the positions are sincos2d or none",
        ),
        (
            (
                "attention_rollout",
                "--checkpoint={}/blind.npz",
                "--images={}/pictures",
                "--position=none",
            ),
            "does not tell the size of its images; give --size",
        ),
        (("attention_rollout", "--checkpoints=a"), "Unknown command line flag 'checkpoints'"),
        (
            ("embedding_filters", "--checkpoint={}/wide", "--output={}/pictures/b"),
            r"pictures/b\.png exists already; remove it, or name another with --output",
        ),
        (
            ("embedding_filters", "--checkpoint={}/wide", "--output={}/text.png/b"),
            r"text\.png cannot be written",
        ),
    ],
)
def test_mistakes(place, tmp_path, words, pattern):
    name, *given = (word.replace("{}", str(place)) for word in words)
    assert_refuses(tmp_path, name, *given, pattern=pattern)


def test_without_matplotlib_it_says_what_to_install(place, tmp_path):
    words = (f"--checkpoint={place}/wide", f"--output={tmp_path}/new")
    ended = commands.shared().run(
        "experiments.figures.position_similarity", *words, missing=["matplotlib"]
    )
    assert ended.code == USER_ERROR_EXIT_CODE
    assert "drawn by Matplotlib, which is not installed; run `pip install matpl" in ended.stderr


def test_the_same_drawing_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        with canvas.style():
            drawing = position_similarity.draw(np.ones((2, 2, 2, 2)))
            canvas.save(drawing, str(tmp_path / name))
    for ending in ("png", "pdf", "csv"):
        one, two = (tmp_path / f"{name}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
