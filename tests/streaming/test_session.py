"""A stream's state without a model: audio of each segment, and kept audio."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asr.audio.segment import WINDOW_SAMPLES
from asr.audio.vad import SpeechState
from asr.errors import AudioError
from asr.model.decoder import DecoderState
from asr.model.states import Vectors
from asr.search import Hypothesis
from asr.search.alignment import TimedWord
from asr.transcript import Word
from streaming.endpoint import EndpointConfig, EndpointState
from streaming.open_segment import Committed, OpenSegment
from streaming.session import Session, check_chunk

RULES = EndpointConfig(min_speech_ms=64, min_silence_ms=256, padding_ms=96, max_seconds=2.0)  # 2, 8 and 3 windows
FRAME_SAMPLES = 960.0
SPEECH = SpeechState.start(1, torch.device("cpu"))
NOTHING = torch.zeros(0)
FRESH = OpenSegment(
    0,
    0,
    NOTHING,
    Vectors().keep(torch.zeros(1, 1))[0],
    NOTHING,
    torch.zeros(0, 4),
    Committed((), (), 0.0, DecoderState(NOTHING, NOTHING, NOTHING), 0),
)


def started() -> Session:
    return Session(NOTHING, 0, SPEECH, EndpointState())


def window(number: int) -> Tensor:
    """A window whose samples all equal its number."""
    return torch.full((WINDOW_SAMPLES,), float(number))


def run(
    probabilities: list[float], config: EndpointConfig = RULES, committed_seconds: float = 0.0
) -> tuple[Session, list[tuple[int, int]]]:
    """Process windows 0, 1, …; returns the session, and the window spans of finished segments."""
    session, spans = started(), []
    for number, probability in enumerate(probabilities):
        session, _ = session.receive(window(number)).hear([probability], config, FRESH, FRAME_SAMPLES)
        if session.segment and committed_seconds:
            end = min(int(committed_seconds * 16_000 / FRAME_SAMPLES), int(session.segment.samples / FRAME_SAMPLES))
            committed = replace_end(session.segment.committed, end)
            session = replace(session, segment=replace(session.segment, committed=committed))
        if session.segment and session.segment.ended:
            spans.append(span(session.segment))
            session = session.close(FRESH)
    return session, spans


def replace_end(committed: Committed, end_frame: int) -> Committed:
    return committed._replace(end_frame=end_frame)


def span(segment: OpenSegment) -> tuple[int, int]:
    end = segment.start_samples + segment.samples
    assert segment.start_samples % WINDOW_SAMPLES == end % WINDOW_SAMPLES == 0
    return segment.start_samples // WINDOW_SAMPLES, end // WINDOW_SAMPLES


def test_a_segment_takes_the_padding_with_it() -> None:
    session, _ = run([0.0] * 10 + [0.9] * 3)
    assert session.segment is not None
    assert session.segment.start_samples == 7 * WINDOW_SAMPLES
    assert session.segment.unencoded.tolist() == torch.cat([window(i) for i in range(7, 13)]).tolist()
    assert session.heard_seconds == pytest.approx(13 * 0.032)


def test_without_padding_nothing_is_kept() -> None:
    session, _ = run([0.0] * 10, replace(RULES, padding_ms=0, min_speech_ms=0))
    assert session.latest == ()
    session, _ = run([0.0] * 10 + [0.9], replace(RULES, padding_ms=0, min_speech_ms=0))
    assert session.segment is not None
    assert session.segment.start_samples == 10 * WINDOW_SAMPLES


def test_half_the_silence_is_left_for_who_speaks_next() -> None:
    session, spans = run([0.9] * 10 + [0.0] * 8)
    assert spans == [(0, 14)]
    assert [int(w.samples[0]) for w in session.latest] == [14, 15, 16, 17]
    _, spans = run([0.9] * 10 + [0.0] * 8 + [0.9] * 5 + [0.0] * 8)
    assert spans == [(0, 14), (15, 27)]  # padding: three windows before the two that confirmed speech


def test_what_is_committed_is_not_left_to_the_next() -> None:
    _, spans = run([0.9] * 10 + [0.0] * 8, committed_seconds=17 * 0.032)
    assert spans == [(0, 17)]


def test_too_long_a_segment_is_cut_where_it_is_least_like_speech() -> None:
    probabilities = [0.9] * 100
    probabilities[20], probabilities[50], probabilities[55] = 0.4, 0.6, 0.7
    session, spans = run(probabilities)
    assert spans == [(0, 50)]  # not at 20, in the first half
    assert session.segment is not None
    assert session.segment.start_samples == 50 * WINDOW_SAMPLES
    assert session.segment.unencoded[::WINDOW_SAMPLES].tolist() == list(range(50, 100))


def test_it_is_cut_behind_all_that_is_committed() -> None:
    probabilities = [0.9] * 63
    probabilities[50], probabilities[55] = 0.6, 0.7
    _, spans = run(probabilities, committed_seconds=1.65)
    assert spans == [(0, 55)]
    _, spans = run(probabilities, committed_seconds=60.0)  # up to the edge
    assert spans == [(0, 62)]


def test_a_cut_with_only_silence_behind_it_opens_nothing() -> None:
    probabilities = [0.9] * 60 + [0.2] * 40
    session, spans = run(probabilities, replace(RULES, min_silence_ms=1000))
    assert spans == [(0, 60)]
    assert session.segment is None
    assert not session.endpoint.speaking


@given(st.lists(st.floats(0, 1), max_size=400), st.floats(0, 3))
def test_no_audio_is_heard_twice_and_no_speech_is_lost(probabilities: list[float], committed_seconds: float) -> None:
    session, spans = run([round(p, 1) for p in probabilities], committed_seconds=committed_seconds)
    if session.segment:
        spans.append(span(session.segment))
    assert all(a < b for a, b in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    covered = {i for a, b in spans for i in range(a, b)}
    runs = [i for i in range(1, len(probabilities)) if min(round(p, 1) for p in probabilities[i - 1 : i + 1]) >= 0.5]
    assert {*runs, *(i - 1 for i in runs)} <= covered
    assert len(session.latest) <= 125


def test_nothing_keeps_what_was_pushed_alive() -> None:
    pushed = torch.zeros(100 * WINDOW_SAMPLES + 7)
    session = started().receive(pushed)
    for _ in range(100):
        session, _ = session.hear([0.9], RULES, FRESH, FRAME_SAMPLES)
        if session.segment and session.segment.ended:
            session = session.close(FRESH)
    session = session.settle()
    assert len(session.unread) == 7
    tensors = [session.unread, *(w.samples for w in session.latest)]
    assert all(t.untyped_storage().nbytes() == 4 * len(t) for t in tensors)
    assert all(t.untyped_storage().data_ptr() != pushed.untyped_storage().data_ptr() for t in tensors)


def everything(session: Session) -> tuple[object, ...]:
    """A session as plain values."""
    latest = [(w.samples.tolist(), w.probability) for w in session.latest]
    segment = session.segment
    opened = segment and (segment.start_samples, segment.samples, segment.unencoded.tolist(), segment.ended)
    return session.unread.tolist(), session.read_samples, session.endpoint, latest, opened


@given(
    st.lists(st.sampled_from([0.1, 0.1, 0.2, 0.4, 0.9, 0.9, 0.9]), min_size=1, max_size=150),
    st.integers(1, 20_000),
    st.integers(0, WINDOW_SAMPLES - 1),
)
def test_windows_heard_at_once_are_those_heard_one_by_one(probabilities: list[float], missing: int, rest: int) -> None:
    """Windows processed together stop at the same window: a segment's start or end, or enough for an encoder step."""
    audio = torch.cat([window(i) for i in range(len(probabilities))])
    audio = audio[: len(audio) - rest]  # the last may be shorter
    at_once = one_by_one = started().receive(audio)
    waiting, heard = probabilities, 0
    while waiting:
        waited = missing - (len(at_once.segment.unencoded) if at_once.segment else 0)
        at_once, taken = at_once.hear(waiting, RULES, FRESH, FRAME_SAMPLES, waited)
        assert 1 <= taken <= len(waiting)
        for place, probability in enumerate(waiting[:taken]):
            before = one_by_one.segment
            one_by_one, _ = one_by_one.hear([probability], RULES, FRESH, FRAME_SAMPLES)
            opened = one_by_one.segment
            changed = (before is None) != (opened is None) or bool(opened and opened.ended)
            reached = bool(before and opened and len(before.unencoded) < missing <= len(opened.unencoded))
            assert place + 1 == taken or not (changed or reached)
        assert everything(at_once) == everything(one_by_one)
        if at_once.segment and at_once.segment.ended:
            at_once, one_by_one = at_once.close(FRESH), one_by_one.close(FRESH)
        elif at_once.segment and len(at_once.segment.unencoded) >= missing:
            encoded = replace(at_once.segment, unencoded=NOTHING)
            at_once, one_by_one = replace(at_once, segment=encoded), replace(one_by_one, segment=encoded)
        waiting, heard = waiting[taken:], heard + taken
    assert heard == len(probabilities)


