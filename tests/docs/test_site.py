"""The documentation site, and the files that describe the project."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def distribution() -> dict:
    """What setup.py gives to setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return given


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "commands" / "vit_jax.train" / "index.html").read_text()
    assert "--workdir" in page
    html = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    # Nothing is fetched from elsewhere when a page is opened.
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|stylesheet" href)="https?:', html)


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/]+\.md", config.partition("\nnav:")[2]))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == there


def test_links_between_pages_lead_somewhere():
    generated = ("commands/", "recipes/", "api/")
    for path in (ROOT / "docs").rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+\.md)", path.read_text(encoding="utf-8")):
            target = (path.parent / link).resolve()
            name = target.relative_to(ROOT / "docs").as_posix()
            assert target.is_file() or name.startswith(generated), f"{path.name}: {link}"


def test_installation_tells_of_every_extra_and_no_other(distribution):
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    table = text.partition("## Extras")[2].partition("## Where")[0]
    rows = re.findall(r"^\|((?: `[\w-]+`,?)+) \|", table, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert told == set(distribution["extras_require"])


def test_extras_that_are_told_of_anywhere_exist(distribution):
    there = set(distribution["extras_require"])
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *_sources()]:
        for names in re.findall(r"pip install -e '?\.\[([\w,-]+)\]", path.read_text("utf-8")):
            assert set(names.split(",")) <= there, f"{path.name}: {names}"


def test_everything_that_is_no_python_is_packaged(distribution):
    # Pages, style sheets and lists that programs read have to be in a wheel too.
    packages, patterns = distribution["packages"], distribution["package_data"]
    tracked = subprocess.run(
        ["git", "ls-files", "train_jax", "vit_jax", "pose_jax"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    packaged = {
        path.relative_to(ROOT).as_posix()
        for package, globs in patterns.items()
        for glob in globs
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    assert set(patterns) <= set(packages)
    missing = [name for name in tracked if not name.endswith(".py") and name not in packaged]
    assert not missing
    for name in tracked:
        if name.endswith(".py"):
            assert name.rpartition("/")[0].replace("/", ".") in packages, f"{name} is in no package"


def test_the_citation_names_this_software_and_both_papers(distribution):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    assert cited["type"] == "software"
    assert cited["version"] == distribution["version"]
    assert cited["license"] == distribution["license"]
    identifiers = [i["value"] for r in cited["references"] for i in r["identifiers"]]
    assert identifiers == ["arXiv:2010.11929", "arXiv:1811.11742"]
    for reference in cited["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_the_changelog_is_of_this_version(distribution):
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(distribution['version'])}\]", text, re.MULTILINE)


def _sources() -> list[Path]:
    packages = ("train_jax", "vit_jax", "pose_jax", "experiments", "colabs")
    return [path for name in packages for path in (ROOT / name).rglob("*.py")]
