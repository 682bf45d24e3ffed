r"""Prepares ImageNet-21k from its official archives, as record files that training reads.

    python -m vit_jax.data.imagenet21k winter21_whole.tar /data/imagenet21k
    python -m vit_jax.data.imagenet21k SYNSETS /data/imagenet21k --classes=wnids.txt \
        --against=tfds:cifar10@test --against=tfds:imagenet2012@validation

The archive is a tar file of tar files, one a synset (n01440764.tar), or the directory into which
that was unpacked; a compressed one must be decompressed first, as it is read in many places at
once. Then

    python -m vit_jax.train --workdir=DIR \
        --config=experiments/vit/pretrain.py:L/16,imagenet21k,source=records:/data/imagenet21k/{split}-*

trains on it. The files (full-00000-of-01024.array_record; see vit_jax/data/records.py) hold the
images in the order of a hash of their names, so that the splits of the recipes, full[:25600] and
so on, are random samples. labels.txt names the classes: the synsets in alphabetical order, or in
that of `--classes`, a file with one a line. A checkpoint keeps its meaning only with the same list:
the published models have 21,843 classes, the release of 2011 has 21,841 synsets (14,197,122
images), that of winter 2021 fewer.

Every image is decoded once. Those that cannot be read are left out and named in bad.txt; a damaged
archive ends the command. With `--against` (repeat it for each test set) so are near-duplicates of
test images, as section 4.1 of the ViT paper asks: difference hashes within `--distance` bits and,
with `--confirm=CHECKPOINT`, representations of a cosine of at least `--similarity`. They are listed
in duplicates.tsv with the image that they resemble.

An interrupted command goes on where it was: what is known of a synset is kept in index/, and files
that are complete are not written again.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from train_jax import command_line
from train_jax.errors import UserError
from vit_jax.data.decode import CorruptImageError, Picture
from vit_jax.data.difference_hash import difference_hash, near_pairs
from vit_jax.data.records import CLASSES_FILE, IMAGE_KEY, LABEL_KEY, NAME_KEY
from vit_jax.data.sources import Source, open_source
from vit_jax.data.synsets import Images, Synset, images_of, join, read_image, synsets_of

T = TypeVar("T")

SHARDS = 1024


def prepare(
    archive: str,
    directory: str,
    *,
    classes: str | None = None,
    shards: int = SHARDS,
    threads: int = 0,
    against: Sequence[str] = (),
    distance: int = 3,
    confirm: str | None = None,
    similarity: float = 0.9,
    data_dir: str | None = None,
) -> str:
    """Writes the data set unless it is there.

    Args:
        archive: a tar file of tar files, or a directory of them.
        directory: where the data set goes.
        classes: a file with the synsets in the order of their numbers; None: by alphabet.
        shards: number of files.
        threads: that decode and write; 0 for one per core.
        against: test sets, as SOURCE@SPLIT, whose near-duplicates are left out.
        distance: bits in which hashes of duplicates may differ.
        confirm: a checkpoint that has to agree; None: the hash decides.
        similarity: the cosine from which it does.
        data_dir: where TFDS test sets are.

    Returns:
        Lines that say what there is now.

    Raises:
        UserError: an archive, list or test set that cannot be read, or another data set in the
            directory.
    """
    # What cannot work is said before hours are spent on the archive.
    tests = {name: _open_tests(name, data_dir) for name in against}
    out, found = Path(directory), synsets_of(archive)
    wanted = _read_classes(classes) if classes else sorted(found)
    synsets = [found[name] for name in wanted if name in found]
    if not synsets:
        raise UserError(f"None of the synsets in {classes} is in {archive}.")
    try:
        (out / "index").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another.") from error
    threads = threads or os.cpu_count() or 1
    parts = _map(lambda synset: images_of(synset, out / "index"), synsets, threads, "synsets")
    images = join([part for part, _ in parts])
    bad = [line for _, lines in parts for line in lines]
    _write_text(out / "bad.txt", bad)
    duplicates = 0
    if tests:
        drop, lines = _duplicates(
            images, synsets, tests, distance=distance, confirm=confirm, similarity=similarity
        )
        _write_text(out / "duplicates.tsv", lines)
        duplicates = int(drop.sum())
        images = images.where(~drop)
    order = np.argsort([_order(name) for name in images.names.tolist()], kind="stable")
    images = images.where(order)
    _claim(out, wanted, images, shards)
    _write_text(out / CLASSES_FILE, wanted)
    labels = {name: i for i, name in enumerate(wanted)}
    cuts = [len(images) * i // shards for i in range(shards + 1)]

    def write(shard: int) -> None:
        path = out / f"full-{shard:05d}-of-{shards:05d}.array_record"
        if not path.exists():
            some = images.where(np.arange(cuts[shard], cuts[shard + 1]))
            _write_shard(path, some, synsets, labels)

    _map(write, range(shards), threads, "files")
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    lines = [f"{len(images)} images of {len(synsets)} synsets are in {out} ({shards} files)"]
    lines += [f"{len(bad)} images cannot be read and are left out: {out}/bad.txt"] if bad else []
    if against:
        lines.append(f"{duplicates} near-duplicates are left out: {out}/duplicates.tsv")
    for which, names in (("without images", missing), ("not in the list of classes", extra)):
        if names:
            lines.append(f"{len(names)} synsets {which}: {', '.join(sorted(names)[:5])} ...")
    return "\n".join(lines)


def _duplicates(
    images: Images,
    synsets: Sequence[Synset],
    against: Mapping[str, Source],
    *,
    distance: int,
    confirm: str | None,
    similarity: float,
) -> tuple[np.ndarray, list[str]]:
    """Which images resemble one of a test set, and lines that name both."""
    drop, lines = np.zeros(len(images), bool), []
    for name, tests in against.items():
        hashes = np.array([_hash_of(tests, i) for i in range(len(tests))], np.uint64)
        pairs = sorted(near_pairs(images.hashes, hashes, distance=distance))
        cosines = [None] * len(pairs)
        if confirm is not None and pairs:
            # JAX, only where it is needed.
            from vit_jax.similarity import similarities

            cosines = similarities(
                confirm,
                [pair[:2] for pair in pairs],
                (lambda i: read_image(images, synsets, i), lambda i, t=tests: t[i]["image"]),
            ).tolist()
        for (i, j, bits), cosine in zip(pairs, cosines, strict=True):
            if cosine is None or cosine >= similarity:
                drop[i] = True
                alike = "" if cosine is None else f"\t{cosine:.3f}"
                lines.append(f"{images.names[i].decode()}\t{name}\t{j}\t{bits}{alike}")
    return drop, lines


def _open_tests(name: str, data_dir: str | None) -> Source:
    source, _, split = name.rpartition("@")
    if not source:
        raise UserError(f"--against={name} must be SOURCE@SPLIT, as in tfds:cifar10@test.")
    return open_source(source, split, data_dir=data_dir)


def _hash_of(source: Source, index: int) -> int:
    example = source[index]
    try:
        return difference_hash(Picture(example["image"]).pixels)
    except CorruptImageError as error:
        raise UserError(f"A test image cannot be read: {example['name']}: {error}.") from error


def _order(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=8).digest()


def _claim(out: Path, classes: Sequence[str], images: Images, shards: int) -> None:
    """Refuses to mix the files of two data sets."""
    digest = hashlib.blake2b(f"{shards} {' '.join(classes)}".encode(), digest_size=8)
    for name, size in zip(images.names.tolist(), images.sizes.tolist(), strict=True):
        digest.update(b"%s %d\n" % (name, size))
    file, written = out / "index" / "contents", digest.hexdigest()
    if file.exists() and file.read_text().strip() != written and next(out.glob("full-*"), None):
        raise UserError(
            f"{out} holds files of another choice of images, classes or number of files: choose "
            "another directory, or remove its full-* files."
        )
    _write_text(file, [written])


def _write_shard(
    path: Path, images: Images, synsets: Sequence[Synset], labels: dict[str, int]
) -> None:
    partial = path.with_name(f".{path.name}.partial")
    # Images are compressed already.
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    for i in range(len(images)):
        example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
        features = example.features.feature
        features[IMAGE_KEY].bytes_list.value.append(read_image(images, synsets, i))
        features[LABEL_KEY].int64_list.value.append(labels[synsets[images.synsets[i]].name])
        features[NAME_KEY].bytes_list.value.append(images.names[i])
        writer.write(example.SerializeToString())
    writer.close()
    partial.replace(path)


def _read_classes(file: str) -> list[str]:
    try:
        names = Path(file).read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"The list of classes {file} cannot be read ({error.strerror}).") from error
    wrong = [name for name in names if not re.fullmatch(r"n\d{8}", name)]
    if not names or wrong or len(set(names)) < len(names):
        raise UserError(f"{file} must name each synset once, one a line, as n01440764.")
    return names


def _write_text(path: Path, lines: Sequence[str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def _map(function: Callable[[Any], T], values: Iterable[Any], threads: int, what: str) -> list[T]:
    """The results in order, with a line every now and then."""
    values, results = list(values), []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for result in pool.map(function, values):
                results.append(result)
                if len(results) % 100 == 0 or len(results) == len(values):
                    sys.stderr.write(f"{what}: {len(results)}/{len(values)}\n")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_line.Parser("python -m vit_jax.data.imagenet21k", __doc__)
    parser.add_argument("archive", help="tar file of the synsets' tar files, or their directory")
    parser.add_argument("directory", help="where the data set goes")
    parser.add_argument("--classes", help="file with the synsets in the order of their numbers")
    parser.add_argument("--shards", type=int, default=SHARDS, help="number of files")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--against", action="append", default=[], metavar="SOURCE@SPLIT")
    parser.add_argument("--distance", type=int, default=3, help="bits that may differ")
    parser.add_argument("--confirm", metavar="CHECKPOINT", help="a model that has to agree")
    parser.add_argument("--similarity", type=float, default=0.9, help="the cosine from which on")
    parser.add_argument("--data_dir", help="directory of TFDS data sets")

    def command() -> None:
        options = parser.parse_args(arguments)
        if options.shards < 1 or options.threads < 0 or not 0 <= options.distance < 64:
            raise UserError(
                "--shards must be positive, --threads not negative and --distance from 0 to 63."
            )
        sys.stdout.write(prepare(**vars(options)) + "\n")

    return command_line.exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
