"""ImageNet-21k: from tar files of tar files to records; near-duplicates; damage; going on."""

import io
import re
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from train_jax.errors import UserError
from vit_jax.data import imagenet21k, synsets
from vit_jax.data.difference_hash import difference_hash, near_pairs
from vit_jax.data.imagenet21k import main, prepare
from vit_jax.data.records import open_records
from vit_jax.similarity import similarities

SYNSETS = {"n00000003": 4, "n00000001": 3, "n00000002": 5}


def picture(seed: int, size: int = 64) -> np.ndarray:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.float32)
    return np.uint8(
        np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255)
    )


def encoded(image: np.ndarray, suffix: str = ".jpg", quality: int = 95) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return cv2.imencode(suffix, image, options)[1].tobytes()


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def images() -> dict[str, dict[str, bytes]]:
    """Synset to file name to file; pictures are numbered over all."""
    found, i = {}, 0
    for synset, count in SYNSETS.items():
        found[synset] = {}
        for k in range(count):
            found[synset][f"{synset}_{k}.JPEG"] = encoded(picture(i))
            i += 1
    return found


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "winter21_whole.tar"
    path.write_bytes(tar({f"winter21_whole/{s}.tar": tar(f) for s, f in images().items()}))
    return path


def contents(directory: Path, split: str = "full") -> dict[str, tuple[bytes, int]]:
    source = open_records(f"{directory}/{{split}}-*", split)
    found = {}
    for i in range(len(source)):
        example = source[i]
        [label] = example["labels"]
        found[example["name"].split()[0]] = (example["image"], label)
    return found


def test_archives_become_records(archive, tmp_path):
    out = tmp_path / "out"
    text = prepare(str(archive), str(out), shards=3)
    assert text == f"12 images of 3 synsets are in {out} (3 files)"
    classes = sorted(SYNSETS)
    assert (out / "labels.txt").read_text().split() == classes
    expected = {
        name: (data, classes.index(synset))
        for synset, files in images().items()
        for name, data in files.items()
    }
    assert contents(out) == expected
    # The recipes' splits are disjoint, and no run of one class.
    parts = [contents(out, split) for split in ("full[:4]", "full[4:8]", "full[8:]")]
    assert list(map(len, parts)) == [4, 4, 4]
    assert len({name for part in parts for name in part}) == 12
    assert all(len({label for _, label in part.values()}) > 1 for part in parts)
    # The unpacked archive gives the same files.
    (tmp_path / "synsets").mkdir()
    for synset, files in images().items():
        (tmp_path / "synsets" / f"{synset}.tar").write_bytes(tar(files))
    prepare(str(tmp_path / "synsets"), str(tmp_path / "other"), shards=3)
    for file in out.glob("full-*"):
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


def test_an_interrupted_command_goes_on(archive, tmp_path, monkeypatch):
    out, decoded, written = tmp_path / "out", [], []
    hash_of, write = synsets.difference_hash, imagenet21k._write_shard

    def counting(pixels):
        decoded.append(1)
        if len(decoded) == 6:
            raise KeyboardInterrupt
        return hash_of(pixels)

    def failing(path, *rest):
        written.append(path.name)
        if len(written) > 2:
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(synsets, "difference_hash", counting)
    monkeypatch.setattr(imagenet21k, "_write_shard", failing)
    for _ in range(2):  # stopped while reading, then while writing
        with pytest.raises(KeyboardInterrupt):
            prepare(str(archive), str(out), shards=4, threads=1)
    # The first synset was complete, three images; the second begins again.
    assert len(decoded) == 6 + 9
    written.clear()
    monkeypatch.setattr(imagenet21k, "_write_shard", write)
    files = {file: file.stat().st_mtime_ns for file in out.glob("full-*")}
    assert len(files) == 2
    prepare(str(archive), str(out), shards=4, threads=1)
    assert len(decoded) == 6 + 9
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    assert len(contents(out)) == 12
    with pytest.raises(UserError, match="another choice of images, classes or number of files"):
        prepare(str(archive), str(out), shards=2)


def test_the_list_of_classes_is_kept(archive, tmp_path, capsys):
    listed = tmp_path / "wnids.txt"
    listed.write_text("n00000002\nn00000009\nn00000003\n")
    out = tmp_path / "out"
    assert main([str(archive), str(out), f"--classes={listed}", "--shards=1"]) == 0
    printed = capsys.readouterr().out
    assert "9 images of 2 synsets" in printed
    assert "1 synsets without images: n00000009 ..." in printed
    assert "1 synsets not in the list of classes: n00000001 ..." in printed
    labels = {name[:9]: label for name, (_, label) in contents(out).items()}
    assert labels == {"n00000002": 0, "n00000003": 2}
    assert open_records(f"{out}/full-*", "all").num_classes == 3


def test_bad_images_are_named_and_left_out(tmp_path):
    files = images()["n00000001"]
    whole = files["n00000001_1.JPEG"]
    files["n00000001_1.JPEG"] = whole[: len(whole) // 2]
    (tmp_path / "n00000001.tar").write_bytes(tar({**files, "page.html": b"<html>gone</html>"}))
    out = tmp_path / "out"
    for _ in range(2):  # also when nothing is read again
        text = prepare(str(tmp_path), str(out), shards=1)
        assert f"2 images cannot be read and are left out: {out}/bad.txt" in text
        lines = (out / "bad.txt").read_text().splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "n00000001/n00000001_1.JPEG",
            "n00000001/page.html",
        ]
    assert sorted(contents(out)) == ["n00000001_0.JPEG", "n00000001_2.JPEG"]


