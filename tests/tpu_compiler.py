"""For tests that compile for TPUs, which `pip install -e '.[test]'` makes possible."""

import importlib.util

import pytest

NEEDS_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra: test)"
)
