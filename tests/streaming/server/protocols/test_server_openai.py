"""The HTTP API, used by OpenAI's own client, on a running server with the shipped model."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile as sf

from asr.output.formats import render
from asr.transcript import Transcript
from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running

KEY = "the-key"


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(api_key=KEY), shipped_engine) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def sample(repository_root: Path) -> Path:
    return repository_root / "recipes/sample.flac"


@pytest.fixture(scope="module")
def transcript(shipped_engine: Engine, sample: Path) -> Transcript:
    """The transcript from the command line."""
    return shipped_engine.recogniser.transcribe(sample)


@pytest.fixture(scope="module")
def conversation(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute, stereo at 22,050 Hz, with pauses."""
    speech, rate = sf.read(sample, dtype="float32")
    pause = np.zeros(2 * rate, np.float32)
    path = tmp_path_factory.mktemp("audio") / "conversation.wav"
    once = np.concatenate([speech, pause, speech[: 3 * rate], pause])
    mono = np.tile(once, 3)
    resampled = np.interp(np.arange(0, len(mono), rate / 22_050), np.arange(len(mono)), mono)
    sf.write(path, np.stack([resampled, resampled], axis=1), 22_050)
    return path


def silence() -> tuple[str, bytes]:
    file = io.BytesIO()
    sf.write(file, np.zeros(16_000), 16_000, format="WAV")
    return "silence.wav", file.getvalue()


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "default"
    assert {"whisper-1", "gpt-4o-transcribe"} <= set(names)
    assert [client.models.retrieve(name).object for name in names] == ["model"] * len(names)
    with pytest.raises(openai.NotFoundError, match="model is 'whisper-9': there are default"):
        client.models.retrieve("whisper-9")


def test_json_is_what_the_command_line_says(client: openai.OpenAI, sample: Path, transcript: Transcript) -> None:
    answer = client.audio.transcriptions.create(
        file=sample, model="whisper-1", language="en", prompt="boats", temperature=0.5
    )
    assert answer.text == transcript.text
    assert answer.usage is not None
    assert answer.usage.seconds == pytest.approx(transcript.duration_seconds, abs=0.001)


def test_text_and_subtitles(client: openai.OpenAI, sample: Path, transcript: Transcript) -> None:
    with sample.open("rb") as file:  # bytes without a path, as from a web form
        said = client.audio.transcriptions.create(file=file, model="default", response_format="text")
    assert said == transcript.text + "\n"
    for name in ("srt", "vtt"):
        shown = client.audio.transcriptions.create(file=sample, model="default", response_format=name)
        assert shown == render(transcript, name)


