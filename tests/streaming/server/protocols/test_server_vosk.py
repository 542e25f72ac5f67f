"""vosk-server's WebSocket protocol: clients get the engine's results, whatever other clients do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import asr
from asr.audio import load
from asr.text.normalise import normalise
from asr.writing.parts import Style
from asr.writing.writer import Writer
from streaming.engine import Engine, StreamConfig
from streaming.events import Final
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.protocols.vosk import ProtocolError, VoskConfig
from tests.support.serving import Running, running
from tests.support.tagger import RuleTagger

PATIENT = ServerLimits(load_share=100, idle_seconds=1000)
SETTINGS = ("sample_rate", "words", "max_alternatives", "phrase_list", "model", "style", "colour")
EOF_MESSAGE = '{"eof" : 1}'


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return Engine(asr.load(device="cpu"), StreamConfig(alternatives=3))


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(limits=PATIENT), engine) as made:
        yield made


@pytest.fixture(scope="module")
def sample(repository_root: Path) -> Tensor:
    return load(repository_root / "recipes" / "sample.flac")


def pcm(waveform: Tensor) -> bytes:
    return (waveform.clamp(-1, 1) * 32767).round().short().numpy().tobytes()


async def talk(
    url: str, audio: bytes, config: dict[str, Any] | None = None, message_bytes: int = 6400
) -> list[dict[str, Any]]:
    """Like vosk-server's own client, send 0.2 s at a time, and wait for the answer to each message."""
    answers = []
    async with connect(url) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": 16_000, **(config or {})}}))
        for start in range(0, len(audio), message_bytes):
            await socket.send(audio[start : start + message_bytes])
            answers.append(json.loads(await socket.recv()))
        await socket.send(EOF_MESSAGE)
        answers.append(json.loads(await socket.recv()))
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1000
    return answers


