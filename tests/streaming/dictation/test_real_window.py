"""Dictation with a real microphone and window: played speech is typed into a browser's text field."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jiwer
import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE, load
from streaming.dictation.edits import Delete, Press, Type
from streaming.dictation.typers import find_typer
from tests.support.dictating import plugin
from tests.support.pulse import virtual_microphone

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.mic, pytest.mark.browser]
SAID = "the old man stood at the window and watched the boats come home before the storm"
VALUE = "document.querySelector('textarea').value"


def wait_for(page: Page, expected: Callable[[str], bool], seconds: float = 40.0) -> bool:
    """Wait for the expected text, by our own clock: a busy browser draws no frames; returns whether it came."""
    end = time.monotonic() + seconds
    while not expected(page.evaluate(VALUE)):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def test_what_is_said_is_typed(
    repository_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser_path: str
) -> None:
    from tests.support.window import screen, text_field

    heard = tmp_path / "heard.wav"
    soundfile.write(heard, np.pad(load(repository_root / "recipes/sample.flac").numpy(), (0, 16_000)), SAMPLE_RATE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with virtual_microphone() as microphone, screen() as display, text_field(display, browser_path) as page:
        monkeypatch.setenv("DISPLAY", display)
        find_typer().type([Type("--e $(x) 'y'"), Press("Return"), Type("ab"), Delete(3), Press("Return")])
        assert wait_for(page, lambda typed: typed == "--e $(x) 'y'\n"), page.evaluate(VALUE)

        environment = {**os.environ, **microphone.variables, "DISPLAY": display}
        environment["PYTHONPATH"] = f"{repository_root}:{plugin(tmp_path)}"
        given = [sys.executable, "-m", "asr", "dictate", "--input-device", microphone.device, "--threads", "1"]
        with subprocess.Popen(
            given, cwd=repository_root, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                while "listening to" not in (line := process.stderr.readline()):
                    assert line, "it has ended"
                time.sleep(1.5)  # the sink's initial burst of silence
                microphone.play(heard)
                # before the dictation ends
                assert wait_for(page, lambda typed: "storm" in typed.lower()), page.evaluate(VALUE)
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 0
            finally:
                process.kill()
        typed = page.evaluate(VALUE).partition("\n")[2]
    assert "\n" not in typed
    plain = "".join(c for c in typed.lower() if c.isalpha() or c in " '")
    assert jiwer.wer(SAID, plain) < 0.2, typed
