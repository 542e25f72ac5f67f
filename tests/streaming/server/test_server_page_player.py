"""Playback on the page, of a file or recording, from any word; confidence and state of each word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running

if TYPE_CHECKING:  # imported only where a browser is requested
    from playwright.sync_api import WebSocketRoute

    from tests.support.browser import Visit

pytestmark = pytest.mark.browser

PLAYING = "!document.querySelector('audio').paused"
TIME = "document.querySelector('audio').currentTime"


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


def with_the_sample(visit: Visit, server: Running, root: Path) -> None:
    visit.open(f"{server.url}/ui").get_by_label("Choose a file").set_input_files(root / "recipes/sample.flac")
    visit.expect("#said", "sample.flac: ")
    visit.page.locator("audio").wait_for(state="visible")


def test_a_click_on_a_word_plays_the_file_from_there(visit: Visit, server: Running, repository_root: Path) -> None:
    with_the_sample(visit, server, repository_root)
    page = visit.page
    word = page.locator("li span[data-start]").nth(9)
    start = float(word.get_attribute("data-start") or "nan")
    assert start > 1
    word.click()
    visit.until(f"{PLAYING} && {TIME} > {start}")
    assert page.evaluate(TIME) < start + 3
    visit.until("document.querySelectorAll('.heard').length === 1")
    page.evaluate("document.querySelector('audio').pause()")


def test_a_line_is_played_by_keyboard(visit: Visit, server: Running, repository_root: Path) -> None:
    with_the_sample(visit, server, repository_root)
    page = visit.page
    assert "Play from 0:0" in page.locator("article").aria_snapshot()
    page.locator("li button").first.focus()
    page.keyboard.press("Enter")
    visit.until(PLAYING)


def test_lines_are_reached_by_arrow_keys_and_once_by_tab(visit: Visit, server: Running, repository_root: Path) -> None:
    """An hour has hundreds of lines: Tab must not pass through all of them."""
    segments = [{"start": i, "end": i + 1, "text": "boats", "words": []} for i in range(3)]
    body = "".join(
        f"data: {json.dumps({'type': 'transcript.text.segment', 'id': i, **segment})}\n\n"
        for i, segment in enumerate(segments)
    )
    visit.page.route(
        "**/v1/audio/transcriptions",
        lambda route: route.fulfill(
            body=body + 'data: {"type": "transcript.text.done", "text": ""}\n\n', content_type="text/event-stream"
        ),
    )
    with_the_sample(visit, server, repository_root)
    page = visit.page
    assert page.locator("li button[tabindex='0']").count() == 1
    page.locator("li button").first.focus()
    for key, at in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowDown", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('li button')].indexOf(document.activeElement)") == at
    page.keyboard.press("Enter")
    visit.until(f"{PLAYING} && {TIME} >= 1")


def test_uncertain_words_are_underlined_and_said_to_be(visit: Visit, server: Running) -> None:
    words = [
        {"word": "boats", "start": 0.2, "end": 0.5, "confidence": 0.93},
        {"word": "home", "start": 0.6, "end": 0.9, "confidence": 0.31},
    ]
    segment = {"type": "transcript.text.segment", "id": 0, "start": 0, "end": 1, "text": "boats home", "words": words}
    body = f'data: {json.dumps(segment)}\n\ndata: {{"type": "transcript.text.done", "text": ""}}\n\n'
    visit.page.route(
        "**/v1/audio/transcriptions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    page = visit.open(f"{server.url}/ui")
    page.get_by_label("Choose a file").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"0"})
    visit.expect("#said", "1 line")
    unsure = page.locator("li .unsure")
    assert unsure.all_inner_texts() == ["home"]
    assert unsure.get_attribute("aria-description") == "Confidence 31 %"
    assert page.get_by_text("Underlined words are uncertain.").is_visible()
    assert visit.lines == ["boats home"]
    assert page.locator("audio").is_hidden()  # no player for formats that the browser cannot play
    assert page.locator("li button").is_disabled()


def test_words_that_will_not_change_are_darker(visit: Visit, server: Running) -> None:
    """Committed words are in full ink, tentative ones lighter."""

    def recognise(socket: WebSocketRoute, message: str | bytes) -> None:
        if isinstance(message, bytes):
            socket.send(json.dumps({"partial": "old man stood", "committed": 2}))
        elif "eof" in message:
            socket.close()

    every = re.compile("^ws:")
    visit.page.route_web_socket(every, lambda socket: socket.on_message(lambda message: recognise(socket, message)))
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("[data-part=partial] .committed", "^old man$")
    ink, committed, tentative = page.evaluate(
        """["body", "[data-part=partial] .committed", "[data-part=partial] > span"]
            .map((one) => getComputedStyle(document.querySelector(one)).color)"""
    )
    assert committed == ink != tentative
    page.locator("#talk").click()
    visit.expect("#talk", "Press to talk")


def test_what_was_said_can_be_played(visit: Visit, server: Running) -> None:
    """The recording has the length of the streamed audio, so that word times fit its playback."""
    page = visit.open(f"{server.url}/ui")
    for seconds in (3, 2):
        visit.listen(seconds)
        page.locator("audio").wait_for(state="visible")
        heard = sum(len(frame) for frame in visit.frames if isinstance(frame, bytes))
        rate = json.loads(next(frame for frame in visit.frames if isinstance(frame, str)))["config"]["sample_rate"]
        visit.until(f"Math.abs(document.querySelector('audio').duration - {heard / 2 / rate}) < 0.01")
    page.locator("li span[data-start]").first.click()
    visit.until(PLAYING)


def test_the_microphone_does_not_hear_the_page(visit: Visit, server: Running, repository_root: Path) -> None:
    with_the_sample(visit, server, repository_root)
    page = visit.page
    page.locator("li span[data-start]").first.click()
    visit.until(PLAYING)
    page.locator("#talk").click()
    visit.expect("#connection", "Listening")
    assert not page.evaluate(PLAYING)
    page.locator("#talk").click()
    visit.expect("#talk", "Press to talk")


def test_a_browser_at_the_root_finds_the_page_and_the_documentation(visit: Visit, server: Running) -> None:
    """A browser at / finds the page and the documentation, neither of which violates its content policy."""
    page = visit.open(server.url)
    assert page.url == f"{server.url}/ui/"
    page.goto(f"{server.url}/docs")
    assert page.get_by_role("heading", name="POST /v1/audio/transcriptions").is_visible()
    assert visit.origins() == {f"{server.host}:{server.port}"}
    page.get_by_role("link", name="Page", exact=True).click()
    visit.expect("#connection", "Ready")