def results(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [answer for answer in answers if "partial" not in answer]


def words(answers: Sequence[dict[str, Any]]) -> list[tuple[str, float, float, float]]:
    """Words with times and confidences, which may differ by rounding between batch sizes."""
    return [
        (w["word"], w["start"], w["end"], pytest.approx(w["conf"], abs=1e-3))
        for answer in results(answers)
        for w in answer.get("result", [])
    ]


def said(engine: Engine, audio: bytes, style: Style = "spoken", hotwords: str | None = None) -> list[Final]:
    """The engine's finals without a server."""
    waveform = torch.frombuffer(bytearray(audio), dtype=torch.int16).float() / 32768
    _, (events,) = engine.step([engine.start(hotwords, style)], [waveform], [True])
    return [event for event in events if isinstance(event, Final)]


def test_two_streams_at_once_say_what_each_says_alone(server: Running, engine: Engine, sample: Tensor) -> None:
    """Two streams at once get what each gets alone: partials, then a result with times and confidences per segment."""
    both = [pcm(sample), pcm(torch.cat([sample[30_000:], torch.zeros(20_000), sample[:30_000]]))]

    async def main() -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*(talk(server.ws_url, audio, message_bytes=12_800) for audio in both))

    for audio, answers in zip(both, asyncio.run(main()), strict=True):
        assert len(answers) == -(-len(audio) // 12_800) + 1
        assert any(answer.get("partial") for answer in answers)
        expected = [word for final in said(engine, audio) for word in final.segment.words]
        rounded = [(w.text, round(w.start_seconds, 3), round(w.end_seconds, 3), w.confidence) for w in expected]
        assert rounded
        assert words(answers) == rounded
        assert " ".join(answer["text"] for answer in results(answers)).split() == [w.text for w in expected]


def test_written_text_is_given_where_it_is_asked_for(
    server: Running, engine: Engine, sample: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "writer", Writer(RuleTagger()))
    audio = pcm(sample)

    async def main() -> list[list[dict[str, Any]]]:
        configs: list[dict[str, Any]] = [{}, {"style": "written", "live": True}]
        return await asyncio.gather(*(talk(server.ws_url, audio, config) for config in configs))

    spoken, written = asyncio.run(main())
    expected = [final.segment for final in said(engine, audio, "written")]
    assert [answer["text"] for answer in results(spoken)] == [segment.spoken for segment in expected]
    assert [answer["text"] for answer in results(written)] == [segment.text for segment in expected]
    assert expected[0].text != expected[0].spoken
    assert [word for word, *_ in words(written)] == [word.text for segment in expected for word in segment.words]
    partials = [answer for answer in written if answer.get("partial")]
    assert any(answer["partial"] != answer["partial"].lower() for answer in partials)
    assert all(0 <= answer["committed"] <= len(answer["partial"].split()) for answer in partials)


@pytest.mark.parametrize("style", ["Written", "", None, 1, ["written"], {"written": 1}])
def test_an_unknown_style_is_refused(style: Any) -> None:
    with pytest.raises(ProtocolError, match=r"style is .*: it must be written or spoken$"):
        VoskConfig(8000).updated({"style": style}, "default")


def test_a_real_recording_is_understood_as_the_engine_understands_it(
    server: Running, engine: Engine, speech_dir: Path
) -> None:
    """A real recording at the client's own sample rate, with word times switched off, is recognised."""
    rows = [json.loads(line) for line in (speech_dir / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    row = next(row for row in rows if 3 < row["duration"] < 6 and row.get("text"))
    waveform = load(speech_dir / row["audio"])
    halved = waveform[: len(waveform) // 2 * 2].reshape(-1, 2).mean(1)  # telephone speech at 8 kHz
    answers = asyncio.run(talk(server.ws_url, pcm(halved), {"sample_rate": 8000, "words": 0}))
    text = " ".join(answer["text"] for answer in results(answers))
    assert not any("result" in answer for answer in answers)
    assert set(normalise(text).split()) & set(normalise(row["text"]).split())


def test_several_alternatives_when_asked_for(server: Running, engine: Engine, sample: Tensor) -> None:
    audio = pcm(sample)
    answers = asyncio.run(talk(server.ws_url, audio, {"max_alternatives": 2, "phrase_list": ["old man"]}, 1 << 17))
    best, second = results(answers)[-1]["alternatives"]
    (final,) = said(engine, audio, hotwords="old man")
    assert best["text"] == final.text
    assert [w["word"] for w in best["result"]] == final.text.split()
    assert second["text"] == final.segment.alternatives[1].text != best["text"]
    assert best["confidence"] > second["confidence"]


def test_a_reset_ends_what_is_being_said_and_the_stream_goes_on(server: Running, sample: Tensor) -> None:
    """After a reset, the stream and its times continue, and another config message is accepted."""

    async def main() -> list[Any]:
        async with connect(server.ws_url) as socket:
            await socket.send('{"config": {"sample_rate": "16000"}}')
            answers = []
            for message in (pcm(sample[:32_000]), '{"reset" : 1}', pcm(sample[32_000:64_000]), b"", EOF_MESSAGE):
                await socket.send(message)
                answers.append(json.loads(await socket.recv()))
                if message == b"":
                    await socket.send('{"config": {"words": true, "max_alternatives": 0, "model": "default"}}')
        return answers

    partial, first, _, nothing_new, second = asyncio.run(main())
    assert partial["partial"]
    assert "partial" in nothing_new
    assert first["result"][-1]["end"] <= 2.0 <= second["result"][0]["start"]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("not json", "'not json' is not JSON"),
        ('{"config": ', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "a list is none of"),
        ('{"eof": 1, "config": {}}', "an object is none of"),
        ('{"hello": 1}', "an object is none of"),
        ('{"config": 5}', "config is 5: it must be an object"),
        ('{"config": {"sample_rate": 0}}', "sample_rate is 0: it must be a whole number from 1000 to"),
        ('{"config": {"sample_rate": 1e999}}', "sample_rate is inf"),
        ('{"config": {"sample_rate": NaN}}', "sample_rate is nan"),
        ('{"config": {"sample_rate": [16000]}}', "sample_rate is a list"),
        ('{"config": {"sample_rate": 16000.5}}', "sample_rate is 16000.5"),
        ('{"config": {"words": "yes"}}', "words is 'yes'"),
        ('{"config": {"max_alternatives": -1}}', "max_alternatives is -1"),
        ('{"config": {"phrase_list": [1]}}', "phrase_list is a list: it must be a list of strings"),
        ('{"config": {"phrase_list": "not json"}}', "phrase_list is 'not json': it must be a list of strings"),
        ('{"config": {"phrase_list": {"a": 1}}}', "phrase_list is an object: it must be a list of strings"),
        ('{"config": {"phrase_list": ["東"]}}', "phrase_list: hotword '東': the model cannot spell '東'"),
        ('{"config": {"phrase_list": ["a:99"]}}', "phrase_list: the weight of the hotword 'a' is 99"),
        (json.dumps({"config": {"phrase_list": ["a"] * 1001}}), "phrase_list: the number of hotwords is 1001"),
        ('{"config": {"model": "../../etc/passwd"}}', "the model is default: there is no '../../etc/passwd'"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(server: Running, message: str, complaint: str) -> None:
    async def main() -> None:
        async with connect(server.ws_url) as socket:
            await socket.send(message)
            assert complaint in json.loads(await socket.recv())["error"]
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1007

    asyncio.run(main())


def test_a_model_in_a_folder_goes_by_its_name(engine: Engine) -> None:
    """Clients were given the server's path, and the name listed by /v1/models was refused."""

    async def main(url: str) -> list[Any]:
        async with connect(url) as socket:
            await socket.send('{"config": {"model": "mine"}}')
            await socket.send('{"config": {"model": "yours"}}')
            return [json.loads(await socket.recv())]

    with running(ServerConfig(model="/srv/models/mine", limits=PATIENT), engine) as made:
        assert asyncio.run(main(made.ws_url)) == [{"error": "the model is mine: there is no 'yours'"}]


def test_a_setting_of_some_other_server_is_ignored(server: Running) -> None:
    """vosk-server ignores unknown settings, so its clients send some: they were once refused."""

    async def main() -> str:
        async with connect(server.ws_url) as socket:
            await socket.send('{"config": {"sample_rate": 8000, "colour": "blue"}}')
            await socket.send(EOF_MESSAGE)
            return str(await socket.recv())

    assert json.loads(asyncio.run(main())) == {"text": ""}


NUMBERS = st.integers() | st.floats() | st.text() | st.none() | st.booleans()
CONFIGS = st.fixed_dictionaries({"config": st.dictionaries(st.sampled_from(SETTINGS), NUMBERS)})
MESSAGES = (
    st.text() | st.binary(max_size=200) | CONFIGS.map(json.dumps) | st.sampled_from(['{"reset": 1}', EOF_MESSAGE])
)


@settings(max_examples=40)
@given(messages=st.lists(MESSAGES, max_size=6))
def test_whatever_comes_is_answered_or_refused(server: Running, messages: list[str | bytes]) -> None:
    """For any input, answers are JSON and close codes are the protocol's."""

    async def main() -> None:
        async with connect(server.ws_url) as socket:
            with contextlib.suppress(ConnectionClosed):
                for message in messages:
                    await socket.send(message)
                await socket.send(EOF_MESSAGE)
                async for answer in socket:
                    assert {"partial", "text", "alternatives", "error"} & json.loads(answer).keys()
        assert socket.close_code in (1000, 1007)

    asyncio.run(main())
    assert server.service.healthy


def test_text_where_audio_is_due_ends_the_stream(server: Running) -> None:
    """Text in place of audio, or another sample rate, ends the stream; an odd number of bytes does not."""

    async def main() -> list[str]:
        complaints = []
        for message in ("UklGRg==", '{"config": {"sample_rate": 8000}}'):
            async with connect(server.ws_url) as socket:
                await socket.send('{"config": {"sample_rate": 16000}}')
                for odd in (b"\0" * 999, b"\0", b"\0" * 1001):
                    await socket.send(odd)
                    assert json.loads(await socket.recv()) == {"partial": ""}
                await socket.send(message)
                complaints.append(json.loads(await socket.recv())["error"])
        return complaints

    text, rate = asyncio.run(main())
    assert "audio must come in binary messages" in text
    assert rate == "sample_rate is 16000: it cannot change during a stream"
    assert server.service.healthy


def test_who_says_nothing_gets_an_empty_result(server: Running) -> None:
    assert asyncio.run(talk(server.ws_url, b"")) == [{"text": ""}]
    assert asyncio.run(talk(server.ws_url, b"\0" * 6400)) == [{"partial": ""}, {"text": ""}]


def test_a_stop_lets_streams_finish(engine: Engine, sample: Tensor) -> None:
    """Streams get their last words, then close code "going away"; new streams are refused."""

    async def speak(made: Running) -> list[dict[str, Any]]:
        async with connect(made.ws_url) as socket:
            await socket.send('{"config": {"sample_rate": 16000}}')
            answers = []
            for start in range(0, 64_000, 16_000):
                await socket.send(pcm(sample[start : start + 16_000]))
                answers.append(json.loads(await socket.recv()))
            made.stop()
            answers.append(json.loads(await socket.recv()))
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001
        with pytest.raises(OSError):  # noqa: PT011 - of whatever kind
            await refused(made)
        return answers

    async def refused(made: Running) -> ClientConnection:
        return await connect(made.ws_url)

    with running(ServerConfig(limits=PATIENT, grace_seconds=60), engine) as made:
        *_, last = asyncio.run(speak(made))
    assert last["text"] == " ".join(final.text for final in said(engine, pcm(sample[:64_000])))


def test_a_stop_is_told_to_a_client_that_is_ahead_of_the_engine(engine: Engine) -> None:
    """The client's next message is always waiting: it was served until the whole grace period was over.

    Later the close frame was sent, but unread messages reset the connection first on a busy machine.
    """

    async def flood(made: Running) -> tuple[int | None, dict[str, Any]]:
        async def send() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.send(bytes(32_000))

        async with connect(made.ws_url) as socket:
            sending = asyncio.create_task(send())
            last = await socket.recv()
            made.stop()
            async for last in socket:  # noqa: B007 - the last one counts
                pass
            await sending
        return socket.close_code, json.loads(last)

    with running(ServerConfig(limits=PATIENT, grace_seconds=60), engine) as made:
        assert asyncio.run(asyncio.wait_for(flood(made), 20)) == (1001, {"text": ""})


def test_a_stream_that_is_too_long_gets_its_last_words(engine: Engine, sample: Tensor) -> None:
    async def main(url: str) -> list[dict[str, Any]]:
        async with connect(url) as socket:
            await socket.send('{"config": {"sample_rate": 16000}}')
            await socket.send(pcm(sample[:48_000]))
            await socket.recv()
            await socket.send(pcm(sample[48_000:]))
            answers = [json.loads(await socket.recv()), json.loads(await socket.recv())]
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1008
        return answers

    with running(ServerConfig(limits=replace(PATIENT, max_stream_seconds=3.0)), engine) as made:
        last, error = asyncio.run(main(made.ws_url))
    assert last["result"]
    assert "longer than 3 s" in error["error"]


@pytest.mark.parametrize("as_text", [False, True])
def test_a_phrase_list_is_listened_for(server: Running, sample: Tensor, as_text: bool) -> None:
    """A word that was not spoken, with an overwhelming weight, is recognised for the client that listed it."""
    phrases = ["windows:5", "[unk]"]
    config = {"sample_rate": 16000, "phrase_list": json.dumps(phrases) if as_text else phrases}
    asked = asyncio.run(talk(server.ws_url, pcm(sample[:48_000]), config, 32_000))
    assert "windows" in asked[-1]["text"]
    plain = asyncio.run(talk(server.ws_url, pcm(sample[:48_000]), {"sample_rate": 16000}, 32_000))
    assert "windows" not in plain[-1]["text"]
