"""The shape of subtitles: line width, lines and words per cue, highlighted words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError
from asr.output.formats import render
from asr.output.subtitles import SubtitleShape
from asr.transcript import Segment, Transcript, Word

TEXT = "it was a great while before he could"


def spoken(*texts: str) -> Transcript:
    """Segments of words that take 0.4 s each, 0.1 s apart."""
    segments, at = [], 0.0
    for text in texts:
        words = []
        for word in text.split():
            words.append(Word(word, at, at + 0.4, 1.0))
            at += 0.5
        segments.append(Segment(text, words[0].start_seconds, at - 0.1, -1.0, tuple(words)))
    return Transcript("talk.wav", at, tuple(segments))


def blocks(transcript: Transcript, shape: SubtitleShape) -> list[list[str]]:
    """The lines of each cue."""
    text = render(transcript, "srt", shape)
    return [block.split("\n")[2:] for block in text.removesuffix("\n").split("\n\n")]


@given(
    st.builds(SubtitleShape, st.integers(8, 60), st.integers(1, 3), st.none() | st.integers(1, 6)),
    st.lists(st.text("abcdefg ", min_size=1, max_size=120).filter(str.strip), min_size=1, max_size=3),
)
def test_cues_keep_to_the_shape_and_lose_nothing(shape: SubtitleShape, texts: list[str]) -> None:
    transcript = spoken(*texts)
    cues = blocks(transcript, shape)
    assert all(len(lines) <= shape.max_lines for lines in cues)
    assert all(len(line) <= shape.max_line_width for lines in cues for line in lines)
    if shape.max_words is not None:
        assert all(sum(len(line.split()) for line in lines) <= shape.max_words for lines in cues)
    assert "".join("".join(lines) for lines in cues).replace(" ", "") == "".join(transcript.text.split())


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("she had gone to the village before the rain", ["she had gone to the village", "before the rain"]),
        ("nobody ever told me in the old house", ["nobody ever told me", "in the old house"]),
        ("she never went to New York that year", ["she never went", "to New York that year"]),
        ("Yes, they had all been there once", ["Yes, they had all", "been there once"]),
    ],
    ids=["before a preposition", "not after an article", "not inside a name", "no line of one word"],
)
def test_lines_end_where_the_sense_does(text: str, lines: list[str]) -> None:
    assert blocks(spoken(text), SubtitleShape(30, 2)) == [lines]


@pytest.mark.parametrize(
    "pair", ["20 minutes", "$5 million", "3:30 p.m.", "May 5th", "Dr. Smith", "J. Smith", "New York"]
)
def test_what_belongs_together_stays_so(pair: str) -> None:
    """Two words that belong together stay on one line, although the middle of the text is between them."""
    for width in (30, 60):
        lines = [
            line
            for cue in blocks(spoken(f"nobody came by {pair} nobody came by"), SubtitleShape(width, 1))
            for line in cue
        ]
        assert any(pair in line for line in lines)


def test_short_times_without_a_cue_are_closed() -> None:
    """A gap of 0.1 s between two cues flickers; with one word per cue, gaps were 20 ms."""
    first, second, third = "it was a great while", "before he could", "come back"
    segments = tuple(
        Segment(text, start, start + 2, -1.0) for text, start in ((first, 0.0), (second, 2.4), (third, 4.9))
    )
    shown = render(Transcript("talk.wav", 6.9, segments), "srt")
    assert re.findall(r"(\d\d,\d{3}) -->.*(\d\d,\d{3})", shown) == [
        ("00,000", "02,400"),
        ("02,400", "04,400"),
        ("04,900", "06,900"),
    ]


def test_a_segment_that_would_only_flash_is_shown_with_the_next_one() -> None:
    """A segment of two words, "It was", was on screen for half a second before the rest of the sentence."""
    segments = tuple(
        Segment(text, start, end, -1.0)
        for text, start, end in (("It was", 0.0, 0.4), ("a horrible journey.", 0.5, 2.0), ("Yes.", 2.2, 3.0))
    )
    shown = render(Transcript("talk.wav", 4.0, segments), "srt", SubtitleShape()).split("\n\n")
    assert [cue.split("\n")[2] for cue in shown] == ["It was a horrible journey.", "Yes."]


def test_one_word_at_a_time() -> None:
    assert blocks(spoken("one two three"), SubtitleShape(max_words=1)) == [["one"], ["two"], ["three"]]


def test_cues_are_full_rather_than_many() -> None:
    """A text a little too long for two cues was halved twice, into four half-empty cues."""
    text = " ".join(["word"] * 36)  # 17 of them fill a cue
    assert [len(" ".join(lines).split()) for lines in blocks(spoken(text), SubtitleShape())] == [12, 12, 12]


def test_lines_are_as_few_as_can_be_and_about_equally_long() -> None:
    assert blocks(spoken(TEXT), SubtitleShape(24, 3)) == [["it was a great while", "before he could"]]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It was late. By then, nobody came to the door", ["It was late."]),
        ("he came very late, by then nobody answered", ["he came very late,"]),
        ("at 3:30 p.m. nobody came, then they left", ["at 3:30 p.m. nobody came,"]),
        ("somebody called — nobody answered it", ["somebody called —"]),
        ("we asked for old Dr. Smith, who never came", ["we asked for old Dr. Smith,"]),
        ("they told Anna J. Smith that nobody had come", ["they told Anna J. Smith"]),
    ],
    ids=[
        *("sentence before comma", "comma before the middle", "abbreviation", "dash", "title", "initial"),
    ],
)
def test_a_cue_rather_ends_with_its_sentence_or_clause(text: str, first: list[str]) -> None:
    assert blocks(spoken(text), SubtitleShape(len(text) - 1, 1))[0] == first


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_each_word_is_underlined_while_it_is_spoken(name: str) -> None:
    text = render(spoken("one <two>"), name, SubtitleShape(highlight_words=True))
    shown = re.findall(r"00:00:0(\d)[.,](\d{3}) --> 00:00:0(\d)[.,](\d{3})\n(.*)\n", text)
    two = "<two>" if name == "srt" else "&lt;two&gt;"
    assert [(int(s + ms), int(e + end), line) for s, ms, e, end, line in shown] == [
        (0, 400, f"<u>one</u> {two}"),
        (400, 500, f"one {two}"),
        (500, 900, f"one <u>{two}</u>"),
        (900, 1000, f"one {two}"),
    ]


def test_tsv_has_a_row_for_each_cue() -> None:
    """TSV had a row per segment of up to 20 s, useless in an editor; whisper writes cues too."""
    table = render(spoken(TEXT), "tsv", SubtitleShape(max_words=4)).splitlines()
    assert table == ["start\tend\ttext", "0\t2000\tit was a great", "2000\t3900\twhile before he could"]


@pytest.mark.parametrize("shape", [{"max_line_width": 0}, {"max_lines": 0}, {"max_words": 0}])
def test_a_shape_without_room_is_refused(shape: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(shape))):
        SubtitleShape(**shape)  # type: ignore[arg-type]