def test_damaged_archives_are_named(archive, tmp_path, capsys):
    data = archive.read_bytes()
    compressed = tmp_path / "whole.tar.gz"
    with tarfile.open(compressed, "w:gz") as file:
        file.add(archive, "winter21_whole.tar")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: len(data) // 2])
    inner = tmp_path / "inner"
    inner.mkdir()
    whole = tar(images()["n00000001"])
    (inner / "n00000001.tar").write_bytes(whole[: len(whole) - 10_240])
    (tmp_path / "empty").mkdir()
    listed = tmp_path / "list.txt"
    listed.write_text("n01 n02")
    for words, message in [
        ([str(compressed)], "whole.tar.gz is damaged or compressed"),
        ([str(cut)], "cut.tar (is damaged|ends too early)"),
        ([str(inner)], r"n00000001.tar .* (is damaged|ends too early)"),
        ([str(tmp_path / "empty")], "holds no synsets, files named like"),
        ([str(tmp_path / "nothing")], "There is no archive"),
        ([str(archive), f"--classes={listed}"], "must name each synset once"),
        ([str(archive), "--against=tfds:cifar10"], "must be SOURCE@SPLIT"),
        ([str(archive), "--shards=0"], "--shards must be positive"),
    ]:
        archive_, *options = words
        assert main([archive_, str(tmp_path / "out"), *options]) == 2
        assert re.search(message, capsys.readouterr().err), message


def test_hashes_outlive_size_and_compression_and_tell_pictures_apart():
    for seed in range(10):
        image = picture(seed)
        bits = difference_hash(image)
        small = cv2.resize(image, (40, 48), interpolation=cv2.INTER_AREA)
        again = cv2.imdecode(np.frombuffer(encoded(image, quality=60), np.uint8), 1)
        brighter = (image * 0.8 + 40).astype(np.uint8)
        for other in (small, again, brighter):
            assert (bits ^ difference_hash(np.asarray(other))).bit_count() <= 3
        assert min((bits ^ difference_hash(picture(s))).bit_count() for s in range(50, 60)) > 10
    # From left to right, row by row, the first comparison highest.
    rising = np.zeros((8, 9, 3), np.uint8) + np.arange(9, dtype=np.uint8)[:, None] * 20
    assert difference_hash(rising) == 2**64 - 1
    rising[1:] = 0
    assert difference_hash(rising) == 0xFF << 56


@pytest.mark.parametrize("distance", [0, 3, 7])
def test_every_near_pair_is_found_once(distance):
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**63, 300, np.uint64)
    against = hashes[rng.integers(0, 300, 80)].copy()
    for j, flips in enumerate(rng.integers(0, 10, 80)):
        for bit in rng.permutation(64)[:flips]:
            against[j] ^= np.uint64(1 << int(bit))
    bits = np.bitwise_count(hashes[:, None] ^ against)
    expected = {(i, j, int(bits[i, j])) for i, j in zip(*np.nonzero(bits <= distance), strict=True)}
    found = list(near_pairs(hashes, against, distance=distance))
    assert sorted(found) == sorted(expected)
    assert found


def test_near_duplicates_of_test_images_are_left_out(archive, tmp_path, data_dir):
    place = tmp_path / "tests" / "any"
    place.mkdir(parents=True)
    # Two of ours, smaller and compressed; and one that is none of ours.
    (place / "a.jpg").write_bytes(encoded(picture(1, 48), quality=70))
    (place / "b.png").write_bytes(encoded(picture(6, 80), ".png"))
    (place / "c.jpg").write_bytes(encoded(picture(99)))
    test_set, out = f"folder:{tmp_path}/tests@all", tmp_path / "out"
    text = prepare(str(archive), str(out), shards=2, against=[test_set])
    assert f"2 near-duplicates are left out: {out}/duplicates.tsv" in text
    lines = [line.split("\t") for line in (out / "duplicates.tsv").read_text().splitlines()]
    # Pictures 0 to 3 are the first synset's, 4 to 6 the second's.
    assert [line[0] for line in lines] == ["n00000001_2.JPEG", "n00000003_1.JPEG"]
    assert {line[1] for line in lines} == {test_set}
    assert not {"n00000001_2.JPEG", "n00000003_1.JPEG"} & set(contents(out))
    assert len(contents(out)) == 10
    # A model that sees no likeness keeps them.
    checkpoint = str(data_dir / "vit" / "ft_tiny.pretrained.npz")
    options = {"against": [test_set], "confirm": checkpoint, "shards": 2}
    prepare(str(archive), str(tmp_path / "strict"), similarity=1.01, **options)
    assert len(contents(tmp_path / "strict")) == 12
    prepare(str(archive), str(tmp_path / "seen"), similarity=0.9, **options)
    assert contents(tmp_path / "seen") == contents(out)
    [cosine] = similarities(checkpoint, [(0, 0)], (lambda i: picture(3), lambda i: picture(3)))
    assert cosine == pytest.approx(1, abs=1e-5)
