"""The public API: names from `import asr`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import asr
from asr.transcript import Transcript


def test_the_public_names_are_there() -> None:
    assert asr.Transcript is Transcript
    assert {*asr.__all__} <= {*dir(asr)}
    for name in asr.__all__:
        assert getattr(asr, name)
    with pytest.raises(AttributeError, match="transcripe"):
        asr.transcripe  # noqa: B018


@pytest.mark.parametrize("name", [name for name in asr.__all__ if not name.startswith("_")])
def test_public_names_are_documented(name: str) -> None:
    """Each public class and method has a docstring."""
    thing = getattr(asr, name)
    assert thing.__doc__
    for method, value in vars(thing).items() if isinstance(thing, type) else ():
        if callable(value) and not method.startswith("_"):
            assert value.__doc__, f"{name}.{method}"


def test_the_reference_renders_without_warnings(tmp_path: Path, repository_root: Path) -> None:
    """An annotation that pdoc cannot resolve is shown as a bare string."""
    pytest.importorskip("pdoc")
    command = [sys.executable, "-W", "error", "-m", "pdoc", "asr", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "asr.html").read_text()
    assert all(f'id="{name}"' in page for name in asr.__all__ if name != "__version__")
