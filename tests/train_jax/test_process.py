"""Where compiled programs are kept."""

import jax
import pytest

from train_jax import process
from train_jax.errors import UserError


@pytest.fixture
def cache_of(monkeypatch):
    """The directory that a command on a workdir would use; this process goes on with its own."""
    chosen = {}
    monkeypatch.setattr(process, "as_path", str)

    def find(workdir=None, **environ):
        with monkeypatch.context() as patched:
            patched.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
            for name, value in environ.items():
                patched.setenv(name, value)
            patched.setattr(jax.config, "update", chosen.__setitem__)
            process._set_up_compilation_cache(workdir)
        return chosen["jax_compilation_cache_dir"]

    return find


def test_programs_are_kept_by_default(cache_of):
    assert cache_of(XDG_CACHE_HOME="/c") == "/c/vit-pose-jax/xla"
    assert cache_of("runs/mine", XDG_CACHE_HOME="/c") == "/c/vit-pose-jax/xla"


def test_a_run_in_a_bucket_keeps_them_there(cache_of):
    assert cache_of("gs://bucket/run") == "gs://bucket/run/xla"
    chosen = {"JAX_COMPILATION_CACHE_DIR": "gs://other/programs"}
    assert cache_of("gs://bucket/run", **chosen) == "gs://other/programs"
    assert cache_of("gs://bucket/run", JAX_COMPILATION_CACHE_DIR="/local") == "/local"


def test_a_bucket_that_cannot_be_read_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="gs://bucket/programs is in a bucket, which needs gcsfs"):
        process._set_up_compilation_cache(None)
