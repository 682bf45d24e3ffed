"""Decoding: every kind of file becomes RGB uint8, crops equal whole pictures, damage is named."""

import cv2
import numpy as np
import pytest
import simplejpeg

from vit_jax.data.decode import CorruptImageError, Picture


def photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A picture with the spectrum of a photograph."""
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    radius = np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    image = np.fft.irfft2(np.fft.rfft2(noise) / radius, (height, width))
    image = 127 + 50 * image / image.std()
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def encode(image: np.ndarray, extension: str, *options: int) -> bytes:
    if image.ndim == 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return cv2.imencode(extension, image, list(options))[1].tobytes()


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("fast_dct", [False, True])
def test_a_crop_has_the_pixels_of_the_whole_picture(subsampling, fast_dct):
    image = photograph(237, 123)
    data = simplejpeg.encode_jpeg(image, quality=90, colorsubsampling=subsampling)
    whole = simplejpeg.decode_jpeg(data, fastdct=fast_dct)
    for top, height in [(0, 1), (0, 16), (3, 60), (17, 111), (100, 90), (100, 137), (200, 37)]:
        crop = Picture(data, fast_dct=fast_dct).crop(top, 5, height, 100)
        np.testing.assert_array_equal(crop, whole[top : top + height, 5:105])


def test_every_height_of_a_crop_is_exact():
    data = simplejpeg.encode_jpeg(photograph(100, 40), quality=95, colorsubsampling="420")
    whole = simplejpeg.decode_jpeg(data)
    for height in range(1, 101):
        np.testing.assert_array_equal(Picture(data).crop(0, 0, height, 40), whole[:height])


@pytest.mark.parametrize(
    "options",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    ],
)
def test_crops_of_other_jpeg_files(options):
    data = encode(photograph(120, 80), ".jpg", *options)
    whole = simplejpeg.decode_jpeg(data)
    np.testing.assert_array_equal(Picture(data).crop(8, 8, 30, 60), whole[8:38, 8:68])
    assert Picture(data).size == (120, 80)


def test_grey_becomes_three_equal_channels():
    grey = photograph(20, 30)[..., 0]
    np.testing.assert_array_equal(Picture(encode(grey, ".png")).pixels, np.dstack([grey] * 3))
    jpeg = Picture(encode(grey, ".jpg")).pixels
    assert jpeg.shape == (20, 30, 3)
    np.testing.assert_array_equal(jpeg[..., 0], jpeg[..., 2])
    np.testing.assert_array_equal(Picture(grey).pixels, np.dstack([grey] * 3))
    np.testing.assert_array_equal(Picture(grey[..., None]).pixels, np.dstack([grey] * 3))


def test_alpha_is_dropped():
    rgba = np.dstack([photograph(20, 30), np.arange(600).reshape(20, 30) % 256]).astype(np.uint8)
    np.testing.assert_array_equal(Picture(encode(rgba, ".png")).pixels, rgba[..., :3])
    np.testing.assert_array_equal(Picture(rgba).pixels, rgba[..., :3])


def test_sixteen_bits_keep_the_upper_eight():
    deep = (photograph(20, 30).astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(Picture(encode(deep, ".png")).pixels, deep >> 8)
    np.testing.assert_array_equal(Picture(deep).pixels, deep >> 8)


def test_palette_png():
    # A hand-made PNG: 2x2 pixels, four palette entries.
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7]))
    body = chunk(b"IDAT", zlib.compress(bytes([0, 0, 1, 0, 2, 3])))
    png = b"\x89PNG\r\n\x1a\n" + header + palette + body + chunk(b"IEND", b"")
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]]
    np.testing.assert_array_equal(Picture(png).pixels, expected)


def test_cmyk_jpeg():
    # The four components of a CMYK file without the inversion that Adobe's marker asks for.
    rgb = photograph(32, 48)
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(np.dstack([255 - rgb, np.zeros((32, 48), np.uint8)])),
        colorspace="CMYK",
        quality=95,
        colorsubsampling="444",
    )
    picture = Picture(data)
    assert picture.size == (32, 48)
    assert picture.crop(0, 0, 8, 8).shape == (8, 8, 3)
    assert picture.pixels.dtype == np.uint8


def test_orientation_tags_are_ignored():
    data = encode(photograph(24, 40), ".jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    tagged = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert Picture(tagged).size == (24, 40)
    np.testing.assert_array_equal(Picture(tagged).pixels, Picture(data).pixels)


@pytest.mark.parametrize("cut", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_truncated_files_are_corrupt(extension, cut):
    data = encode(photograph(120, 80), extension)
    short = data[: int(len(data) * cut)]
    with pytest.raises(CorruptImageError):
        _ = Picture(short).pixels
    with pytest.raises(CorruptImageError):
        Picture(short).crop(0, 0, 20, 20)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_corrupt(data):
    with pytest.raises(CorruptImageError):
        _ = Picture(data).size


def test_damage_inside_the_scan_is_noticed_within_the_crop():
    data = bytearray(encode(photograph(240, 160), ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 4))
    scan = data.index(b"\xff\xda") + 14
    damaged = data[: scan + 300] + bytes([0xFF, 0xD9]) + data[scan + 300 :]
    with pytest.raises(CorruptImageError):
        Picture(bytes(damaged)).crop(0, 0, 100, 100)


def test_bytes_after_the_end_are_no_damage():
    data = encode(photograph(40, 40), ".jpg")
    np.testing.assert_array_equal(Picture(data + b"\0" * 100).pixels, Picture(data).pixels)


def test_headers_that_promise_too_much_are_damage():
    data = bytearray(encode(photograph(30, 40), ".png"))
    data[18:20] = b"\xff\xff"
    data[22:24] = b"\xff\xff"
    with pytest.raises(CorruptImageError, match="65535 x 65535"):
        _ = Picture(bytes(data)).pixels


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp"])
def test_random_damage_is_survived(extension):
    rng = np.random.default_rng(0)
    whole = encode(photograph(30, 40), extension)
    for _ in range(30):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(damaged), 700), 3):
            damaged[at] = rng.integers(256)
        picture = Picture(bytes(damaged))
        try:
            height, width = picture.size
            assert picture.crop(0, 0, height // 2, width).shape == (height // 2, width, 3)
            assert picture.pixels.shape == (height, width, 3)
        except CorruptImageError:
            pass


def test_threads_decode_at_the_same_time():
    # functools.cached_property of Python 3.11 holds a lock of the class while it computes.
    import threading

    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (8, 8, 3))
    meeting = threading.Barrier(2, timeout=20)

    class Slow(Picture):
        def _decode(self):
            meeting.wait()
            return super()._decode()

    threads = [threading.Thread(target=lambda: Slow(image).pixels) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not meeting.broken
