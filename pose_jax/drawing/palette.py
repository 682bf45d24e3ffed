"""The colours of pictures of poses, BGR as OpenCV has them.

Left is blue and right is orange, which every common kind of colour blindness tells apart (Okabe and
Ito, "Color Universal Design"); the middle of a body is in the colour of its person. Errors go from
dark blue through green to yellow, lighter the larger: the map "viridis" of Smith and van der Walt.
"""

import dataclasses

Colour = tuple[int, int, int]


def bgr(code: str) -> Colour:
    """The colour of a hexadecimal code, "rrggbb"."""
    red, green, blue = (int(code[i : i + 2], 16) for i in (0, 2, 4))
    return blue, green, red


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a page.

    Attributes:
        page: behind everything.
        floor: of the ground.
        grid: of its lines.
        text: of words.
        quiet: of words that matter less.
        left: of the left limbs.
        right: of the right limbs.
        truth: of measured poses.
        people: of the trunks, from the first person on.
    """

    page: Colour
    floor: Colour
    grid: Colour
    text: Colour
    quiet: Colour
    left: Colour
    right: Colour
    truth: Colour
    people: tuple[Colour, ...]


LIGHT = Theme(
    page=bgr("f6f7f9"),
    floor=bgr("eceff3"),
    grid=bgr("bcc4ce"),
    text=bgr("1c2430"),
    quiet=bgr("5d6877"),
    left=bgr("0f6fc5"),
    right=bgr("e8820c"),
    truth=bgr("8a94a1"),
    people=tuple(map(bgr, ("009e73", "b8578f", "6b4fa1", "7a5c2e", "3d4a5a", "a3a000"))),
)
DARK = Theme(
    page=bgr("12161c"),
    floor=bgr("1a2029"),
    grid=bgr("3b4655"),
    text=bgr("eef2f7"),
    quiet=bgr("9aa7b6"),
    left=bgr("4aa8ff"),
    right=bgr("ffa640"),
    truth=bgr("8693a3"),
    people=tuple(map(bgr, ("2cd6a2", "e58fc4", "ab92ea", "c9a468", "c3cedb", "e3e04a"))),
)
THEMES = {"light": LIGHT, "dark": DARK}

#: The map of errors, evenly spaced.
_VIRIDIS = ("440154", "46327e", "365c8d", "277f8e", "1fa187", "4ac16d", "a0da39", "fde725")
ERROR_COLOURS = tuple(map(bgr, _VIRIDIS))


def error_colour(share: float) -> Colour:
    """The colour of an error, given as a share of the largest one that is told apart."""
    at = min(max(share, 0.0), 1.0) * (len(ERROR_COLOURS) - 1)
    low = min(int(at), len(ERROR_COLOURS) - 2)
    return mix(ERROR_COLOURS[low], ERROR_COLOURS[low + 1], at - low)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """A colour between two; ``share`` of the other."""
    blue, green, red = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return blue, green, red
