"""Files from a web server: resumed where a transfer was cut, and checked whenever they are used.

Beside the files lies `manifest.json`, which says of each where it came from, how long it is and
what its SHA-256 is. This is recorded when a file arrives, so it shows any change since then; it
cannot show that the server sent what its owner meant, unless the owner publishes checksums.

A transfer that was cut leaves NAME.partial. It is continued (HTTP Range) only if the server says
that its file is still the same (If-Range with ETag or Last-Modified), else begun anew.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train_jax.errors import UserError

MANIFEST = "manifest.json"

_BLOCK = 1 << 20
_ATTEMPTS = 3
_SECONDS = 30.0  # without a byte, after which a connection is given up
_PAUSE = 2.0  # seconds before another attempt


class _Cut(Exception):
    """A transfer that ended early, with the reason, and may be tried again."""


def fetch(url: str, path: str | os.PathLike[str]) -> bool:
    """Downloads one file, unless it is there.

    Args:
        url: of the file.
        path: where to put it; its directory is made.

    Returns:
        Whether anything was fetched.

    Raises:
        UserError: the server does not give it, is not reached, or the transfer was cut again and
            again; or the file is there but has changed since it was fetched.
    """
    path = Path(path)
    if path.exists():
        verify(path)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _transfer(url, path)
        except _Cut as cut:
            if attempt == _ATTEMPTS:
                raise UserError(
                    f"{url} cannot be fetched: {cut}; the same command goes on from there."
                ) from cut
            time.sleep(_PAUSE)
        else:
            break
    return True


def verify(path: str | os.PathLike[str]) -> None:
    """Checks a file against the manifest beside it; a file that it does not list is taken as it is.

    Raises:
        UserError: the file is not what was fetched.
    """
    path = Path(path)
    entry = _read_manifest(path.parent).get(path.name, {})
    if "sha256" in entry and _sha256(path) != entry["sha256"]:
        raise UserError(
            f"{path} is not what was fetched from {entry.get('url')} (its SHA-256 differs from "
            f"{MANIFEST}); delete it and download again."
        )


def verify_all(directory: str | os.PathLike[str]) -> int:
    """Checks every file that a manifest in or below a directory lists, and that is there.

    Returns:
        How many there were.

    Raises:
        UserError: as :func:`verify`.
    """
    count = 0
    for manifest in sorted(Path(directory).rglob(MANIFEST)):
        for name in _read_manifest(manifest.parent):
            if (manifest.parent / name).exists():
                verify(manifest.parent / name)
                count += 1
    return count


def _transfer(url: str, path: Path) -> None:
    """One attempt; goes on with what is there of the last."""
    partial = path.with_name(f"{path.name}.partial")
    begun = _read_manifest(path.parent).get(path.name, {}).get("validator")
    have = partial.stat().st_size if partial.exists() and begun else 0
    headers = {"User-Agent": "pose_jax", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": str(begun)}
    try:
        with _opened(url, headers) as response:
            resumed = response.status == http.client.PARTIAL_CONTENT
            if resumed and not _continues(response, have):
                raise UserError(f"{url}: the server sent another part than it was asked for.")
            length = response.headers.get("Content-Length")
            whole = None if length is None else int(length) + (have if resumed else 0)
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            _note(path, {"url": url, "validator": validator})
            with partial.open("ab" if resumed else "wb") as stream:
                for block in _blocks(response):
                    stream.write(block)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()
            raise _Cut("what was fetched before did not fit") from error
        raise _refusal(url, error) from error
    except urllib.error.URLError as error:
        raise UserError(
            f"{url} cannot be reached ({error.reason}); check the network, or name a mirror by "
            "--url."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Cut(f"the transfer failed ({str(error) or type(error).__name__})") from error
    size = partial.stat().st_size
    if whole is not None and size != whole:
        raise _Cut(f"the connection was cut after {size:,} of {whole:,} bytes")
    # The sum first: a file under its own name is always one whose sum is known.
    _note(path, {"url": url, "bytes": size, "sha256": _sha256(partial)})
    partial.replace(path)


def _opened(url: str, headers: dict[str, str]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is no address that begins with http:// or https://.")
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.urlopen(request, timeout=_SECONDS)


def _continues(response: Any, have: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _blocks(response: Any) -> Iterator[bytes]:
    while block := response.read(_BLOCK):
        yield block


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code >= http.client.INTERNAL_SERVER_ERROR:
        return _Cut(f"the server answers {error.code} ({error.reason})")
    return UserError(
        f"{url} cannot be fetched: the server answers {error.code} ({error.reason}); name a mirror "
        "by --url."
    )


def _read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / MANIFEST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to do without.") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise UserError(f"{path} is no manifest of downloads; delete it to do without.")
    return found


def _note(path: Path, entry: dict[str, Any]) -> None:
    manifest = path.parent / MANIFEST
    entries = {**_read_manifest(path.parent), path.name: entry}
    temporary = manifest.with_name(f".{MANIFEST}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    temporary.replace(manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
