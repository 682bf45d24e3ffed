"""One HTML file that needs nothing else: style, script and data are in it.

The page may load nothing (its Content-Security-Policy forbids all requests), and what the user gave
(names, paths, configs) reaches it as data that its script puts into text nodes, never as markup.
"""

import base64
import html
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from train_jax.errors import UserError
from train_jax.stored import as_path, brief

_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
# Colours and type that the pages share.
_STYLE = Path(__file__).with_suffix(".css")


def compose(title: str, parts: Path, data: Mapping[str, Any]) -> str:
    """A page.

    Args:
        title: of the window.
        parts: a directory with ``page.html`` (the body), ``page.css`` and ``page.js``.
        data: JSON values; the script finds them in ``#data``. NaN and infinities become null.
    """
    body, style, script = (
        (parts / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}{style}</style>\n</head>\n"
        f"<body>\n{body}"
        f'<script type="application/json" id="data">{embedded_json(data)}</script>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def embedded_json(value: Any) -> str:
    """JSON that may stand in a script element, whatever texts are in it."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def packed(array: np.ndarray) -> str:
    """Bytes of an array, little-endian, deflated (zlib), in base64: what the scripts unpack."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes(), 6)).decode()


def write(path: str, page: str) -> epath.Path:
    """Writes a page, and the directories above it.

    Raises:
        UserError: that is not possible.
    """
    place = as_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({brief(error)}); name another file.") from error
    return place


def in_cell(page: str, *, height: int) -> Any:
    """A page as the result of a notebook cell, in a frame of its own."""
    from IPython.display import HTML  # only notebooks have it

    # In an element of its own: IPython warns of a frame by itself.
    frame = (
        f'<div><iframe srcdoc="{html.escape(page, quote=True)}" width="100%" height="{height}" '
        'style="border:0" sandbox="allow-scripts"></iframe></div>'
    )
    return HTML(frame)