def test_verbose_json_has_words_and_segments(client: openai.OpenAI, sample: Path, transcript: Transcript) -> None:
    answer = client.audio.transcriptions.create(
        file=sample, model="default", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (answer.text, answer.language) == (transcript.text, "english")
    assert answer.duration == pytest.approx(transcript.duration_seconds, abs=0.001)
    assert answer.words is not None
    assert [(w.word, w.start, w.end) for w in answer.words] == [
        (w.text, round(w.start_seconds, 3), round(w.end_seconds, 3)) for w in transcript.words
    ]
    assert answer.segments is not None
    assert [s.text for s in answer.segments] == [s.text for s in transcript.segments]
    for segment in answer.segments:
        assert 0 <= segment.start < segment.end <= answer.duration
        assert segment.avg_logprob < 0
        assert segment.tokens


def test_granularities_choose_what_is_told(client: openai.OpenAI, sample: Path) -> None:
    def ask(**options: object) -> object:
        return client.audio.transcriptions.create(
            file=sample, model="default", response_format="verbose_json", **options
        )

    words, segments, unasked = ask(timestamp_granularities=["word"]), ask(timestamp_granularities=["segment"]), ask()
    assert (words.words is None, words.segments is None) == (False, True)
    assert (segments.words is None, segments.segments is None) == (True, False)
    assert (unasked.words is None, unasked.segments is None) == (True, False)


def test_a_long_file_is_told_as_it_is_found(client: openai.OpenAI, conversation: Path) -> None:
    """Segments of a long file have correct times, and the deltas of the event stream add up to the text."""
    whole = client.audio.transcriptions.create(file=conversation, model="default", response_format="verbose_json")
    assert whole.segments is not None
    assert len(whole.segments) >= 6
    assert whole.text == " ".join(segment.text for segment in whole.segments)
    assert all(before.end <= after.start for before, after in zip(whole.segments, whole.segments[1:], strict=False))
    assert whole.segments[-1].start > 25

    events = list(client.audio.transcriptions.create(file=conversation, model="default", stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert [event.type for event in events[len(deltas) :]] == ["transcript.text.done"]
    assert len(deltas) == len(whole.segments)
    assert "".join(deltas) == events[-1].text == whole.text


def test_a_stream_tells_times_where_verbose_json_is_asked_for(
    client: openai.OpenAI, sample: Path, transcript: Transcript
) -> None:
    events = client.audio.transcriptions.create(
        file=sample, model="default", stream=True, response_format="verbose_json"
    )
    delta, segment, done = (event.to_dict() for event in events)
    assert (segment["type"], segment["text"]) == ("transcript.text.segment", transcript.text)
    assert [word["word"] for word in segment["words"]] == transcript.text.split()
    assert delta["delta"] == done["text"] == transcript.text


def test_requests_at_the_same_time_do_not_mix(server: Running, sample: Path, transcript: Transcript) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            files = [sample if i % 2 else silence() for i in range(6)]
            asked = [client.audio.transcriptions.create(file=file, model="default") for file in files]
            return [answer.text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == ["", transcript.text] * 3


def test_a_wrong_key_is_refused(server: Running, sample: Path) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="not-the-key", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="API key is wrong"),
    ):
        client.audio.transcriptions.create(file=sample, model="default")


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"language": "de"}, "language", "language is 'de': the model supports only 'en'"),
        ({"response_format": "diarized_json"}, "response_format", "'response_format': Input should be 'json'"),
        ({"temperature": 1.5}, "temperature", "less than or equal to 1"),
        ({"timestamp_granularities": ["word"]}, "response_format", "must be verbose_json"),
        ({"stream": True, "response_format": "srt"}, "response_format", "must be json, text or verbose_json if"),
    ],
)
def test_what_cannot_be_had_is_refused(
    client: openai.OpenAI, sample: Path, options: dict[str, object], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.audio.transcriptions.create(file=sample, model="default", **options)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


@pytest.mark.parametrize("language", ["en", "en-GB", "EN_us", "english", ""])
def test_english_has_several_names(client: openai.OpenAI, language: str) -> None:
    answer = client.audio.transcriptions.create(file=silence(), model="default", language=language)
    assert answer.text == ""


def test_an_unknown_model_is_not_found(client: openai.OpenAI, sample: Path) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(file=sample, model="whisper-9" * 1000)
    assert caught.value.code == "model_not_found"
    assert len(caught.value.message) < 400


def test_real_speech_in_every_container(client: openai.OpenAI, shipped_engine: Engine, speech_dir: Path) -> None:
    """Real speech from the corpora in its own mp3 and opus files."""
    clips = [min((speech_dir / "dev/dev-clean").glob("*")), min((speech_dir / "dev").glob("common*/*"))]
    for clip in clips:
        said = client.audio.transcriptions.create(file=clip, model="default").text
        assert said
        assert said == shipped_engine.recogniser.transcribe(clip).text


def test_the_names_of_a_prompt_are_listened_for(client: openai.OpenAI, sample: Path) -> None:
    """Words of a prompt are hotwords: an overwhelming weight makes one appear; unspellable ones are left out."""
    plain = client.audio.transcriptions.create(file=sample, model="whisper-1")
    asked = client.audio.transcriptions.create(file=sample, model="whisper-1", prompt="東京, windows:5, a:0")
    assert "windows" in asked.text.lower()
    assert "windows" not in plain.text.lower()
