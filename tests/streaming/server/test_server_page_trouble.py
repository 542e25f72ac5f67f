"""Errors on the page: no microphone, full server, no key, no connection, words that are markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect

from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from tests.support.serving import Running, running

if TYPE_CHECKING:  # imported only where a browser is requested
    from playwright.sync_api import WebSocketRoute
    from starlette.types import Receive, Scope, Send

    from tests.support.browser import Visit

pytestmark = pytest.mark.browser

KEEP_MICROPHONE = """
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        window.wanted = wanted;
        return (window.opened = await open(wanted));
    };
"""


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


def answering(visit: Visit, answer: Callable[[WebSocketRoute, str | bytes], None]) -> None:
    """Let `answer` act as the server on the WebSocket."""
    every = re.compile("^ws:")
    visit.page.route_web_socket(every, lambda socket: socket.on_message(lambda message: answer(socket, message)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("NotAllowedError", "may not use the microphone. Allow it"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "another program may be using it"),
        (None, "only over https or on localhost. Files work"),
    ],
)
def test_no_microphone_is_told_in_plain_words(visit: Visit, server: Running, script: str | None, words: str) -> None:
    refuse = f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{script}'))"
    nothing = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"
    visit.page.add_init_script(refuse if script else nothing)
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#problem", words)
    assert page.get_by_role("alert").is_visible()
    visit.expect("#talk", "Press to talk")
    assert not visit.sockets


def test_the_chosen_microphone_is_the_one_that_is_opened(visit: Visit, server: Running) -> None:
    visit.page.add_init_script(KEEP_MICROPHONE)
    page = visit.open(f"{server.url}/ui")
    choice = page.get_by_role("combobox", name="Microphone")
    # Before the user allows a microphone, the browser may hide device names.
    visit.listen(1)
    names = choice.locator("option").all_inner_texts()
    assert len(set(names)) == len(names) > 1
    choice.select_option(label=names[-1])
    visit.listen(1)
    assert page.evaluate("wanted.audio.deviceId.exact") == choice.input_value()
    assert choice.locator("option:checked").inner_text() == names[-1]
    assert page.evaluate("opened.getTracks()[0].readyState") == "ended"  # the page stops listening


def test_a_microphone_that_goes_away_ends_the_stream(visit: Visit, server: Running) -> None:
    visit.page.add_init_script(KEEP_MICROPHONE)
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#connection", "Listening")
    page.evaluate("opened.getTracks()[0].dispatchEvent(new Event('ended'))")
    visit.expect("#problem", "microphone has gone away")
    visit.expect("#talk", "Press to talk")
    assert json.loads(visit.frames[-1]) == {"eof": 1}  # the words so far are still finished


def test_a_microphone_that_goes_away_while_it_connects_is_not_listened_to(visit: Visit, server: Running) -> None:
    """If the microphone vanished while connecting, the page claimed to listen until the server's idle timeout."""
    visit.page.add_init_script(KEEP_MICROPHONE)
    visit.page.add_init_script(
        "window.WebSocket = class extends WebSocket "
        "{ constructor(...given) { super(...given); opened.getTracks()[0].stop(); } }"
    )
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#problem", "microphone has gone away")
    visit.expect("#talk", "Press to talk")
    assert json.loads(visit.frames[-1]) == {"eof": 1}


def test_a_busy_server_is_told_and_tried_again(visit: Visit, shipped_engine: Engine) -> None:
    config = ServerConfig(limits=ServerLimits(max_sessions=1))
    with running(config, shipped_engine) as server:
        page = visit.open(f"{server.url}/ui")
        with connect(server.ws_url) as first:
            first.send(bytes(16_000))
            first.recv()
            page.locator("#talk").click()
            visit.expect("#problem", "server is busy")
            visit.expect("#talk", "Press to talk")
            assert page.get_by_role("article").count() == 0 or not visit.lines
            first.send('{"eof": 1}')
            first.recv()
        visit.listen(1)
        assert page.locator("#problem").is_hidden()


@pytest.mark.parametrize("key", ["plain-key", "a/b+c=="])
def test_a_key_is_asked_for_and_kept_while_the_tab_is_open(visit: Visit, shipped_engine: Engine, key: str) -> None:
    """The page asks for a key and keeps it while the tab is open, even one invalid as a WebSocket subprotocol."""
    with running(ServerConfig(api_key=key), shipped_engine) as server:
        page = visit.open(f"{server.url}/ui", connection="Key needed")
        visit.expect("#problem", "needs a key")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        visit.expect("#problem", "does not know this key")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        visit.expect("#connection", "Ready")
        assert page.locator("#problem").is_hidden()
        assert page.get_by_label("API key").is_hidden()
        visit.listen(1)
        page.reload()
        visit.expect("#connection", "Ready")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        other = visit.context.new_page()
        other.goto(f"{server.url}/ui")
        other.get_by_text("needs a key").wait_for()


