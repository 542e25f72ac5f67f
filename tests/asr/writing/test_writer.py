"""The writer: joining of words, and equal text for streams, batches and whole files."""

from __future__ import annotations

from collections.abc import Sequence

from asr.transcript import Segment, Word
from asr.writing.parts import CONTEXT_WORDS, PARTIAL_CONTEXT_WORDS, Form, Tag, Utterance
from asr.writing.writer import Context, Writer
from tests.support.tagger import RuleTagger


class Given:
    """A stub tagger with the same tags for every utterance."""

    def __init__(self, *tags: tuple[str, str]) -> None:
        self.tags, self.seen = [Tag(*tag) for tag in tags], list[Utterance]()

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        self.seen += utterances
        return [self.tags for _ in utterances]


class Names:
    """Writes words as they are given."""

    def __init__(self, **names: str) -> None:
        self.names = names

    def forms(self, words: Sequence[str]) -> list[Form]:
        text = " ".join(words)
        found = []
        for spoken, written in self.names.items():
            if (said := spoken.replace("_", " ")) in text:
                start = len(text[: text.index(said)].split())
                found.append(Form(start, start + len(said.split()), written))
        return found


def segment(text: str, start: float = 0.0, *, confidence: float = 0.9, pause: float = 0.0) -> Segment:
    """A segment of words of 0.4 s, `pause` seconds apart."""
    words = tuple(
        Word(word, start + i * (0.4 + pause), start + i * (0.4 + pause) + 0.4, confidence)
        for i, word in enumerate(text.split())
    )
    return Segment(text, start, words[-1].end_seconds if words else start, -1.0, words)


def written(text: str, tagger: Given | RuleTagger | None = None, names: Names | None = None) -> str:
    (found,) = Writer(tagger).write_all([segment(text)], names)
    return found.text


SEGMENTS = [segment(text, 4.0 * i) for i, text in enumerate(["one more paris", "", "we went late", "he did it", "are"])]


def test_capitals_and_marks_with_times() -> None:
    tagger = Given(("we", ""), ("left", ""), ("Paris", "—"), ("iPhone", "."), ("'tis", "?"), ("3rd", ""))
    spoken = segment("we left paris iphone 'tis 3rd")
    (found,) = Writer(tagger).write_all([spoken])
    assert found.text == "We left Paris — iPhone. 'Tis? 3rd"
    assert [word.text for word in found.words] == ["We", "left", "Paris —", "iPhone.", "'Tis?", "3rd"]
    assert found.as_spoken() == spoken
    assert [(w.start_seconds, w.confidence) for w in found.words] == [
        (w.start_seconds, w.confidence) for w in spoken.words
    ]


def test_a_name_is_one_word_with_its_own_spelling() -> None:
    tagger = Given(("siobhan", ""), ("uses", ""), ("next", ","), ("cloud", "."))
    spoken = segment("siobhan uses next cloud")
    (found,) = Writer(tagger).write_all([spoken], Names(siobhan="siobhán", next_cloud="Nextcloud"))
    assert found.text == "Siobhán uses Nextcloud."
    last = found.words[-1]
    assert (last.start_seconds, last.end_seconds) == (spoken.words[2].start_seconds, spoken.words[3].end_seconds)


def test_the_stop_of_an_abbreviation_is_not_doubled() -> None:
    tagger = Given(("at", ""), ("acme", "."), ("we", "?"))
    assert written("at acme we", tagger, Names(acme="Acme Inc.")) == "At Acme Inc. We?"


def test_without_a_tagger_only_names_and_numbers_are_written() -> None:
    assert written("call paris") == "call paris"
    assert Writer().write_all([segment("call paris")]) == [segment("call paris")]
    assert written("call paris", None, Names(paris="PARIS")) == "call PARIS"


