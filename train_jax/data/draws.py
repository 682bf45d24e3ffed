"""Random numbers for one example: a pure function of what the example is called.

NumPy's generators cost more to create than a cropped image costs to draw, and their streams may
change between releases; a checkpoint must not depend on either.
"""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Draws:
    """SplitMix64 (Steele et al. 2014), started from a hash of several integers.

    Equal keys give equal draws, on any host, in any thread, for any number of them.
    """

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state = _mix((self._state + part + _GOLDEN) & _MASK)

    def _next(self) -> int:
        self._state = (self._state + _GOLDEN) & _MASK
        return _mix(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Returns a number drawn uniformly from [low, high)."""
        return low + (high - low) * ((self._next() >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        """Returns an integer drawn uniformly from [0, n); the bias is below n / 2^64."""
        return (self._next() * n) >> 64
