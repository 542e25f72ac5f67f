"""A growing buffer: words on which two passes agree are committed, and slow passes delay words."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr.archive.manifest import Utterance
from asr.audio import SAMPLE_RATE
from asr.errors import DataError
from asr.transcript import Word
from recipes.benchmark import growing_buffer, streaming
from recipes.benchmark.growing_buffer import Agreement, hear, spoken
from streaming.events import Final, Partial

SAID = ["one", "two", "three", "four", "five", "six", "seven", "eight"]  # one per second


def words(text: str, first_second: float = 0.0) -> list[Word]:
    """Words of half a second, one per second."""
    return [Word(w, first_second + i, first_second + i + 0.5, 1.0) for i, w in enumerate(text.split())]


def texts(found: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in found)


class Peer:
    """A stub recogniser whose newest word is always wrong; samples encode their second."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.passes: list[tuple[int, int, str]] = []

    def __call__(self, waveform: Tensor, prompt: str) -> list[list[Word]]:
        start, seconds = int(waveform[0]), len(waveform) // SAMPLE_RATE
        self.passes.append((start, seconds, prompt))
        heard = self.said[start : start + seconds]
        if start + seconds <= len(self.said):
            heard = [*heard[:-1], f"{heard[-1]}?!"]
        return [[word] for word in words(" ".join(heard))]


def recording(seconds: int) -> Tensor:
    return torch.arange(float(seconds)).repeat_interleave(SAMPLE_RATE)


def timer(pass_seconds: float) -> itertools.count[float]:
    return itertools.count(0.0, pass_seconds)


def test_words_are_committed_once_two_passes_agree() -> None:
    first = Agreement().after(words("one to"))
    assert (texts(first.committed), texts(first.tentative)) == ("", "one to")
    second = first.after(words("one two three"))
    assert (texts(second.committed), texts(second.tentative)) == ("one", "two three")
    third = second.after(words("wun two three four"))  # committed words stay
    assert (texts(third.committed), texts(third.tentative)) == ("one two three", "four")


def test_words_that_a_pass_says_again_are_left_out() -> None:
    before = Agreement(tuple(words("one two")), ())
    again = [Word("two", 1.45, 1.6, 1.0), Word("three", 2.0, 2.5, 1.0)]
    assert texts(before.after(again).tentative) == "three"


def test_a_recording_is_heard_second_by_second() -> None:
    peer, clock = Peer(SAID), timer(0.0)
    shown, costs = hear(peer, recording(11), lambda: next(clock))
    assert [seconds for _, seconds, _ in peer.passes] == list(range(1, 12))
    assert len(costs) == 11
    assert [at for _, at in shown] == list(range(1, 12))
    partial = shown[2][0]
    assert isinstance(partial, Partial)
    assert (texts(partial.committed), texts(partial.tentative)) == ("one", "two three")
    final = shown[-1][0]
    assert isinstance(final, Final)
    assert final.text == " ".join(SAID)


def test_a_slow_pass_makes_words_late_and_passes_fewer() -> None:
    """Audio that arrives during a pass is all in the next one, so slow passes are fewer and words late."""
    peer, clock = Peer(SAID), timer(2.5)
    shown, _ = hear(peer, recording(11), lambda: next(clock))
    assert [at for _, at in shown] == [3.5, 6.0, 8.5, 11.0, 13.5]
    assert [seconds for _, seconds, _ in peer.passes] == [1, 3, 6, 8, 11]


def test_a_long_buffer_is_cut_after_a_committed_segment_and_prompted() -> None:
    said = [f"{letter}{other}" for letter in "abcde" for other in "qrstuvwx"]
    peer, clock = Peer(said), timer(0.0)
    shown, _ = hear(peer, recording(43), lambda: next(clock))
    assert max(seconds for _, seconds, _ in peer.passes) <= growing_buffer.BUFFER_SECONDS + 2
    assert shown[-1][0].text == " ".join(said)
    start, _, prompt = peer.passes[-1]
    assert start > 20
    assert prompt.split()[-1] == said[start]  # the buffer begins at its end, half a second later


def test_words_are_compared_as_they_are_spoken() -> None:
    assert texts(spoken(words("Well-known, “yes” …"))) == "well known yes"


def test_a_peer_is_measured_as_our_streams_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is measured on the recordings and by the metrics of our streams; its cost is that of its passes."""
    monkeypatch.setattr(streaming, "whisper", lambda folder: Peer(SAID))
    utterance = Utterance("a", Path("a.wav"), 11.0, " ".join([*SAID[:-1], "nine"]), "books", None)
    clock = timer(0.5)
    made = streaming.peer(
        "faster-whisper:models/tiny", [(utterance, recording(11), words(" ".join(SAID)))], lambda: next(clock)
    )
    assert made.name == "Whisper tiny"
    assert len(made.to_partial) == len(made.to_commit) == 8
    assert max(made.to_partial) < max(made.to_commit)
    assert made.scored[0].hypothesis == " ".join(SAID)
    assert made.compute_rate == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["pocketsphinx", "faster-whisper", "kaldi:x"])
def test_a_peer_that_cannot_be_heard_live_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such peer of live streams; expected faster-whisper:DIR"):
        streaming.peer(name, [])
