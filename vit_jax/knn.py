"""Nearest neighbours: how well frozen representations tell classes apart without any training.

    python -m vit_jax.knn --config=experiments/vit/knn.py:cifar10 --checkpoint=DIR_OR_NPZ

An image gets the class for which its k nearest training images by cosine similarity s vote, each
with the weight exp(s / temperature) (Wu et al. 2018, section 3.4; k and temperature as in DINO,
Caron et al. 2021). The checkpoint is a run of ours or a published .npz file; the model is read from
it. A result record goes to `results` in the run's directory, or to --record=DIR.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from train_jax import hosts, main
from train_jax.config import FREE
from train_jax.data.placement import local_rows, to_device
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig, make_mesh
from train_jax.sharding import batch_sharding, batch_shards, replicated
from vit_jax.checkpoint_command import define_flags, file_results, named_checkpoint
from vit_jax.representations import (
    ProbeData,
    Represented,
    load_frozen,
    make_extractor,
    only_size,
)

# Similarities that a device holds at once.
_MAX_SIMILARITIES = 1 << 26


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnRun:
    """The command's config.

    Attributes:
        datasets: by name.
        neighbours: the numbers k of neighbours.
        temperature: of the weights exp(similarity / temperature).
        batch_size: images per step.
        averaged: take the averaged parameters of a run that kept them.
        mesh: how devices are used.
    """

    datasets: Mapping[str, ProbeData]
    neighbours: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    batch_size: int = 512
    averaged: bool = True
    mesh: MeshConfig = dataclasses.field(default=MeshConfig(), metadata=FREE)

    def __post_init__(self):
        if not self.neighbours or min(self.neighbours) < 1 or self.temperature <= 0:
            raise UserError(
                "Nearest neighbours need neighbours of at least 1 and a temperature above 0, not "
                f"{self.neighbours} and {self.temperature}."
            )


def nearest(
    train: np.ndarray,
    test: np.ndarray,
    k: int,
    mesh: Mesh,
    *,
    max_similarities: int = _MAX_SIMILARITIES,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar training images of every test image.

    The test images are split over the devices; the training images pass by in chunks, so that no
    device holds more than ``max_similarities`` similarities at once, however many there are.

    Args:
        train: representations, float32 (n, D); the same on every process.
        test: float32 (m, D), likewise.
        k: no more than n.
        mesh: the devices.
        max_similarities: bound on the memory of a device, in numbers.

    Returns:
        Cosine similarities, float32 (m, k), falling, and indices of training images, int32 (m, k);
        of equal similarities the first image comes first.
    """
    shards = batch_shards(mesh)
    rows = -(-len(test) // shards) * shards
    chunk = min(len(train), max(max_similarities // (rows // shards), k))

    def padded(x: np.ndarray, length: int) -> np.ndarray:
        return np.pad(x, [(0, length - len(x)), (0, 0)])

    sharding = batch_sharding(mesh)
    mine = local_rows(sharding, rows)
    queries = to_device({"x": padded(unit(test), rows)[mine]}, sharding, rows)["x"]

    @functools.partial(jax.jit, donate_argnums=(0,), out_shardings=sharding)
    def update(best: Any, queries: jax.Array, keys: jax.Array, first: jax.Array) -> Any:
        new = jnp.einsum("md,nd->mn", queries, keys, precision=jax.lax.Precision.HIGHEST)
        places = first + jnp.arange(chunk, dtype=jnp.int32)
        new = jnp.where(places[None] < len(train), new, -jnp.inf)
        new, index = jax.lax.top_k(new, min(k, chunk))
        both = (jnp.concatenate([best[0], new], 1), jnp.concatenate([best[1], first + index], 1))
        similarities, index = jax.lax.top_k(both[0], k)
        return similarities, jnp.take_along_axis(both[1], index, axis=1)

    begin = {
        "similarity": np.full((len(mine), k), -np.inf, np.float32),
        "index": np.zeros((len(mine), k), np.int32),
    }
    best = tuple(to_device(begin, sharding, rows).values())
    for first in range(0, len(train), chunk):
        keys = padded(unit(train[first : first + chunk]), chunk)
        keys = jax.make_array_from_callback(
            keys.shape, replicated(mesh), lambda index, keys=keys: keys[index]
        )
        best = update(best, queries, keys, jnp.int32(first))
    gather = jax.jit(lambda x: x, out_shardings=replicated(mesh))
    similarities, index = jax.device_get(gather(best))
    return similarities[: len(test)], index[: len(test)]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))


def vote(
    similarities: np.ndarray, labels: np.ndarray, *, num_classes: int, temperature: float
) -> np.ndarray:
    """The class with the largest sum of weights; of equal ones the first.

    Args:
        similarities: (m, k) of the neighbours.
        labels: their classes, int (m, k).
        num_classes: K.
        temperature: of the weights.

    Returns:
        int (m,).
    """
    # Relative to the nearest neighbour, so that nothing overflows.
    weights = np.exp((similarities - similarities[:, :1]).astype(np.float64) / temperature)
    votes = np.zeros((len(labels), num_classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return np.argmax(votes, axis=1)


def accuracies(
    train: Represented, test: Represented, config: KnnRun, mesh: Mesh
) -> dict[int, float]:
    """For every number of neighbours the share of test images that get one of their labels.

    Raises:
        UserError: more neighbours than training images.
    """
    most = max(config.neighbours)
    if most > len(train):
        raise UserError(
            f"{most} neighbours cannot be found among {len(train)} images; choose fewer."
        )
    similarities, index = nearest(train.features, test.features, most, mesh)
    labels, result = train.labels[index, 0], {}
    for k in config.neighbours:
        guesses = vote(
            similarities[:, :k],
            labels[:, :k],
            num_classes=train.num_classes,
            temperature=config.temperature,
        )
        result[k] = float(np.any(test.labels == guesses[:, None], axis=1).mean())
    return result


def evaluate(config: KnnRun, checkpoint: str) -> dict[str, dict[str, float]]:
    """The accuracies of a checkpoint by data set, as ``20nn``, and how many images were tested.

    Raises:
        UserError: the checkpoint or the data cannot be read, or do not fit each other.
    """
    mesh, datasets = make_mesh(config.mesh), dict(config.datasets)
    shape, results = only_size(datasets), {}
    with jax.set_mesh(mesh):
        frozen = load_frozen(checkpoint, mesh, image_shape=shape, averaged=config.averaged)
        for name, data in datasets.items():
            extract = make_extractor(frozen.model, data, mesh, batch_size=config.batch_size)
            train, test = extract(frozen.params, frozen.model_state)
            found = accuracies(train, test, config, mesh)
            results[name] = {f"{k}nn": value for k, value in found.items()}
            results[name]["examples"] = float(len(test))
    return results


def _command() -> int:
    config = main.read_config(KnnRun)
    results = evaluate(config, named_checkpoint())
    if hosts.is_main():
        for name, metrics in results.items():
            cells = [f"{k}-nn {metrics[f'{k}nn']:.2%}" for k in config.neighbours]
            sys.stdout.write(f"{name}: {'  '.join(cells)}  examples {metrics['examples']:.0f}\n")
        file_results("vit_jax.knn", config, results, data=config.datasets)
    return 0


if __name__ == "__main__":
    define_flags()
    main.launch(_command, __doc__ or "")
