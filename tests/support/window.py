"""A virtual screen with a browser whose page is a focused text field."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

FIELD = "<body style='margin:0'><textarea autofocus style='width:100vw;height:100vh'></textarea>"


@contextlib.contextmanager
def screen() -> Iterator[str]:
    """The display name of a private X server; the test is skipped if Xvfb or xdotool is missing."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    read, write = os.pipe()
    # -r: a key that a busy machine is late to release is not repeated.
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp", "-r"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        try:
            with os.fdopen(read) as file:
                number = file.readline().strip()
            assert number, "Xvfb does not start"
            yield f":{number}"
        finally:
            server.terminate()


@contextlib.contextmanager
def text_field(display: str, program: str) -> Iterator[Page]:
    """A page with a focused text field, in a window of that display."""
    environment = {**os.environ, "DISPLAY": display}
    environment.pop("WAYLAND_DISPLAY", None)
    with tempfile.TemporaryDirectory(prefix="spellstream-") as folder, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--window-position=0,0", "--window-size=800,600"]
        browser = playwright.chromium.launch_persistent_context(
            folder, executable_path=program, headless=False, env=environment, args=arguments, no_viewport=True
        )
        try:
            page = browser.pages[0]
            page.set_content(FIELD)
            # Without a window manager, the window under the pointer gets the keys.
            move = ["xdotool", "mousemove", "400", "400", "click", "1"]
            subprocess.run(move, env=environment, check=True, timeout=20)
            page.wait_for_function("document.hasFocus() && document.activeElement.tagName == 'TEXTAREA'")
            for _ in range(50):  # the page may believe so before the keys arrive
                subprocess.run(["xdotool", "key", "x"], env=environment, check=True, timeout=20)
                page.wait_for_timeout(200)
                if page.evaluate("document.activeElement.value"):
                    break
            page.wait_for_timeout(500)  # keys that have not arrived yet
            page.evaluate("document.activeElement.value = ''")
            yield page
        finally:
            browser.close()
