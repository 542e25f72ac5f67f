"""The kernels that oneDNN compiles, read from its own log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch.backends import mkldnn

needs_onednn = pytest.mark.skipif(not mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")


@contextmanager
def compiled_kernels(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """A list that gets a line for each kernel compiled within the block. The log goes to standard output."""
    found: list[str] = []
    capfd.readouterr()
    with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
        yield found
    found += [line for line in capfd.readouterr().out.splitlines() if "create:cache_miss" in line]
