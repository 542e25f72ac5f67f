"""Headless Chromium with a file as its microphone, and checks of its pages."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, WebSocket, expect, sync_playwright

__all__ = ["Visit", "browsing", "visiting"]

# The browser's own messages on responses such as 401 and failed connections, which the page reports to its user.
_NETWORK = ("Failed to load resource:", "WebSocket connection to")


@dataclass
class Visit:
    """An open page, with its requests and errors."""

    page: Page
    context: BrowserContext
    requests: list[str] = field(default_factory=list)
    sockets: list[WebSocket] = field(default_factory=list)
    frames: list[str | bytes] = field(default_factory=list)  # sent by all of them
    trouble: list[str] = field(default_factory=list)
    network_trouble: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The final lines of the transcript."""
        return self.page.locator("#takes li > span").all_inner_texts()

    @property
    def times(self) -> list[str]:
        return self.page.locator("#takes li time").all_inner_texts()

    def open(self, url: str, connection: str = "Ready") -> Page:
        """Open the page, and wait until it knows the server's state."""
        self.page.goto(url)
        self.expect("#connection", connection)
        return self.page

    def expect(self, selector: str, text: str, attribute: str | None = None) -> None:
        """Wait until a visible element, or one of its attributes, matches the pattern `text`."""
        element = expect(self.page.locator(selector).filter(visible=True).first)
        if attribute is None:
            element.to_have_text(re.compile(text))
        else:
            element.to_have_attribute(attribute, re.compile(text))

    def until(self, condition: str, seconds: float = 20) -> None:
        """Wait until JavaScript's `condition` is true; playwright's own method violates the page's content policy."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(20)

    def listen(self, seconds: int) -> None:
        """Press the button, wait until a few seconds have been streamed, and press it again."""
        self.page.locator("#talk").click()
        self.expect("#connection", "Listening")
        self.expect("#elapsed", f"0:0[{seconds}-9]|0:[1-9]")
        self.page.locator("#talk").click()
        self.expect("#talk", "Press to talk")

    def origins(self) -> set[str]:
        """Origins of the page's requests."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith(("blob:", "data:"))}


@contextlib.contextmanager
def browsing(program: str, recording: Path) -> Iterator[Browser]:
    """A browser that allows the microphone; each time it is opened, it hears `recording` once, then silence."""
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}%noloop",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Visit]:
    """A new visit; it fails at the end on an error in a script or a violation of the content policy."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    visit = Visit(context.new_page(), context)
    page = visit.page

    def told(kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            (visit.network_trouble if text.startswith(_NETWORK) else visit.trouble).append(text)

    def opened(socket: WebSocket) -> None:
        visit.requests.append(socket.url)
        visit.sockets.append(socket)
        socket.on("framesent", lambda message: visit.frames.append(message))

    page.on("console", lambda message: told(message.type, message.text))
    page.on("pageerror", lambda error: told("error", str(error)))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("websocket", opened)
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    yield visit
    context.close()
    assert not visit.trouble
