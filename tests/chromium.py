"""A headless Chromium that opens a page from a file, and notes its complaints and its requests."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclasses.dataclass
class Opened:
    """A page in the browser.

    Attributes:
        page: Playwright's.
        complaints: what it wrote to the console, and errors that nobody caught.
        requests: all that it asked for beside itself and what is in it.
    """

    page: Any
    complaints: list[str]
    requests: list[str]


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(_NAMES)})")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        yield running
        running.close()


@contextlib.contextmanager
def opened(running: Any, path: Path, *, colours: str = "light") -> Iterator[Opened]:
    """Opens a page, and waits until it has loaded."""
    page = running.new_page(viewport={"width": 1280, "height": 900}, color_scheme=colours)
    page.set_default_timeout(20_000)
    found = Opened(page, [], [])
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))

    def note(request: Any) -> None:
        if not request.url.startswith(("data:", "blob:")) and request.url != path.as_uri():
            found.requests.append(request.url)

    page.on("request", note)
    page.goto(path.as_uri())
    yield found
    page.close()
