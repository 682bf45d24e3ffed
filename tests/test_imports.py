"""Who may import whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("train_jax", "vit_jax", "pose_jax", "experiments")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path):
    """Dotted names of all that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are harder to search for"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def importers_of(module, *, within="."):
    return {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if path.is_relative_to(ROOT / within)
        and any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("train_jax", "vit_jax"),
        ("train_jax", "pose_jax"),
        ("train_jax", "experiments"),
        ("vit_jax", "experiments"),
        ("vit_jax", "pose_jax"),
    ],
)
def test_lower_layers_do_not_know_the_higher(lower, higher):
    assert importers_of(higher, within=lower) == set()


def test_only_models_are_written_in_linen():
    found = importers_of("flax.linen")
    assert found
    assert {path for path in found if not path.startswith("vit_jax/models/")} == set()


@pytest.mark.parametrize("module", ["tensorflow", "jax._src", "torch"])
def test_nothing_imports(module):
    assert importers_of(module) == set()


@pytest.mark.parametrize("package", ["train_jax", "vit_jax", "vit_jax.models", "vit_jax.data"])
def test_importing_a_package_costs_nothing(package):
    """Its modules cost what they need, the package itself nothing: `--help` has to be quick."""
    heavy = "{'jax', 'numpy', 'flax', 'orbax', 'cv2', 'tensorflow_datasets', 'tensorflow'}"
    code = f"import sys, {package}; print(*sorted({heavy} & set(sys.modules)))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
