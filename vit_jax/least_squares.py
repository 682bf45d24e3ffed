"""Few-shot linear classification: a linear map in closed form on frozen representations.

A few training images per class, chosen at random, are mapped to targets in {-1, 1}^K by regularised
least squares (ViT paper, section 4.1); the largest output decides. What the paper leaves open is as
in big_vision: each feature is standardised with mean and deviation of the chosen images (the
deviation plus 1e-5), a constant feature of 100 stands for the bias, so that the penalty hardly
reaches it, and the penalty is 2^10.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from train_jax.errors import UserError
from train_jax.task import Probe
from vit_jax.models import api
from vit_jax.representations import ProbeData, Represented, make_extractor

#: In front of the names of data sets, where they stand among other splits.
FEW_SHOT = "fewshot_"
BIAS_FEATURE = 100.0
DEVIATION_FLOOR = 1e-5
# Test images whose outputs are in memory at once.
_CHUNK = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """What is measured of a representation.

    Attributes:
        datasets: by name.
        shots: training images per class; a class that has fewer gives all of them.
        seeds: how many choices of them accuracies are averaged over.
        l2: strengths of the penalty on the weights.
    """

    datasets: Mapping[str, ProbeData]
    shots: tuple[int, ...] = (1, 5, 10, 25)
    seeds: int = 3
    l2: tuple[float, ...] = (2.0**10,)

    def __post_init__(self):
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise UserError(
                f"Few-shot evaluation needs shots and seeds of at least 1, not {self.shots} and "
                f"{self.seeds}."
            )
        if not self.l2 or min(self.l2) <= 0:
            raise UserError(f"Few-shot evaluation needs l2 above 0, not {self.l2}.")


#: shots -> accuracies (strengths of the penalty, seeds).
Accuracies = dict[int, np.ndarray]


class LeastSquares:
    """Regularised least squares from features to targets in {-1, 1}^K, for any penalty.

    Everything is float64: the squared constant feature of 10^4 per image stands beside features of
    variance 1 in one matrix.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, *, num_classes: int) -> None:
        """Decomposes the smaller one of the two products of the features with themselves.

        Args:
            features: (n, D) of any float dtype.
            labels: class indices, int (n,).
            num_classes: K.
        """
        x = np.asarray(features, np.float64)
        self._mean, self._deviation = x.mean(axis=0), x.std(axis=0) + DEVIATION_FLOOR
        x = self._prepare(x)
        targets = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1.0
        # (XᵀX + λ)⁻¹ Xᵀ Y = Xᵀ (XXᵀ + λ)⁻¹ Y.
        if x.shape[0] >= x.shape[1]:
            self._eigenvalues, vectors = np.linalg.eigh(x.T @ x)
            self._left, self._right = vectors, vectors.T @ (x.T @ targets)
        else:
            self._eigenvalues, vectors = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ vectors, vectors.T @ targets

    def _prepare(self, x: np.ndarray) -> np.ndarray:
        x = (np.asarray(x, np.float64) - self._mean) / self._deviation
        return np.pad(x, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)

    def weights(self, l2: float) -> np.ndarray:
        """The minimum (D + 1, K) of ``|XW - Y|² + l2 |W|²``; the last row is the bias' (/ 100)."""
        return (self._left / (self._eigenvalues + l2)) @ self._right

    def accuracies(
        self, features: np.ndarray, labels: np.ndarray, *, l2: Sequence[float]
    ) -> list[float]:
        """For every penalty the share of images whose largest output is one of their labels.

        Args:
            features: (n, D).
            labels: int (n, L), padded with -1.
            l2: the penalties.
        """
        weights, right = [self.weights(each) for each in l2], np.zeros(len(l2))
        for i in range(0, len(features), _CHUNK):
            x, known = self._prepare(features[i : i + _CHUNK]), labels[i : i + _CHUNK]
            for k, w in enumerate(weights):
                guesses = np.argmax(x @ w, axis=1)
                right[k] += np.any(known == guesses[:, None], axis=1).sum()
        return list(right / len(features))


def choose(labels: np.ndarray, *, num_classes: int, seed: int) -> list[np.ndarray]:
    """The images of each class in a random order; the first ``shots`` of each are a choice.

    Args:
        labels: class indices, int (n,).
        num_classes: K.
        seed: another seed, another order. An order holds the smaller choices as its beginning.
    """
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)]


def few_shot(train: Represented, test: Represented, config: FewShotConfig) -> Accuracies:
    """Accuracies on the test images, for every number of shots, penalty and seed."""
    labels = train.labels[:, 0]
    result = {shots: np.zeros((len(config.l2), config.seeds)) for shots in config.shots}
    for seed in range(config.seeds):
        classes = choose(labels, num_classes=train.num_classes, seed=seed)
        for shots in config.shots:
            chosen = np.concatenate([each[:shots] for each in classes])
            solution = LeastSquares(
                train.features[chosen], labels[chosen], num_classes=train.num_classes
            )
            result[shots][:, seed] = solution.accuracies(test.features, test.labels, l2=config.l2)
    return result


def make_probes(
    config: FewShotConfig, model: api.ModelConfig, *, batch_size: int
) -> dict[str, Probe]:
    """Few-shot evaluation during training: for each data set ``5shot``, the mean over seeds.

    With several penalties each has a metric of its own (``5shot_l2=1024``).
    """

    def probe(data: ProbeData) -> Probe:
        def make(mesh: Mesh) -> Any:
            extract = make_extractor(model, data, mesh, batch_size=batch_size)

            def measure(params: Any, model_state: Any) -> dict[str, float]:
                train, test = extract(params, model_state)
                means = means_by_name(few_shot(train, test, config), config)
                return {**means, "examples": float(len(test))}

            return measure

        return Probe(make, data)

    return {f"{FEW_SHOT}{name}": probe(data) for name, data in config.datasets.items()}


def means_by_name(accuracies: Accuracies, config: FewShotConfig) -> dict[str, float]:
    """Metric -> mean over seeds."""
    return {
        f"{shots}shot" + (f"_l2={l2:g}" if len(config.l2) > 1 else ""): float(of_seeds.mean())
        for shots, each in accuracies.items()
        for l2, of_seeds in zip(config.l2, each, strict=True)
    }
