"""Uploads are decoded like files: the same spans, in batches, to the same text."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from asr.errors import AudioError, SpellstreamError
from asr.steps import Steps
from asr.transcript import Segment
from streaming.engine import Engine
from streaming.server import engine_side, files
from streaming.server.config import ServerConfig
from streaming.server.files import FileDecoder, Part
from streaming.server.service import Service


@pytest.fixture
def conversation(repository_root: Path, tmp_path: Path) -> Path:
    """Seven spans of speech of several lengths, with pauses."""
    speech, rate = sf.read(repository_root / "recipes/sample.flac", dtype="float32")
    pause = np.zeros(rate, np.float32)
    parts = [part for seconds in (2, 9, 1, 3, 9, 2, 3) for part in (speech[: seconds * rate], pause)]
    sf.write(tmp_path / "a.wav", np.concatenate(parts), rate)
    return tmp_path / "a.wav"


def decoded(service: Service, path: Path) -> Iterator[Segment]:
    async def all_parts() -> list[Segment]:
        async with service.running():
            with path.open("rb") as file:
                parts = [part async for part in FileDecoder(service).parts(file)]
        assert [part.segment is None for part in parts] == [False] * (len(parts) - 1) + [True]
        return [part.segment for part in parts if part.segment is not None]

    yield from asyncio.run(all_parts())


async def until_error(service: Service, path: Path) -> tuple[list[Part], SpellstreamError | None]:
    """The parts of a file, and the error that ends them."""
    parts: list[Part] = []
    try:
        with path.open("rb") as file:
            async for part in FileDecoder(service).parts(file):
                parts.append(part)  # noqa: PERF401 - a comprehension would lose the parts before the error
    except SpellstreamError as error:
        return parts, error
    return parts, None


def test_an_upload_is_decoded_in_batches_to_the_text_of_a_file(
    shipped_engine: Engine, conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads were decoded span by span, with spans of half the length, and long files took twice as long."""
    recogniser = shipped_engine.recogniser
    batches: list[list[int]] = []
    steps = recogniser.decode_steps

    def counted(waveforms: Any, *arguments: Any) -> Any:
        batches.append([len(waveform) for waveform in waveforms])
        return steps(waveforms, *arguments)

    monkeypatch.setattr(recogniser, "decode_steps", counted)
    found = list(decoded(Service(shipped_engine, ServerConfig()), conversation))
    assert len(batches[0]) == 1  # the first segment comes early
    assert max(map(len, batches)) > 1
    assert sum(map(len, batches)) == 7

    monkeypatch.undo()
    whole = recogniser.transcribe(conversation)
    assert [(s.text, s.start_seconds) for s in found] == [(s.text, s.start_seconds) for s in whole.segments]


def test_all_threads_decode_batches_of_one_upload_at_the_same_time(
    shipped_engine: Engine, conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads took turns: one was idle, and an upload took twice as long as with `transcribe`."""
    steps, met = shipped_engine.recogniser.decode_steps, threading.Barrier(2)
    begun = 0

    def paired(waveforms: Any, *arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun <= 2:
            met.wait(30)  # the barrier breaks unless another thread arrives
        return (yield from steps(waveforms, *arguments))

    monkeypatch.setattr(shipped_engine.recogniser, "decode_steps", paired)
    found = list(decoded(Service(shipped_engine, ServerConfig(threads=2)), conversation))
    monkeypatch.undo()
    whole = shipped_engine.recogniser.transcribe(conversation)
    assert [s.text for s in found] == [s.text for s in whole.segments]


def test_a_failure_of_a_batch_ends_the_others_of_its_file(
    shipped_engine: Engine, conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, ended = shipped_engine.recogniser.decode_steps, list[int]()

    def failing(waveforms: Any, *arguments: Any) -> Steps[list[Segment]]:
        if len(ended) == 1:
            raise SpellstreamError("no room")
        found = yield from steps(waveforms, *arguments)
        ended.append(len(waveforms))
        return found

    monkeypatch.setattr(shipped_engine.recogniser, "decode_steps", failing)

    async def use(service: Service) -> int:
        async with service.running():
            parts, error = await until_error(service, conversation)
            assert str(error) == "no room"
            for _ in range(10):  # the cancelled ones end
                await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 2  # this one, and the worker's
            assert await service.run(lambda recogniser: "works") == "works"
            return len(parts)

    assert asyncio.run(use(Service(shipped_engine, ServerConfig()))) == 1
    assert ended == [1]


def test_segments_before_damage_come_first(
    shipped_engine: Engine, conversation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = files.blocks

    def cut(*arguments: Any, **settings: Any) -> Iterator[torch.Tensor]:
        yield from itertools.islice(read(*arguments, **settings), 5)
        raise AudioError("a name", "is cut")

    monkeypatch.setattr(files, "blocks", cut)

    async def use(service: Service) -> list[Part]:
        async with service.running():
            parts, error = await until_error(service, conversation)
            assert str(error) == "file: is cut"
            return parts

    parts = asyncio.run(use(Service(shipped_engine, ServerConfig())))
    assert len(parts) >= 3
    assert all(part.segment for part in parts)


def test_streams_are_stepped_between_two_tokens_of_a_file(
    shipped_engine: Engine, conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams once waited for a whole span of a file, which would be a whole batch of spans."""
    monkeypatch.setattr(engine_side, "_SLICE_SECONDS", 0.0)
    stepped = 0
    step = shipped_engine.step

    def counted(*arguments: Any) -> Any:
        nonlocal stepped
        stepped += 1
        return step(*arguments)

    monkeypatch.setattr(shipped_engine, "step", counted)
    waveform = torch.from_numpy(sf.read(conversation, dtype="float32")[0])
    decoding = replace(shipped_engine.final, nbest=1)

    def watched(recogniser: object) -> Steps[list[int]]:
        """Number of stream steps at each step of the file."""
        seen = []
        for _ in shipped_engine.recogniser.decode_steps([waveform[: 9 * 16_000]], decoding, False):
            seen.append(stepped)
            yield
        return seen

    async def use(service: Service) -> list[int]:
        async with service.running(), service.stream() as stream:
            await stream.push(waveform[: 4 * 16_000])
            return await service.run_steps(watched)

    seen = asyncio.run(use(Service(shipped_engine, ServerConfig())))
    assert len(seen) > 12
    assert len({*seen}) >= 10  # the stream's four seconds take ten steps of a chunk