def test_a_stream_that_ended_waits_for_another() -> None:
    session, _ = run([0.9] * 10)
    ended = session.end()
    assert ended.open_segment.ended
    closed = ended.close(FRESH)
    assert (closed.segment, closed.latest, closed.endpoint) == (None, (), EndpointState())
    assert closed.skip(16_000).heard_seconds == pytest.approx(1.32)


def test_words_have_times_on_the_streams_clock_and_end_with_the_segment() -> None:
    segment = replace(FRESH, start_samples=32_000, samples=16_000)
    found = [TimedWord("a", 1, 2, 5, 0.12, 0.3, 0.5), TimedWord("b", 3, 5, 99, 0.3, 5.94, 0.25)]
    first, second = segment.words(found, 0.06)
    assert (first.start_seconds, first.end_seconds) == pytest.approx((2.12, 2.3))
    assert (second.start_seconds, second.end_seconds) == pytest.approx((2.3, 3.0))
    segment = replace(segment, encoder_out=torch.arange(12.0)[:, None])
    decoder = DecoderState(NOTHING, NOTHING, torch.arange(20.0)[None, None])  # padded: it comes from a batch
    after = segment.commit(Hypothesis([7, 8, 9], -3.0, [-0.5, -1.0, -2.0]), found[:1], decoder, 0.06, 99)
    committed = after.committed
    assert (committed.tokens, committed.score, committed.end_frame, after.released) == ((7,), -0.5, 5, 0)
    segment = after.finished(found[1:], -3.0, 0.06)
    assert segment.words == (first, second)
    assert (segment.text, segment.score, segment.start_seconds, segment.end_seconds) == ("a b", -3.5, 2.0, 3.0)


