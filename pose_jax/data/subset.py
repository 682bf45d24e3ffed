"""Which part of a recording counts as labelled in experiments with few labels.

A contiguous run of frames, at a place that depends on nothing but the length of the recording: the
same everywhere, without a random generator (paper's implementation).
"""

import hashlib

from train_jax.errors import UserError


def subset_range(length: int, fraction: float, downsample: int) -> tuple[int, int]:
    """The frames of a recording to use: every ``downsample``-th of ``range(start, stop)``.

    Args:
        length: frames of the recording.
        fraction: of the frames, in (0, 1]; 1 is all of them.
        downsample: distance of the frames used; 5 makes 10 frames per second out of 50.

    Returns:
        (start, stop). ``stop - start`` is a multiple of ``downsample`` unless ``fraction`` is 1.
        The range of a short recording can be empty: a tenth of four frames is none.

    Raises:
        UserError: an argument is out of range.
    """
    if length < 1:
        raise UserError(f"A recording of {length} frames has no part to train on; leave it out.")
    if not 0 < fraction <= 1:
        raise UserError(f"The subset is {fraction}; give a share of the frames in (0, 1].")
    if downsample < 1:
        raise UserError(f"downsample is {downsample}; give a whole number from 1 on.")
    if fraction == 1:
        return 0, length
    # Halves are rounded to the even number, as Python does.
    frames = round(length // downsample * fraction) * downsample
    start = deterministic_random(0, length - frames + 1, str(length))
    return start, start + frames


def deterministic_random(low: int, high: int, text: str) -> int:
    """A number in [low, high) that looks random and depends on nothing but the arguments.

    The first four bytes of the text's SHA-256 digest, the lowest first, as a share of the largest
    such number. (That one itself, once in 2³² texts, gives ``high``.)
    """
    digest = hashlib.sha256(text.encode()).digest()
    share = int.from_bytes(digest[:4], "little") / (2**32 - 1)
    return low + int(share * (high - low))
