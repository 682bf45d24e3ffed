"""Frames of videos."""

import io
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from pose_jax.video import decode
from train_jax.errors import UserError


def film(path, times, *, size=(64, 48), turned=0):
    """A video whose upper left quarter is bright, with frames at these milliseconds."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 5
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[: size[1] // 2, : size[0] // 2] = 220
        for time in times:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turned:
        matrix = {90: b"\0\0\0\0\0\1\0\0", -90: b"\0\0\0\0\xff\xff\0\0"}[turned]
        content = path.read_bytes()
        at = content.index(b"\0\1\0\0" + bytes(12) + b"\0\1\0\0", content.index(b"tkhd"))
        # a b u, c d v of the track header's matrix.
        other = b"\xff\xff\0\0" if turned == 90 else b"\0\1\0\0"
        changed = matrix + bytes(4) + other + bytes(4)
        path.write_bytes(content[:at] + changed + content[at + 20 :])
    return str(path)


def test_frames_have_their_own_times(tmp_path):
    times = [0, 33, 66, 200, 233, 500]
    path = film(tmp_path / "a.mp4", times)
    found = [frame.time for frame in decode.frames(path)]
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=2e-3)
    assert decode.outline(path).frames == 6


@pytest.mark.parametrize(("turned", "corner"), [(90, "right"), (-90, "left")])
def test_a_telephone_that_was_held_upright_gives_upright_frames(tmp_path, turned, corner):
    path = film(tmp_path / "a.mp4", range(0, 200, 40), turned=turned)
    image = next(decode.frames(path)).image
    assert image.shape == (64, 48, 3)
    bright = np.argwhere(image[..., 0] > 150).mean(axis=0)
    # Turned clockwise the upper left comes to the upper right, else to the lower left.
    assert bright[1] > 24 if corner == "right" else bright[1] < 24
    assert bright[0] < 32 if corner == "right" else bright[0] > 32


def test_of_a_pipe_that_is_cut_the_frames_before_are_used(tmp_path, monkeypatch):
    path = tmp_path / "a.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 5
        rng = np.random.default_rng(0)
        for _ in range(30):
            image = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()

    class Pipe:
        buffer = io.BytesIO(content[: len(content) // 2])

    monkeypatch.setattr(sys, "stdin", Pipe)
    assert 5 < len(list(decode.frames(decode.PIPE))) < 25


def test_what_is_no_video_is_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no video"):
        decode.outline(str(tmp_path / "none.mp4"))
    path = film(tmp_path / "a.mp4", range(0, 400, 40))
    cut = tmp_path / "cut.mp4"
    with open(path, "rb") as stream:
        cut.write_bytes(stream.read()[:300])
    with pytest.raises(UserError, match="damaged, cut short"):
        decode.outline(str(cut))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
    with pytest.raises(UserError, match="no video track"):
        decode.outline(str(tmp_path / "sound.wav"))
