"""The page in a browser: microphone, files, downloads, mouse and keyboard."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jiwer
import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running

if TYPE_CHECKING:  # imported only where a browser is requested
    from playwright.sync_api import Page, WebSocketRoute

    from tests.support.browser import Visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def sample(repository_root: Path) -> Path:
    return repository_root / "recipes/sample.flac"


@pytest.fixture(scope="module")
def said(repository_root: Path) -> str:
    return (repository_root / "recipes/sample.txt").read_text().strip()


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


def downloaded(page: Page, name: str) -> tuple[str, str]:
    """Name and content of the file that a button downloads."""
    with page.expect_download() as download:
        page.get_by_role("group", name="Save as").get_by_role("button", name=name).click()
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


def test_words_come_while_one_speaks_by_keyboard_alone(visit: Visit, server: Running, said: str) -> None:
    """From the fake microphone through the worklet and the WebSocket to the shipped model, and back."""
    page = visit.open(f"{server.url}/ui")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "talk"
    page.keyboard.press("Enter")
    visit.expect("#connection", "Listening")
    assert page.get_by_role("button", name="Stop").is_visible()
    visit.expect("#level", r"^-[1-3]?\d decibels$", attribute="aria-valuetext")
    visit.expect("[data-part=partial] span", r"\w")  # words that may still change
    visit.expect("#elapsed", "0:0[6-9]|0:[1-9]")
    assert page.evaluate("document.activeElement.id") == "talk"
    page.keyboard.press("Space")
    visit.expect("#talk", "Press to talk")
    visit.expect("#connection", "Ready")

    assert page.locator("[data-part=partial]").is_hidden()
    assert jiwer.cer(said, " ".join(visit.lines)) < 0.5, visit.lines  # other words differ by 0.7 and more
    assert visit.times[0] in ("0:00", "0:01")
    assert page.locator("#level").get_attribute("aria-valuetext") == "off"

    first, *sound, last = visit.frames
    assert isinstance(first, str)
    rate = json.loads(first)["config"]["sample_rate"]
    assert rate == page.evaluate("new AudioContext().sampleRate")
    sizes = {len(message) for message in sound[:-1]}
    assert sizes == {2 * round(rate / 10)}  # a tenth of a second each, 16 bits a sample
    assert sum(map(len, sound)) / (2 * rate) > 5.5
    assert json.loads(last) == {"eof": 1}
    assert visit.origins() == {f"{server.host}:{server.port}"}
    assert not visit.network_trouble


def test_a_second_press_goes_on_where_the_first_ended(visit: Visit, server: Running) -> None:
    """A second press continues the transcript's clock, although the server's restarts with each stream."""
    words = [{"word": "boats", "start": 0.2, "end": 0.5, "conf": 1.0}]

    def recognise(socket: WebSocketRoute, message: str | bytes) -> None:
        if isinstance(message, str) and "eof" in message:
            socket.send(json.dumps({"text": "boats", "result": words}))
            socket.close()

    every = re.compile("^ws:")
    visit.page.route_web_socket(every, lambda socket: socket.on_message(lambda message: recognise(socket, message)))
    page = visit.open(f"{server.url}/ui")
    for count in (1, 2):
        visit.listen(2)
        assert visit.lines == ["boats"] * count
        assert page.get_by_role("article").count() == 1
    assert visit.times[0] == "0:00"
    assert visit.times[1] >= "0:02"
    _, subtitles = downloaded(page, "SRT")
    starts = re.findall(r"00:00:(\d\d),\d{3} -->", subtitles)
    assert starts == [f"{int(time[2:]):02}" for time in visit.times]


def test_a_chosen_file_is_written_down(visit: Visit, server: Running, sample: Path, shipped_engine: Engine) -> None:
    page = visit.open(f"{server.url}/ui")
    page.get_by_label("Choose a file").set_input_files(sample)
    visit.expect("#said", "sample.flac: ")
    transcript = shipped_engine.recogniser.transcribe(sample)
    assert " ".join(visit.lines) == transcript.text
    article = page.get_by_role("article")
    assert article.get_by_role("heading", name="sample.flac").is_visible()
    assert article.get_by_role("progressbar").is_hidden()

    name, text = downloaded(page, "Text")
    assert name == "sample.txt"
    assert text.split() == transcript.text.split()
    name, subtitles = downloaded(page, "SRT")
    assert name == "sample.srt"
    assert subtitles.startswith("1\n00:00:0")
    assert re.sub(r"\d+\n[\d:,]+ --> [\d:,]+\n", "", subtitles).split() == transcript.text.split()
    name, captions = downloaded(page, "VTT")
    assert name == "sample.vtt"
    assert captions.startswith("WEBVTT\n\n00:00:0")
    assert re.sub(r"WEBVTT|[\d:.]+ --> [\d:.]+\n", "", captions).split() == transcript.text.split()

    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    visit.expect("#said", "Copied")
    assert page.evaluate("navigator.clipboard.readText()").split() == transcript.text.split()
    page.get_by_role("button", name="Clear").click()
    assert page.get_by_role("article").count() == 0
    assert page.get_by_text("Words appear here").is_visible()
    assert visit.origins() == {f"{server.host}:{server.port}"}
    assert not visit.network_trouble


def test_a_file_with_a_hostile_name_is_dropped(visit: Visit, server: Running, sample: Path) -> None:
    page = visit.open(f"{server.url}/ui")
    name = "<img src=x onerror=alert(1)>.flac"
    data = page.evaluate_handle(
        """([content, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
            return data;
        }""",
        [base64.b64encode(sample.read_bytes()).decode(), name],
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    assert page.get_by_text("Drop it").is_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    assert page.get_by_text("Drop it").is_hidden()
    visit.expect("#said", "line")
    assert page.get_by_role("heading", name=name).is_visible()
    assert page.locator("#takes img").count() == 0
    assert len(visit.lines) >= 1


def test_a_file_that_is_no_audio_is_told_and_can_be_tried_again(visit: Visit, server: Running, sample: Path) -> None:
    page = visit.open(f"{server.url}/ui")
    note = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"these are no samples " * 50}
    page.get_by_label("Choose a file").set_input_files(
        [note, {"name": "sample.flac", "mimeType": "audio/flac", "buffer": sample.read_bytes()}]
    )
    failure = page.get_by_role("article").filter(has_text="notes.txt").locator("[data-part=problem]")
    failure.wait_for()
    assert failure.inner_text() == "It is not audio: it looks like text."
    visit.expect("#said", "sample.flac: 1 line")  # the next file is still transcribed
    asked = len([url for url in visit.requests if url.endswith("/transcriptions")])
    page.get_by_role("button", name="Try again").click()
    failure.wait_for()
    assert len([url for url in visit.requests if url.endswith("/transcriptions")]) == asked + 1


def test_an_upload_can_be_cancelled(visit: Visit, server: Running, sample: Path) -> None:
    held = []
    visit.page.route("**/v1/audio/transcriptions", lambda route: held.append(route))  # never answered
    page = visit.open(f"{server.url}/ui")
    page.get_by_label("Choose a file").set_input_files(sample)
    assert page.get_by_role("progressbar", name="Progress").is_visible()
    page.get_by_role("button", name="Cancel").click()
    assert page.get_by_role("article").count() == 0
    visit.page.unroute("**/v1/audio/transcriptions")
    page.get_by_label("Choose a file").set_input_files(sample)
    visit.expect("#said", "sample.flac: ")
    assert len(visit.lines) >= 1
