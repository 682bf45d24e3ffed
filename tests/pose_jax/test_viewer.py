"""The page of a scene: what is in it, and what it does in a browser."""

import base64
import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pose_jax import motion, viewer
from pose_jax.motion import Person
from pose_jax.viewer import packed
from tests import commands
from tests.scenes import film, scene
from train_jax.errors import UserError

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# Software rendering; nothing that a browser asks the network for by itself.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)


def data_of(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)
    return json.loads(text)


def truth_of(people: int = 2) -> motion.Scene:
    bent = np.zeros((17, 3), np.float32)
    bent[13] = 0, 0.03, 0.04
    measured = scene(people, frames=30)
    moved = tuple(Person(one.name, one.poses + bent) for one in measured.people)
    return dataclasses.replace(measured, people=moved)


def test_numbers_survive_the_packing():
    poses = scene(2).people[1].poses.copy()
    poses[3, 5] = np.nan
    poses[4] = np.nan
    found = packed.places(poses)
    centres = np.frombuffer(base64.b64decode(found["centres"]), "<f4").reshape(-1, 1, 3)
    offsets = np.frombuffer(base64.b64decode(found["offsets"]), "<i2").reshape(poses.shape)
    missing = np.isnan(poses)
    assert (offsets[missing] == -32768).all()
    assert (offsets[~missing] != -32768).all()
    restored = centres + offsets * 1e-4
    np.testing.assert_allclose(restored[~missing], poses[~missing], atol=6e-5)


def test_errors_are_those_of_protocol_1():
    data = data_of(viewer.page(scene(2, frames=30), truth=truth_of()))
    for person in data["people"]:
        tenths = np.frombuffer(base64.b64decode(person["errors"]), "<u2").reshape(30, 17)
        assert (tenths[:, 13] == 500).all()
        assert (np.delete(tenths, 13, axis=1) == 0).all()


def test_names_are_words_not_code():
    evil = "</script><script>alert(1)</script><!--"
    page = viewer.page(scene(names=(evil,)), title=evil)
    assert "alert(1)</script>" not in page
    data = data_of(page)
    assert data["people"][0]["name"] == data["title"] == evil


def test_nothing_is_fetched():
    page = viewer.page(scene())
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.https?:", page)
    assert "import(" not in page
    assert len(page) < 700_000


def test_a_film_fits_its_limit_or_is_left_out(tmp_path):
    video = film(tmp_path / "in.mp4", [50, 100, 150] * 10)
    data = data_of(viewer.page(scene(frames=30), video=video))
    assert data["video"].startswith("data:video/mp4;base64,")
    data = data_of(viewer.page(scene(frames=30), video=video, video_limit=0.0001))
    assert data["video"] is None
    assert "too long for this page" in data["video_note"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="nobody"):
        viewer.page(dataclasses.replace(scene(), people=()))
    with pytest.raises(UserError, match="cannot be written"):
        viewer.write(scene(), str(tmp_path / "none" / "page.html"))


def test_command(tmp_path):
    poses, out = str(tmp_path / "poses.npz"), tmp_path / "page.html"
    motion.write(poses, scene())
    done = commands.shared().run("pose_jax.viewer", poses, f"--output={out}", f"--truth={poses}")
    assert done.code == 0, done.stderr
    assert data_of(out.read_text())["people"][0]["name"] == "Ann"
    done = commands.shared().run("pose_jax.viewer", poses)
    assert done.code == 2
    assert "--output must be given" in done.stderr


def test_in_a_notebook():
    shown = viewer.show(scene(), height=432).data
    assert "height:432px" in shown
    assert shown.count("<iframe") == 1
    # The page is the value of an attribute, which no quotation mark in it may end.
    (value,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert "&lt;!doctype html&gt;" in value


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A page in a browser, and what went wrong or left the page."""
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 920, "height": 480})
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        allowed = ("file:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else faults.append(r.url))
        page.goto(path.as_uri())
        yield page, faults
        browser.close()


def pixels(page: Any) -> np.ndarray:
    """The canvas of the world, uint8 (height, width, 3) BGR."""
    import cv2

    code = page.evaluate("document.getElementById('canvas').toDataURL().split(',')[1]")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(int)


def blue(page: Any) -> int:
    """How many pixels are of a left limb."""
    page.wait_for_timeout(250)
    image = pixels(page)
    return int(((image[..., 0] - image[..., 2]) > 60).sum())


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.timeout(240)
def test_in_a_browser(tmp_path):
    path = tmp_path / "page.html"
    video = film(tmp_path / "in.mp4", [50, 100, 150] * 10)
    viewer.write(
        scene(2, frames=30), str(path), video=video, truth=truth_of(), title="Two", theme="light"
    )
    with opened(path) as (page, faults):
        page.wait_for_function("document.getElementById('video').readyState >= 2")
        everybody = blue(page)
        assert everybody > 100

        # The scrubber sets the frame, of the film too.
        page.evaluate(
            "const s = document.getElementById('scrub');"
            "s.value = 20; s.dispatchEvent(new Event('input'))"
        )
        assert "frame 20" in page.inner_text("#time")
        page.wait_for_function(
            "Math.floor(document.getElementById('video').currentTime * 30) === 20"
        )
        page.keyboard.press("ArrowRight")
        assert page.input_value("#scrub") == "21"

        # A person is hidden and shown.
        page.click("#people button:first-child")
        assert 0 < blue(page) < 0.8 * everybody
        page.keyboard.press("1")
        assert blue(page) > 0.8 * everybody

        # A joint under the pointer tells its name and its error.
        box = page.locator("#canvas").bounding_box()
        told = set()
        for y in np.linspace(0.2, 0.8, 12):
            for x in np.linspace(0.1, 0.9, 24):
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                page.evaluate("new Promise(requestAnimationFrame)")
                if page.is_visible("#tip"):
                    told.add(page.inner_text("#tip"))
            if any("mm off" in text for text in told):
                break
        assert any(
            re.search(r"(Left|Right) \w+\s+(Ann|Bob) · \d+ mm off", text) for text in told
        ), told

        # Colours of errors: no left and right, but a bar with its unit.
        page.keyboard.press("e")
        assert blue(page) < 0.5 * everybody
        assert "150 mm" in page.inner_text("#bar")
        assert page.is_visible("#plot")

        page.keyboard.press("Home")
        page.keyboard.press("Space")
        page.wait_for_function("Number(document.getElementById('scrub').value) >= 3")
        page.keyboard.press("Space")
        assert faults == []


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.timeout(240)
def test_names_in_a_browser(tmp_path):
    """They are shown as they are; without a film the page plays by its own clock."""
    evil = "<img src=x onerror=alert(1)></script>"
    path = tmp_path / "page.html"
    viewer.write(scene(frames=30, names=(evil,)), str(path), title=evil)
    with opened(path) as (page, faults):
        assert page.inner_text("#title") == evil
        assert page.inner_text("#people button") == evil
        page.keyboard.press("Space")
        page.wait_for_function("Number(document.getElementById('scrub').value) >= 2")
        assert faults == []
