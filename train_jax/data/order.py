"""The order of training examples: a pure function of (seed, position).

Nothing is stored and nothing is shuffled in memory: the permutation of each epoch is computed
position by position, so a run of any length over any number of hosts can jump to any step, and
300 million examples cost no more memory than ten.
"""

import dataclasses

import numpy as np

from train_jax.errors import UserError

# A change of the numbers below changes the order of every run: then rename this, so that
# checkpoints of the old order are recognised instead of silently continued in another one.
_SCHEME = "feistel8-v1"
_ROUNDS = 8
# Below 2^4 values per half a Feistel network is a poor shuffler; small data sets pay with a few
# more steps of the cycle walk instead.
_MIN_HALF_BITS = 4


def mix64(values: np.ndarray) -> np.ndarray:
    """Hashes 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014).

    Args:
        values: unsigned 64-bit integers of any shape.

    Returns:
        Hashes, uint64, same shape; a bijection of the 64-bit integers.
    """
    x = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(values: np.ndarray, keys: np.ndarray, *, half_bits: int) -> np.ndarray:
    """Permutes [0, 4^half_bits) with a keyed balanced Feistel network (Luby and Rackoff 1988)."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for i in range(_ROUNDS):
        # The key is mixed per element because positions of two epochs may be asked at once.
        f = mix64(right ^ mix64(keys + np.uint64(i)))
        left, right = right, left ^ (f & mask)
    return (left << bits) | right


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """An endless sequence of dataset indices, reshuffled every epoch.

    Positions [k*n, (k+1)*n) are a permutation of the n examples that depends on (seed, k) only.
    A batch is a range of positions, so it may straddle two epochs and no example is dropped.

    Attributes:
        num_examples: size n of the data set.
        seed: seed of the order, a non-negative integer below 2^63.
    """

    num_examples: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UserError("The training split holds no examples: choose another split.")
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"The data seed must lie in [0, 2^63), got {self.seed}.")

    @property
    def fingerprint(self) -> str:
        """Text that is equal exactly when two orders are equal, for any practical purpose."""
        return f"{_SCHEME}:n={self.num_examples}:seed={self.seed}"

    def indices(self, start: int, stop: int) -> np.ndarray:
        """Returns the dataset indices at positions [start, stop), int64 (stop - start,)."""
        if not 0 <= start <= stop:
            raise ValueError(f"Not a range of positions: [{start}, {stop}).")
        return self.at(np.arange(start, stop, dtype=np.int64))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Returns the dataset indices at any positions.

        Args:
            positions: non-negative int64 positions in the endless sequence, shape (k,).

        Returns:
            Dataset indices in [0, num_examples), int64 (k,).
        """
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.num_examples)
        bits = (self.num_examples - 1).bit_length()
        half_bits = max((bits + 1) // 2, _MIN_HALF_BITS)
        # Hashed one after the other: (seed 0, epoch 1) must not be (seed 1, epoch 0).
        keys = mix64(mix64(np.full(epochs.shape, self.seed, np.uint64)) + epochs.astype(np.uint64))
        result = _feistel(offsets.astype(np.uint64), keys, half_bits=half_bits)
        # Cycle walking (Black and Rogaway 2002): the network permutes a power of four; following
        # it until it re-enters [0, n) restricts it to a permutation of [0, n).
        outside = np.flatnonzero(result >= np.uint64(self.num_examples))
        while outside.size:
            walked = _feistel(result[outside], keys[outside], half_bits=half_bits)
            result[outside] = walked
            outside = outside[walked >= np.uint64(self.num_examples)]
        return result.astype(np.int64)
