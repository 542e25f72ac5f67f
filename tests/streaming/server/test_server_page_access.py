"""Accessibility of the page: names and roles, keyboard navigation, contrast, small screens, long lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running

if TYPE_CHECKING:  # imported only where a browser is requested
    from playwright.sync_api import Browser

    from tests.support.browser import Visit

pytestmark = pytest.mark.browser

NAME = "Minutes of the reading circle, second half of November, with the discussion.ogg"
LINES = (
    "nobody has told the kitchen that the cousins are coming up on the late train",
    "and seventeen of them at that",
)

# The lowest contrast ratio (WCAG 2.2, 1.4.3) of all visible texts, and the text that has it.
CONTRAST = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => channels(colour).slice(0, 3)
        .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] === 0 ? behind(element.parentElement) : colour;
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest(".unseen, svg")) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent]);
    }
    return [found.length, ...found.sort((one, other) => one[0] - other[0])[0]];
}"""


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


def with_a_file(visit: Visit, server: Running) -> None:
    """Open the page, and let it transcribe a file with known lines."""
    events: list[dict[str, object]] = [
        {"type": "transcript.text.segment", "id": i, "start": 5.0 * i, "end": 5.0 * i + 4, "text": text, "words": []}
        for i, text in enumerate(LINES)
    ]
    events.append({"type": "transcript.text.done", "text": " ".join(LINES)})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    visit.page.route(
        "**/v1/audio/transcriptions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    visit.open(f"{server.url}/ui")
    visit.page.get_by_label("Choose a file").set_input_files({"name": NAME, "mimeType": "audio/ogg", "buffer": b"0"})
    visit.expect("#said", "2 lines")


def test_everything_has_a_role_and_a_name(visit: Visit, server: Running) -> None:
    with_a_file(visit, server)
    tree = visit.page.locator("body").aria_snapshot()
    for part in (
        'heading "Spellstream" [level=1]',
        "status: Ready",
        'button "Press to talk"',
        'timer "Time heard"',
        'meter "Microphone level"',
        'combobox "Microphone"',
        'button "Choose a file or drop a recording anywhere on the page"',
        'heading "Transcripts" [level=2]',
        f'heading "{NAME}" [level=3]',
        'button "Clear"',
        'button "Play from 0:05" [disabled]',
        "text: nobody has told the kitchen",
        'button "Copy"',
        'group "Save as"',
        'button "SRT"',
    ):
        assert part in tree, tree
    assert not re.search(r"(button|combobox|meter|group|progressbar)( \[|:|$)", tree, re.MULTILINE), "one has no name"
    assert visit.page.locator("html").get_attribute("lang") == "en"


def test_only_what_is_final_is_read_out(visit: Visit, server: Running) -> None:
    """Screen readers announce finals only, neither partials nor a file's hundred lines."""
    with_a_file(visit, server)
    page = visit.page
    page.locator("#talk").click()
    visit.expect("[data-part=partial] span", r"\w")
    page.locator("#talk").click()
    visit.expect("#talk", "Press to talk")
    spoken, file = page.get_by_role("article").all()
    assert spoken.get_by_role("log").locator("li").count() >= 1
    assert spoken.get_by_role("log").locator("[data-part=partial]").count() == 0
    assert file.get_by_role("log").count() == 0
    assert page.locator("[data-part=partial]").evaluate_all(
        "all => all.every((one) => !one.closest('[role=log], [role=status], [role=alert], [aria-live]'))"
    )


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(visit: Visit, server: Running) -> None:
    with_a_file(visit, server)
    page = visit.page
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
                const at = document.activeElement;
                const shown = at.matches("[type=file]") ? at.nextElementSibling : at;
                return [at.id || at.textContent, getComputedStyle(shown).outlineStyle];
            }"""
        )
        reached.append(name)
        assert outline == "solid", name
    assert reached == ["talk", "microphone", "file", "Clear", "Copy", "Text", "SRT", "VTT"]
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # Clear
    assert page.get_by_role("article").count() == 0
    assert page.evaluate("document.activeElement.id") == "talk"  # focus is not lost with the removed button


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, server: Running, scheme: str) -> None:
    from tests.support.browser import visiting

    with visiting(browser, color_scheme=scheme, reduced_motion="reduce") as visit:
        with_a_file(visit, server)
        visit.page.evaluate("""() => {
            for (const id of ["problem", "warning", "key-form", "empty"]) document.getElementById(id).hidden = false;
            document.getElementById("problem").textContent = document.getElementById("warning").textContent = "Told";
        }""")
        visit.page.locator("#talk").click()
        visit.expect("[data-part=partial] span", r"\w")
        texts, least, text = visit.page.evaluate(CONTRAST)
        visit.page.locator("#talk").click()
        visit.expect("#talk", "Press to talk")
    assert texts > 20
    assert least >= 4.5, text


@pytest.mark.parametrize("width", [320, 390, 800])
def test_small_screens(browser: Browser, server: Running, width: int) -> None:
    from tests.support.browser import visiting

    with visiting(browser, viewport={"width": width, "height": 600}) as visit:
        with_a_file(visit, server)
        page = visit.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is None or min(box["width"], box["height"]) >= 24 or button.get_attribute("type") == "file"
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        box = page.locator("#talk").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 600, "the button must stay in sight"


def test_long_lines_become_subtitles_that_can_be_read(visit: Visit, server: Running) -> None:
    """Long lines become cues of at most two lines of 42 characters and 7 s; every word once, in order, at its time."""
    words = " ".join([LINES[0], LINES[1]] * 4).split()
    timed = [{"text": word, "start": 3590 + 0.5 * i, "end": 3590 + 0.5 * i + 0.4} for i, word in enumerate(words)]
    segment = {"start": 3590, "end": timed[-1]["end"], "text": " ".join(words), "words": timed}
    page = visit.open(f"{server.url}/ui")
    srt, vtt, txt = page.evaluate(
        """async (segment) => {
            const { FORMATS } = await import("./formats.js");
            return [FORMATS.srt([segment]), FORMATS.vtt([segment]), FORMATS.txt([segment])];
        }""",
        segment,
    )
    assert txt == " ".join(words) + "\n"
    cues = [cue.split("\n") for cue in srt.strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number + 1) for number in range(len(cues))]
    assert " ".join(" ".join(cue[2:]) for cue in cues).split() == words
    assert all(len(cue) <= 4 and max(map(len, cue[2:])) <= 42 for cue in cues)
    spans = [tuple(map(seconds, cue[1].split(" --> "))) for cue in cues]
    assert spans[0][0] == 3590
    assert spans[-1][1] == pytest.approx(float(str(timed[-1]["end"])))
    assert all(0 < end - start <= 7 for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert [line.replace(".", ",") for line in vtt.split("\n") if "-->" in line] == [cue[1] for cue in cues]


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)
