"""Listening from Python: events, last words however the stream ends, dropped audio, asyncio."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

import asr
import streaming
from asr.config import SearchConfig
from asr.errors import AudioError, CheckpointError, SourceError
from asr.recogniser import Recogniser
from streaming import Engine, Event, Final, Partial, PolicyConfig, StreamConfig
from streaming.commands.display import LiveStatistics
from tests.support.replay import CHUNK_SAMPLES, Replay
from tests.support.small_model import small_model


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return asr.load(str(small_model(tmp_path_factory.mktemp("model"), SearchConfig(beam_size=2))), device="cpu")


@pytest.fixture(scope="module")
def speech(recordings: list[torch.Tensor]) -> torch.Tensor:
    """Two stretches of speech and a silence between them; nothing after the last sound."""
    return torch.cat([recordings[0][:32_000], torch.zeros(24_000), recordings[1][:32_000]])


def finals(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


def collect(events: Generator[Event, None, None], seen: list[Event]) -> None:
    for event in events:
        seen.append(event)  # noqa: PERF402 - what was seen before an error counts


def test_what_an_engine_says_is_yielded(recogniser: Recogniser, speech: torch.Tensor) -> None:
    source = Replay(speech)
    config = StreamConfig(policy=PolicyConfig(show_margin_ms=0))  # an untrained model's words end at the edge
    events = list(streaming.listen(source, model=recogniser, config=config))
    assert source.closed

    engine = Engine(recogniser, config)
    _, (whole,) = engine.step([engine.start()], [speech], [True])
    assert finals(events) == finals(whole)
    assert len([text for text in finals(events) if text]) == 2
    assert any(isinstance(event, Partial) for event in events)
    assert isinstance(events[-1], Final)


def test_a_model_is_loaded_by_name(recogniser: Recogniser, speech: torch.Tensor) -> None:
    named = streaming.listen(Replay(speech), model=str(recogniser.folder), device="cpu")
    assert finals(list(named)) == finals(list(streaming.listen(Replay(speech), model=recogniser)))
    source = Replay(speech)
    with pytest.raises(CheckpointError, match="nonesuch"):
        list(streaming.listen(source, model="nonesuch"))
    assert source.closed


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SourceError("the replay", "has gone away")])
def test_what_was_said_is_kept_whatever_ends_it(
    recogniser: Recogniser, speech: torch.Tensor, ending: BaseException
) -> None:
    """Words are kept if the source fails within a word, or Ctrl-C is pressed while waiting for audio."""
    stop_at = 12

    def fail(chunk: int) -> None:
        if chunk == stop_at:
            raise ending

    source, seen = Replay(speech, fail), list[Event]()
    with pytest.raises(type(ending)) as raised:
        collect(streaming.listen(source, model=recogniser), seen)
    assert raised.value is ending
    assert source.closed
    heard = speech[: stop_at * CHUNK_SAMPLES]
    assert finals(seen) == finals(list(streaming.listen(Replay(heard), model=recogniser)))
    assert seen[-1].text


@pytest.mark.parametrize("bad", [torch.full((512,), torch.nan), torch.zeros(512, dtype=torch.float64)])
def test_a_bad_chunk_costs_no_words(recogniser: Recogniser, speech: torch.Tensor, bad: torch.Tensor) -> None:
    """The bad chunk was given to the engine once more at the end, which failed again: the last words were lost."""

    class Spoiled(Replay):
        def _chunks(self) -> Generator[torch.Tensor, None, None]:
            yield from super()._chunks()
            yield bad

    seen: list[Event] = []
    with pytest.raises(AudioError, match="the replay: "):
        collect(streaming.listen(Spoiled(speech), model=recogniser), seen)
    assert finals(seen) == finals(list(streaming.listen(Replay(speech), model=recogniser)))


def test_ctrl_c_amid_a_step_loses_no_audio(
    recogniser: Recogniser, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Engine.step, 0

    def interrupted(self: Engine, *arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 12:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    expected = finals(list(streaming.listen(Replay(speech[: 12 * CHUNK_SAMPLES]), model=recogniser)))
    monkeypatch.setattr(Engine, "step", interrupted)
    seen: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        collect(streaming.listen(Replay(speech), model=recogniser), seen)
    assert finals(seen) == expected


def test_stopping_and_leaving_close_the_source(recogniser: Recogniser, speech: torch.Tensor) -> None:
    stopped = Replay(speech, lambda chunk: stopped.stop() if chunk == 12 else None)
    assert finals(list(streaming.listen(stopped, model=recogniser)))[-1]
    left = Replay(speech)
    events = streaming.listen(left, model=recogniser)
    next(events)
    assert not left.closed
    events.close()
    assert left.closed


def test_dropped_audio_is_told(
    recogniser: Recogniser, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped audio is reported at once, then at intervals, and the rest at the end."""

    def drop(chunk: int) -> None:
        if chunk >= 2:
            source.lost += 0.5

    source = Replay(torch.zeros(10 * CHUNK_SAMPLES), drop)
    list(streaming.listen(source, model=recogniser))
    assert [record.getMessage() for record in caplog.records] == [
        "the replay: 0.5 s of audio dropped: the recogniser is late",
        "the replay: 3.5 s of audio dropped: the recogniser is late",
    ]


