"""Near-duplicates by a perceptual hash.

The ViT paper removes from its pre-training sets what is in the test sets of its downstream tasks,
"following" BiT (section 4.1; BiT paper, appendix C), neither of which publishes a method. Here two
images are candidates where their difference hashes are within a few bits of each other, which a
change of size, compression or brightness leaves them; crops and mirror images are not found.
Pictures with little in them (a plain background) share hashes with many others: for a second look
see vit_jax/similarity.py.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from vit_jax.data.resize import resize

_BITS = 64


def difference_hash(pixels: np.ndarray) -> int:
    """dHash: whether grey levels rise from left to right, on a grid of 8 x 9 averages.

    Args:
        pixels: uint8 (h, w, 3).

    Returns:
        64 bits, the upper left comparison the highest.
    """
    grey = resize(pixels, (8, 9), method="area") @ np.array([0.299, 0.587, 0.114], np.float32)
    # Levels are rounded: differences below one grey level are noise of the decoder.
    grey = np.round(grey)
    rises = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int.from_bytes(np.packbits(rises).tobytes(), "big")


def near_pairs(
    hashes: np.ndarray, against: np.ndarray, *, distance: int
) -> Iterator[tuple[int, int, int]]:
    """All pairs whose hashes differ in at most some bits.

    Hashes are cut into one band more than bits may differ: of a pair, one band is equal. So every
    pair is found, and few others are looked at.

    Args:
        hashes: uint64 (n,).
        against: uint64 (m,).
        distance: how many bits may differ.

    Yields:
        Index in `hashes`, index in `against`, number of bits; each pair once, in no order.
    """
    bands = distance + 1
    cuts = [_BITS * i // bands for i in range(bands + 1)]
    hashes, against = np.asarray(hashes, np.uint64), np.asarray(against, np.uint64)
    masks = [
        np.uint64(((1 << (stop - start)) - 1) << start) for start, stop in itertools.pairwise(cuts)
    ]
    for band, mask in enumerate(masks):
        ours = hashes & mask
        order = np.argsort(ours, kind="stable")
        ranked = ours[order]
        wanted = against & mask
        first = np.searchsorted(ranked, wanted, "left")
        last = np.searchsorted(ranked, wanted, "right")
        for j in np.flatnonzero(last > first):
            found = order[first[j] : last[j]]
            difference = hashes[found] ^ against[j]
            bits = np.bitwise_count(difference)
            fits = bits <= distance
            for earlier in masks[:band]:  # which have reported it
                fits &= (difference & earlier) != 0
            for i, count in zip(found[fits], bits[fits], strict=True):
                yield int(i), int(j), int(count)
