"""The setting is taken on glibc, and harmless anywhere."""

import platform

from train_jax.host_memory import keep_freed_memory


def test_taken_on_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