def test_a_word_never_begins_before_the_committed_ones_end() -> None:
    """Each search times its first word without the committed words, whose end is fixed by then."""
    segment = replace(FRESH, start_samples=32_000, samples=16_000)
    committed = segment.committed._replace(words=(Word("a", 2.1, 2.5, 0.5),))
    (word,) = replace(segment, committed=committed).words([TimedWord("b", 1, 8, 10, 0.45, 0.7, 0.5)], 0.06)
    assert (word.start_seconds, word.end_seconds) == pytest.approx((2.5, 2.7))


def test_frames_behind_the_committed_words_are_released() -> None:
    segment = replace(FRESH, start_samples=32_000, samples=16_000, encoder_out=torch.arange(12.0)[:, None])
    decoder = DecoderState(NOTHING, NOTHING, torch.arange(20.0)[None, None])
    word, later = TimedWord("a", 1, 2, 5, 0.12, 0.3, 0.5), TimedWord("b", 3, 5, 7, 0.3, 0.42, 0.25)
    after = segment.commit(Hypothesis([7, 8, 9], -3.0, [-0.5, -1.0, -2.0]), [word], decoder, 0.06, 2)
    assert (after.released, after.committed.end_frame, after.committed_frames) == (3, 2, 5)
    assert after.encoder_out[:, 0].tolist() == after.committed.decoder.alignment[0, 0].tolist() == list(range(3, 12))
    assert after.encoder_out.untyped_storage().nbytes() == 9 * 4
    moved = replace(later, first_frame=2, last_frame=4, start_seconds=0.12, end_seconds=0.24)
    (expected,), (found,) = segment.words([later], 0.06), after.words([moved], 0.06)
    assert (found.start_seconds, found.end_seconds) == pytest.approx((expected.start_seconds, expected.end_seconds))
    again = after.commit(Hypothesis([8, 9], -2.0, [-1.0, -2.0]), [replace(moved, tokens=2)], decoder, 0.06, 2)
    assert (again.released, again.committed_frames) == (5, 7)
    assert [w.text for w in again.committed.words] == ["a", "b"]


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (np.zeros(5, dtype=np.float32), "of type ndarray"),
        (torch.zeros(5, dtype=torch.float64), "torch.float64"),
        (torch.zeros(5, dtype=torch.int16), "torch.int16"),
        (torch.zeros(1, 5), r"\(1, 5\)"),
        (torch.tensor(0.0), r"\(\)"),
        (torch.tensor([0.0, math.nan]), "NaN or infinite"),
        (torch.tensor([0.0, -math.inf]), "NaN or infinite"),
    ],
)
def test_odd_chunks_are_refused_by_name(chunk: object, reason: str) -> None:
    with pytest.raises(AudioError, match=f"stream 3: .*{reason}"):
        check_chunk(chunk, "stream 3")


def test_no_samples_are_as_good_as_any() -> None:
    check_chunk(NOTHING, "stream 3")
    session = started()
    assert session.receive(NOTHING) is session
