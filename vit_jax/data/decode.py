"""From the bytes of an image file to RGB uint8 pixels.

JPEG goes through libjpeg-turbo with the accurate inverse DCT and smooth chroma upsampling, which
equals TensorFlow's `INTEGER_ACCURATE` decoding bit for bit; everything else goes through OpenCV.
As in TensorFlow, orientation tags are ignored and alpha is dropped.

A crop needs no pixels below its lower edge. A sequential JPEG is decoded from top to bottom, so
lowering the height that its header declares makes the decoder stop there, at exactly the pixels
that it would have produced: this saves a quarter of the decoding time of random crops.
"""

import dataclasses

import cv2
import numpy as np
import simplejpeg

# Threads belong to the pipeline: one image per thread scales better than one image over threads.
cv2.setNumThreads(0)

# Rows below the ones asked for: smooth chroma upsampling looks one chroma row (two pixels) ahead.
_MARGIN = 8
# Larger ones are damaged headers, which would cost gigabytes and seconds to find out.
_MAX_PIXELS = 1 << 28
_PNG = b"\x89PNG\r\n\x1a\n"
_SEQUENTIAL = (0xC0, 0xC1)
_NO_LENGTH = (0x01, *range(0xD0, 0xD9))
_FRAMES = tuple(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))


class CorruptImageError(ValueError):
    """The bytes are not a complete, readable image."""


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What the header of a JPEG file says.

    Attributes:
        height: rows.
        width: columns.
        components: 1 grey, 3 colour, 4 CMYK.
        height_at: offset of the two bytes that hold the height.
        can_stop: the scan runs over all components from top to bottom.
    """

    height: int
    width: int
    components: int
    height_at: int
    can_stop: bool


def _parse_jpeg(data: bytes) -> _Frame | None:
    """Reads the frame header of a JPEG file; None when there is none."""
    at, frame = 2, None
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker == 0xDA:
            # A scan of fewer components than the frame is followed by further scans.
            if frame is None or data[at + 4] == frame.components:
                return frame
            return dataclasses.replace(frame, can_stop=False)
        else:
            if marker in _FRAMES:
                height, width = _two(data, at + 5), _two(data, at + 7)
                sequential = marker in _SEQUENTIAL and height > 0
                frame = _Frame(height, width, data[at + 9], at + 5, sequential)
            at += 2 + _two(data, at + 2)
    return None


def _two(data: bytes, at: int) -> int:
    return (data[at] << 8) | data[at + 1]


def _decode_jpeg(data: bytes, *, fast_dct: bool) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, fastdct=fast_dct)
    except ValueError as error:
        # Stray bytes between segments are common in the wild and lose no pixels.
        if "extraneous bytes" not in str(error):
            raise CorruptImageError(str(error)) from error
    try:
        return simplejpeg.decode_jpeg(data, fastdct=fast_dct, strict=False)
    except ValueError as error:
        raise CorruptImageError(str(error)) from error


def _decode_top(data: bytes, frame: _Frame, rows: int, *, fast_dct: bool) -> np.ndarray | None:
    """Decodes the first `rows` rows of a sequential JPEG; None when that is not possible."""
    short = bytearray(data)
    short[frame.height_at : frame.height_at + 2] = rows.to_bytes(2, "big")
    pixels = np.empty((rows, frame.width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(short, fastdct=fast_dct, buffer=pixels)
    except ValueError as error:
        # libjpeg reports the first thing it dislikes. Data left over after the last row is what we
        # provoked; anything that went wrong before it would have been reported instead.
        if "extraneous bytes before marker 0xd" not in str(error):
            return None
    return pixels


def _check_size(height: int, width: int) -> None:
    if height * width > _MAX_PIXELS:
        raise CorruptImageError(f"the header promises {height} x {width} pixels")


def _check_png(data: bytes) -> None:
    """Checks what OpenCV would believe: sizes, and that all chunks up to the last are there."""
    _check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data):
            raise CorruptImageError("the file is truncated")


def _decode_other(data: bytes) -> np.ndarray:
    if not data:
        raise CorruptImageError("the file is empty")
    if data.startswith(_PNG):
        _check_png(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # the header promises an impossible size, for example
        raise CorruptImageError(str(error)) from error
    if pixels is None:
        raise CorruptImageError("not a readable image")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise CorruptImageError(f"an array of {array.dtype} {array.shape} is not an image")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[-1] in (1, 2):  # grey, grey with alpha
        return np.repeat(array[:, :, :1], 3, axis=2)
    return array[:, :, :3]


class Picture:
    """An image that is decoded when its pixels are asked for, and only as far as needed."""

    def __init__(self, image: bytes | np.ndarray, *, fast_dct: bool = False) -> None:
        """Opens an encoded image, or wraps an array.

        Args:
            image: a JPEG, PNG, BMP or WebP file, or pixels (h, w), (h, w, 1..4) uint8 or uint16.
            fast_dct: the less accurate inverse DCT that TensorFlow uses by default, 1.2 grey
                levels away on average and about 5 % faster.
        """
        self._image = image
        self._fast_dct = fast_dct
        self._pixels: np.ndarray | None = None
        self._frame: _Frame | None = None
        if isinstance(image, bytes) and image[:2] == b"\xff\xd8":
            self._frame = _parse_jpeg(image)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self._frame is not None and self._frame.height > 0:
            _check_size(self._frame.height, self._frame.width)
            return self._frame.height, self._frame.width
        return self.pixels.shape[0], self.pixels.shape[1]

    # Not functools.cached_property, which in Python 3.11 lets one thread at a time decode.
    @property
    def pixels(self) -> np.ndarray:
        """All pixels, uint8 (h, w, 3).

        Raises:
            CorruptImageError: the bytes cannot be decoded completely.
        """
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels

    def _decode(self) -> np.ndarray:
        if isinstance(self._image, np.ndarray):
            return _from_array(self._image)
        if self._frame is not None and self._frame.components in (1, 3):
            _check_size(self._frame.height, self._frame.width)
            return _decode_jpeg(self._image, fast_dct=self._fast_dct)
        return _decode_other(self._image)

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns a view of a rectangle, uint8 (height, width, 3), equal to that of `pixels`."""
        source = self._top(top + height + _MARGIN)
        if source is None:
            source = self.pixels
        return source[top : top + height, left : left + width]

    def _top(self, rows: int) -> np.ndarray | None:
        """Decodes rows from the top on; None where decoding everything is as good or needed."""
        frame = self._frame
        if frame is None or not frame.can_stop or frame.components not in (1, 3):
            return None
        if self._pixels is not None or rows + _MARGIN >= frame.height:
            return None
        data = self._image
        # A file without its end is truncated: decoding it as a whole says so.
        if not isinstance(data, bytes) or not data.endswith(b"\xff\xd9"):
            return None
        return _decode_top(data, frame, rows, fast_dct=self._fast_dct)
