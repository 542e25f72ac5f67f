"""Start and end of speech: the endpoint rules, and the voice detector."""

from __future__ import annotations

import importlib.util
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio.vad import WINDOW_SAMPLES, SpeechDetector, SpeechState
from asr.errors import ConfigError
from streaming.endpoint import Decision, EndpointConfig, EndpointState, advance
from tests.support.streams import no_speech

CPU = torch.device("cpu")
RULES = EndpointConfig(min_speech_ms=96, min_silence_ms=160, padding_ms=64)  # 3, 5 and 2 windows


def decisions(probabilities: list[float], config: EndpointConfig = RULES) -> list[str]:
    state, found = EndpointState(), []
    for probability in probabilities:
        state, decision = advance(state, probability, config)
        found.append(decision.name)
    return found


@torch.inference_mode()
def listen(waveform: Tensor) -> list[float]:
    """silero-vad's probability for each window of one stream, by its own code, window by window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format of the network
        package = importlib.util.find_spec("silero_vad")
        assert package is not None
        assert package.origin is not None
        model = torch.jit.load(str(Path(package.origin).parent / "data" / "silero_vad.jit"))
    model.reset_states()
    return [float(model(window[None], 16_000)) for window in waveform.unfold(0, WINDOW_SAMPLES, WINDOW_SAMPLES)]


def test_a_segment_begins_after_enough_speech_in_a_row() -> None:
    assert decisions([0.9, 0.9, 0.1, 0.9, 0.9, 0.9]) == ["WAIT"] * 5 + ["BEGIN"]
    assert decisions([0.5], EndpointConfig(min_speech_ms=0)) == ["BEGIN"]


def test_a_segment_ends_after_enough_silence_in_a_row() -> None:
    begun = [0.9] * 3
    assert decisions([*begun, 0.1, 0.1, 0.1, 0.1, 0.4, *[0.1] * 5])[3:] == ["SPEAK"] * 9 + ["END"]
    # Windows between the two thresholds keep a segment open, but begin none.
    assert decisions([*begun, *[0.4] * 50])[3:] == ["SPEAK"] * 50
    assert decisions([0.4] * 50) == ["WAIT"] * 50


def test_after_its_end_all_begins_afresh() -> None:
    once = [0.9] * 3 + [0.1] * 5
    assert decisions(once * 3) == (["WAIT", "WAIT", "BEGIN"] + ["SPEAK"] * 4 + ["END"]) * 3


def test_times_are_rounded_up_to_windows() -> None:
    config = EndpointConfig(min_speech_ms=33, min_silence_ms=161, padding_ms=1)
    assert (config.speech_windows, config.silence_windows, config.held_windows) == (2, 6, 2)
    nothing = EndpointConfig(min_speech_ms=0, min_silence_ms=1, padding_ms=0)
    assert (nothing.speech_windows, nothing.silence_windows, nothing.held_windows) == (1, 1, 0)
    assert RULES.held_windows == 4  # the padding, and the two windows of speech before the third confirmed it


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"speech_threshold": 1.0}, "speech_threshold"),
        ({"silence_threshold": 0.6}, "silence_threshold"),
        ({"min_speech_ms": -1}, "min_speech_ms"),
        ({"min_silence_ms": 0}, "min_silence_ms"),
        ({"padding_ms": 5001}, "padding_ms"),
        ({"max_seconds": 1.0}, "max_seconds"),
        ({"max_seconds": math.nan}, "max_seconds"),
        ({"max_seconds": 2.0, "padding_ms": 1000}, "padding_ms"),
    ],
)
def test_settings_out_of_their_bounds_are_refused(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        EndpointConfig(**settings)  # type: ignore[arg-type]


def test_the_detector_is_silero_vad_whatever_the_batch(recordings: list[torch.Tensor]) -> None:
    """In a batch of streams of different lengths, pushed in two parts, probabilities equal silero-vad's."""
    clips = [waveform[: n * WINDOW_SAMPLES] for waveform, n in zip(recordings[:3], (40, 25, 31), strict=True)]
    padded = pad_sequence(clips, batch_first=True).unflatten(1, (-1, WINDOW_SAMPLES))
    detector, state, found = SpeechDetector(CPU), SpeechState.start(3, CPU), []
    for part, counts in ((padded[:, :20], [20, 20, 20]), (padded[:, 20:], [20, 5, 11])):
        probabilities, state = detector.run(part, torch.tensor(counts), state)
        found.append([p[:n] for p, n in zip(probabilities.tolist(), counts, strict=True)])
    for clip, first, second in zip(clips, *found, strict=True):
        assert [*first, *second] == pytest.approx(listen(clip), abs=1e-5)

    # The state of each is that after its own last window.
    following = 0.1 * torch.randn(3, 1, WINDOW_SAMPLES)
    probabilities, _ = detector.run(following, torch.ones(3, dtype=torch.long), state)
    for clip, window, probability in zip(clips, following, probabilities, strict=True):
        assert float(probability) == pytest.approx(listen(torch.cat([clip, window[0]]))[-1], abs=1e-5)


def test_speech_is_heard(recordings: list[torch.Tensor]) -> None:
    assert "BEGIN" in decisions(listen(recordings[0]), EndpointConfig())


def test_the_threads_of_the_process_stay_as_they_are() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        SpeechDetector(CPU).run(torch.zeros(1, 1, WINDOW_SAMPLES), torch.ones(1).long(), SpeechState.start(1, CPU))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seconds", [10, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["silence", "noise", "tones"])
def test_what_is_no_speech_begins_nothing(kind: str, seconds: int) -> None:
    assert decisions(listen(no_speech(kind, seconds)), EndpointConfig()).count(Decision.BEGIN.name) == 0
