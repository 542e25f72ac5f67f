"""Output files: promises to players, spreadsheets and other programs that read them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.errors import ConfigError, DataError
from asr.output.formats import FORMATS, parse_formats, render
from asr.transcript import Alternative, Segment, Transcript, Word, read_json

# A busy machine must not fail the test.
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

EMPTY = Transcript("silence.wav", 3.0)
STAMP = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)([,.])(\d{3})")


def ms_of(stamp: str, point: str) -> int:
    match = STAMP.fullmatch(stamp)
    assert match is not None, stamp
    assert match[4] == point
    return ((int(match[1]) * 60 + int(match[2])) * 60 + int(match[3])) * 1000 + int(match[5])


def parse_srt(text: str) -> list[tuple[int, int, list[str]]]:
    """A strict SubRip reader: numbers from 1, a time line, text, one empty line between cues."""
    cues = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n") if text else [], start=1):
        index, times, *lines = block.split("\n")
        assert index == str(number)
        start, end = times.split(" --> ")
        cues.append((ms_of(start, ","), ms_of(end, ","), lines))
    return cues


def one_segment(text: str, start: float = 0.0, end: float = 2.0, words: tuple[Word, ...] = ()) -> Transcript:
    return Transcript("talk.wav", end, (Segment(text, start, end, -1.0, words),))


# Times up to a few hundred hours, arbitrary text.
seconds = st.floats(0, 1_000_000)
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=300) | st.lists(st.text("abcdefgh'", min_size=1, max_size=12), max_size=60).map(" ".join)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    text = draw(texts)
    start, end = sorted((draw(seconds), draw(seconds)))
    words: tuple[Word, ...] = ()
    if draw(st.booleans()):
        tokens = text.split()
        edges = sorted(draw(st.lists(st.floats(start, end), min_size=2 * len(tokens), max_size=2 * len(tokens))))
        spans = zip(tokens, edges[::2], edges[1::2], strict=True)
        words = tuple(Word(token, first, last, draw(st.floats(0, 1))) for token, first, last in spans)
    alternatives = tuple(draw(st.lists(st.builds(Alternative, st.text(max_size=9), finite), max_size=2)))
    return Segment(text, start, end, draw(finite), words, alternatives)


def in_order(items: list[Segment]) -> tuple[Segment, ...]:
    return tuple(sorted(items, key=lambda segment: segment.start_seconds))


transcripts = st.builds(Transcript, st.text(), seconds, st.lists(segments(), max_size=3).map(in_order))


def test_an_empty_transcript_is_a_valid_empty_file_in_every_format() -> None:
    assert render(EMPTY, "txt") == ""
    assert render(EMPTY, "srt") == ""
    assert render(EMPTY, "vtt") == "WEBVTT\n"
    assert render(EMPTY, "tsv") == "start\tend\ttext\n"
    assert read_json(render(EMPTY, "json")) == EMPTY


@pytest.mark.parametrize("name", ["txt", "srt", "vtt", "tsv"])
def test_segments_without_text_leave_no_trace(name: str) -> None:
    assert render(one_segment("  \n"), name) == render(EMPTY, name)


def test_txt_has_one_line_for_each_segment() -> None:
    transcript = Transcript("a", 4.0, (Segment("one\ntwo", 0.0, 1.0, 0.0), Segment("three", 2.0, 3.0, 0.0)))
    assert render(transcript, "txt") == "one two\nthree\n"


def test_tsv_keeps_its_columns_whatever_the_text_holds() -> None:
    assert render(one_segment("a\tb\r\nc", 1.5, 2.25), "tsv") == "start\tend\ttext\n1500\t2250\ta b c\n"


def test_json_is_readable_and_stable() -> None:
    word = Word("zoë", 0.12345, 0.5, 0.75)
    transcript = Transcript("é.wav", 2.00049, (Segment("zoë", 0.1, 0.6, -0.5, (word,), (Alternative("zoe", -1.0),)),))
    text = render(transcript, "json")
    assert "zoë" in text
    assert json.loads(text) == {
        "source": "é.wav",
        "duration_seconds": 2.0,
        "text": "zoë",
        "segments": [
            {
                "start": 0.1,
                "end": 0.6,
                "text": "zoë",
                "score": -0.5,
                "words": [{"text": "zoë", "start": 0.123, "end": 0.5, "confidence": 0.75}],
                "alternatives": [{"text": "zoe", "score": -1.0}],
            }
        ],
    }


@relaxed
@given(transcripts)
def test_json_reads_back_as_what_was_written(transcript: Transcript) -> None:
    text = render(transcript, "json")
    back = read_json(text)
    assert render(back, "json") == text
    assert (back.source, back.text) == (transcript.source, transcript.text)
    for found, expected in zip(back.segments, transcript.segments, strict=True):
        assert (found.text, found.score, found.alternatives) == (expected.text, expected.score, expected.alternatives)
        assert found.start_seconds == pytest.approx(expected.start_seconds, rel=0, abs=0.000501)
        assert [word.text for word in found.words] == [word.text for word in expected.words]


VALID = json.loads(render(one_segment("hi", words=(Word("hi", 0.0, 1.0, 1.0),)), "json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object"),
        (json.dumps(VALID | {"source": None}), "transcript.source: wrong type NoneType"),
        (json.dumps(VALID | {"duration_seconds": True}), "duration_seconds: wrong type bool"),
        (json.dumps(VALID | {"duration_seconds": 10**400}), "finite"),
        (json.dumps(VALID).replace('"score": -1.0', '"score": NaN'), r"segments\[0\].score: expected a finite"),
        (json.dumps(VALID | {"segments": {}}), "segments: wrong type dict"),
        (json.dumps(VALID | {"segments": [1]}), r"segments\[0\]: expected an object"),
        (
            json.dumps(VALID).replace('"confidence"', '"certainty"'),
            r"segments\[0\].words\[0\]: 'confidence' is missing",
        ),
    ],
)
def test_malformed_json_names_the_field(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_json(text)
    assert "\n" not in str(caught.value)


@relaxed
@given(transcripts)
def test_srt_cues_parse_are_readable_and_in_order(transcript: Transcript) -> None:
    previous_end = 0
    shown = ""
    for start, end, lines in parse_srt(render(transcript, "srt")):
        assert previous_end <= start < end <= start + 7000
        assert 1 <= len(lines) <= 2
        assert all(0 < len(line) <= 42 for line in lines)
        previous_end = end
        shown += "".join(lines)
    # No text is lost, except spaces, since a word longer than a line is split.
    assert shown.replace(" ", "").replace("→", "-->") == "".join(transcript.text.split()).replace("→", "-->")


@relaxed
@given(transcripts)
def test_vtt_and_srt_have_the_same_cues(transcript: Transcript) -> None:
    header, *blocks = render(transcript, "vtt").removesuffix("\n").split("\n\n")
    assert header == "WEBVTT"
    starts = []
    for block in blocks:
        times, *lines = block.split("\n")
        starts.append(ms_of(times.split(" --> ")[0], "."))
        assert not any(character in line for line in lines for character in "<>")
    assert starts == [start for start, _, _ in parse_srt(render(transcript, "srt"))]


def test_time_stamps_survive_a_hundred_hours() -> None:
    transcript = one_segment("late", 100 * 3600 + 61.0005, 100 * 3600 + 63)
    assert "100:01:01,000 --> 100:01:03,000" in render(transcript, "srt")
    assert "100:01:01.000 --> 100:01:03.000" in render(transcript, "vtt")


def test_markup_is_shown_and_not_obeyed() -> None:
    transcript = one_segment("a <b> & 1 --> 2")
    assert render(transcript, "vtt").endswith("\na &lt;b&gt; &amp; 1 --&gt; 2\n")
    assert render(transcript, "srt").endswith("\na <b> & 1 → 2\n")


def test_cues_follow_the_word_times_and_break_at_a_pause() -> None:
    times = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (6.5, 7.5), (7.5, 9.0)]
    texts = ["first", "we", "spoke", "then", "again"]
    words = tuple(Word(text, *span, 1.0) for text, span in zip(texts, times, strict=True))
    cues = parse_srt(render(one_segment(" ".join(texts), 0.0, 9.0, words), "srt"))
    assert cues == [(0, 3000, ["first we spoke"]), (6500, 9000, ["then again"])]


def test_without_word_times_a_long_segment_is_shared_out_by_characters() -> None:
    cues = parse_srt(render(one_segment("aaaa bbbb cccc dddd", 0.0, 12.0), "srt"))
    assert cues == [(0, 6000, ["aaaa bbbb"]), (6000, 12000, ["cccc dddd"])]


def test_two_lines_are_about_equally_long() -> None:
    text = "the later traditions tend to extend the period"
    assert parse_srt(render(one_segment(text), "srt"))[0][2] == ["the later traditions", "tend to extend the period"]


def test_a_short_word_stays_on_screen_until_the_next_cue() -> None:
    quick = tuple(Segment(text, at, at + 0.1, 0.0) for text, at in (("yes", 1.0), ("no", 2.1), ("so", 5.0)))
    cues = parse_srt(render(Transcript("a", 9.0, quick), "srt"))
    assert [(start, end) for start, end, _ in cues] == [(1000, 2100), (2100, 3100), (5000, 6000)]


def test_a_cue_is_held_until_it_can_be_read() -> None:
    """Fast speech gave 24 characters per second; guidelines allow 20, and often a pause follows."""
    quick = (Segment("x" * 40, 1.0, 2.2, 0.0), Segment("y" * 40, 5.0, 6.2, 0.0), Segment("z", 6.5, 7.0, 0.0))
    cues = parse_srt(render(Transcript("a", 9.0, quick), "srt"))
    assert [(start, end) for start, end, _ in cues] == [(1000, 3000), (5000, 6500), (6500, 7500)]


def test_cues_do_not_end_in_an_article() -> None:
    cues = parse_srt(render(one_segment("so we can sell the coupons and fares", 0.0, 9.0), "srt"))
    assert [lines for _, _, lines in cues] == [["so we can sell the coupons"], ["and fares"]]


@pytest.mark.parametrize("name", ["json", "srt", "vtt", "tsv"])
def test_a_time_that_is_no_number_is_an_error_that_names_the_source(name: str) -> None:
    with pytest.raises(DataError, match=r"talk\.wav"):
        render(one_segment("hi", 0.0, float("nan")), name)


def test_unknown_formats_are_answered_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'docx'.*txt, json, srt, vtt, tsv"):
        render(EMPTY, "docx")
    with pytest.raises(ConfigError, match=r"'docx'.*txt, json, srt, vtt, tsv"):
        parse_formats("txt,docx")
    with pytest.raises(ConfigError):
        parse_formats("")


def test_format_lists() -> None:
    assert parse_formats("txt,json") == ("txt", "json")
    assert parse_formats(" JSON , txt,json") == ("json", "txt")
    assert parse_formats("all") == FORMATS
    assert parse_formats("srt,all") == ("srt", "txt", "json", "vtt", "tsv")