def test_a_number_is_one_word_unless_a_name_or_a_doubt_is_in_it() -> None:
    spoken = segment("twenty five boats")
    (found,) = Writer().write_all([spoken])
    assert [(word.text, word.start_seconds) for word in found.words] == [("25", 0.0), ("boats", 0.8)]
    assert found.words[0].end_seconds == spoken.words[1].end_seconds
    assert found.as_spoken() == spoken
    assert Writer().write_all([segment("twenty five boats", confidence=0.29)])[0].text == "twenty five boats"
    assert written("twenty five boats", None, Names(twenty_five="Twenty-Five")) == "Twenty-Five boats"


def test_no_number_crosses_a_mark_or_a_pause() -> None:
    tagger = Given(("twenty", ","), ("five", "."))
    assert written("twenty five", tagger) == "20, five."
    assert Writer().write_all([segment("twenty five", pause=0.6)])[0].text == "20 five"


def test_a_confidence_is_that_of_the_least_sure_word() -> None:
    words = (Word("next", 0, 1, 0.9), Word("cloud", 1, 2, 0.2))
    (found,) = Writer().write_all([Segment("next cloud", 0, 2, 0.0, words)], Names(next_cloud="Nextcloud"))
    assert found.words == (Word("Nextcloud", 0, 2, 0.2),)


def test_the_tagger_sees_pauses_and_the_words_before() -> None:
    tagger = Given(("a", ""), ("b", ""))
    untimed = Segment("a b", 2.0, 3.0, 0.0)
    found = Writer(tagger).write_all([segment("a b", pause=0.25), untimed])
    first, second = tagger.seen
    assert [pause and round(pause, 3) for pause in first.pauses] == [0.25, None]
    assert (list(second.pauses), list(second.before), second.final) == ([None, None], ["a", "b"], True)
    assert found[1] == Segment("a b", 2.0, 3.0, 0.0)
    (_, context), *_ = Writer(tagger).write([segment("a b")], [Context(("x",) * CONTEXT_WORDS)])
    assert context == Context((*("x",) * (CONTEXT_WORDS - 2), "a", "b"), sentence_open=True)


def test_a_partial_is_tagged_with_less_context_than_a_final() -> None:
    """Partials are tagged many times, so they get less context."""
    tagger, before = Given(("a", "")), Context(tuple(map(str, range(CONTEXT_WORDS))))
    Writer(tagger).partial([segment("a").words], [before])
    Writer(tagger).write([segment("a")], [before])
    partial, final = tagger.seen
    assert partial.before == before.words[-PARTIAL_CONTEXT_WORDS:]
    assert final.before == before.words


def test_a_sentence_goes_on_over_a_pause() -> None:
    assert [one.text for one in Writer(RuleTagger()).write_all(SEGMENTS)] == [
        "One. More Paris",
        "",
        "we. Went, late.",
        "He did? It,",
        "are.",
    ]


def test_segments_one_by_one_are_written_as_the_whole() -> None:
    writer, context, found = Writer(RuleTagger()), Context(), []
    for one in SEGMENTS:
        ((said, context),) = writer.write([one], [context])
        found.append(said)
    assert found == writer.write_all(SEGMENTS)
    assert writer.write_all(found) == found  # and text in written form stays unchanged


def test_a_batch_of_streams_is_written_as_each_alone() -> None:
    tagger = RuleTagger()
    contexts = [Context(), Context(("late",), True), Context(("went",)), Context(), Context(("more",))]
    names = [None, None, Names(we="WE"), None, None]
    together = Writer(tagger).write(SEGMENTS, contexts, names)
    assert tagger.batches == [4]  # one batch, without the segment that has no words
    alone = [Writer(tagger).write([SEGMENTS[i]], [contexts[i]], [names[i]])[0] for i in range(len(SEGMENTS))]
    assert together == alone
    words = [one.words for one in SEGMENTS]
    partials = Writer(tagger).partial(words, contexts, names)
    assert partials == [Writer(tagger).partial([words[i]], [contexts[i]], [names[i]])[0] for i in range(len(words))]
    assert partials[:3] == ["One. More Paris", "", "WE. Went, late"]  # the last word's mark is not known yet


def test_nothing_to_write() -> None:
    assert Writer(RuleTagger()).write_all([]) == []
    assert Writer(RuleTagger()).write([], []) == []
    assert Writer(RuleTagger()).partial([], []) == []