def test_what_the_sound_system_dropped_is_told(recogniser: Recogniser, caplog: pytest.LogCaptureFixture) -> None:
    """Overflows were counted but never shown, and `listen` reported that nothing was dropped."""
    source = Replay(torch.zeros(10 * CHUNK_SAMPLES), lambda chunk: setattr(source, "gaps", chunk // 3))
    list(streaming.listen(source, model=recogniser))
    assert [record.getMessage() for record in caplog.records] == [
        "the replay: the sound system dropped audio once before it was captured",
        "the replay: the sound system dropped audio 2 times before it was captured",
    ]
    assert LiveStatistics().summary(0, 0, 3).endswith(", 3 gaps left by the sound system")
    assert LiveStatistics().summary(0, 0).endswith(", nothing dropped")


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_asyncio_yields_the_same(recogniser: Recogniser, speech: torch.Tensor) -> None:
    async def gather() -> list[Event]:
        return [event async for event in streaming.alisten(Replay(speech), model=recogniser)]

    assert finals(asyncio.run(gather())) == finals(list(streaming.listen(Replay(speech), model=recogniser)))


def test_asyncio_raises_what_the_source_raises(recogniser: Recogniser) -> None:
    async def gather() -> list[Event]:
        return [event async for event in streaming.alisten(streaming.FileReplay("nonesuch.wav"), model=recogniser)]

    with pytest.raises(AudioError, match=r"nonesuch\.wav: no such file"):
        asyncio.run(gather())


def test_cancelling_closes_the_source_and_blocks_no_one(recogniser: Recogniser) -> None:
    """While a silent microphone gives no event, the event loop is free, and a cancelled task ends."""
    source = Replay(torch.zeros(3_600 * 16_000), lambda chunk: time.sleep(0.02))

    async def gather() -> None:
        async for _ in streaming.alisten(source, model=recogniser):
            pass

    async def cancel() -> None:
        task = asyncio.create_task(gather())
        ticks = 0
        while ticks < 20:
            await asyncio.sleep(0.01)
            ticks += 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)  # the source has twelve minutes

    asyncio.run(cancel())
    assert source.closed


def test_leaving_early_closes_the_source(recogniser: Recogniser, speech: torch.Tensor) -> None:
    source = Replay(speech)

    async def first() -> Event:
        events = streaming.alisten(source, model=recogniser)
        async for event in events:
            await events.aclose()
            return event
        raise AssertionError("no event")

    assert asyncio.run(first()).text
    assert source.closed


# --- the package ------------------------------------------------------------------------------------------------------


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    """Every public name has a docstring for the API reference; a dataclass without one would show its signature."""
    for name in streaming.__all__:
        value = getattr(streaming, name)
        text = inspect.getdoc(value) if inspect.isclass(value) or inspect.isfunction(value) else "an alias"
        assert text, name
        assert not text.startswith(f"{name}("), name


def test_import_is_quick_and_complete(repository_root: Path) -> None:
    code = """if True:
        import sys, streaming
        heavy = {"torch", "numpy", "sounddevice", "typer"} & {*sys.modules}
        import streaming.listener
        offered = {name: getattr(streaming, name) for name in streaming.__all__}
        print(*heavy, callable(offered["listen"]))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=repository_root, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert {*streaming.__all__} <= {*dir(streaming)}
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = streaming.nonesuch