def test_a_server_that_is_stopped_says_so(visit: Visit, shipped_engine: Engine) -> None:
    with running(ServerConfig(grace_seconds=60), shipped_engine) as server:
        page = visit.open(f"{server.url}/ui")
        page.locator("#talk").click()
        visit.expect("#elapsed", "0:0[2-9]")
        server.stop()
        visit.expect("#problem", "shutting down")
        visit.expect("#talk", "Press to talk")
    page.locator("#talk").click()
    visit.expect("#problem", "cannot be reached")
    visit.expect("#connection", "Not connected")


def test_words_are_kept_when_the_connection_breaks(visit: Visit, server: Running) -> None:
    def answer(socket: WebSocketRoute, message: str | bytes) -> None:
        if isinstance(message, bytes):
            socket.send('{"partial": "the boats come"}')
            socket.close(code=1011, reason="the engine has failed")

    answering(visit, answer)
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#problem", "ended the stream: the engine has failed")
    visit.expect("#talk", "Press to talk")
    assert visit.lines == ["the boats come"]
    assert page.locator("[data-part=partial]").is_hidden()


def test_audio_that_the_connection_cannot_carry_is_dropped_and_counted(visit: Visit, server: Running) -> None:
    visit.page.add_init_script("Object.defineProperty(WebSocket.prototype, 'bufferedAmount', { get: () => 1e9 })")
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#warning", r"too slow: [1-9]\d* s of speech dropped")
    page.locator("#talk").click()
    visit.expect("#talk", "Press to talk")
    assert [type(message) for message in visit.frames] == [str, str]  # no audio between the first and the last


def test_audio_that_the_server_has_no_time_for_is_counted_too(visit: Visit, server: Running) -> None:
    """The page opens live streams, and shows how much audio the server dropped: late words are useless to a speaker."""
    heard: list[str | bytes] = []

    def answer(socket: WebSocketRoute, message: str | bytes) -> None:
        heard.append(message)
        socket.send(json.dumps({"partial": "", "dropped_seconds": 2.5}))

    answering(visit, answer)
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("#warning", "too slow: 3 s of speech dropped")
    assert json.loads(heard[0])["config"]["live"] is True


def test_markup_stays_text(visit: Visit, server: Running) -> None:
    markup = '<img src=x onerror="document.title=1"><script>document.title=2</script>&amp;'

    def answer(socket: WebSocketRoute, message: str | bytes) -> None:
        word = {"word": markup, "start": 0.1, "end": 0.5, "conf": 1.0}
        if isinstance(message, bytes):
            socket.send(json.dumps({"partial": markup}))
        elif "eof" in message:
            socket.send(json.dumps({"text": markup, "result": [word]}))
            socket.close()

    answering(visit, answer)
    page = visit.open(f"{server.url}/ui")
    page.locator("#talk").click()
    visit.expect("[data-part=partial] span", re.escape(markup))
    page.locator("#talk").click()
    visit.expect("#talk", "Press to talk")
    assert visit.lines == [markup]
    assert page.locator("#takes img, #takes script").count() == 0
    assert page.title() == "Spellstream"
    with page.expect_download() as download:
        page.get_by_role("button", name="VTT").click()
    captions = Path(download.value.path()).read_text()
    assert "<" not in captions
    assert "&lt;img src=x" in captions
    assert "&amp;amp;" in captions


def test_it_works_under_a_prefix(visit: Visit, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page works behind a proxy that adds a path prefix."""
    prefix = "/tools/speech"
    inner = server.server.config.loaded_app

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        scope["path"] = path.removeprefix(prefix) if path.startswith(f"{prefix}/") else "/no/such/thing"
        await inner(scope, receive, send)

    monkeypatch.setattr(server.server.config, "loaded_app", proxy)
    page = visit.open(f"{server.url}{prefix}/ui")
    visit.listen(1)
    assert visit.sockets[0].url == f"{server.ws_url}{prefix}/"
    page.get_by_label("Choose a file").set_input_files(Path(__file__).parents[3] / "recipes/sample.flac")
    visit.expect("#said", "sample.flac: 1 line")
    assert not visit.network_trouble
