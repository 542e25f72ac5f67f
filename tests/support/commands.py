"""Calls of the command with a stub recogniser."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asr.commands.main import main
from asr.config import ModelConfig, SearchConfig
from asr.errors import AudioError, ConfigError
from asr.transcript import Segment, Transcript

Command = Callable[..., tuple[int, str, str]]


def caller(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs the command, and returns exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def transcript_of(source: str, text: str = "hello there") -> Transcript:
    return Transcript(source, 2.0, (Segment(text, 0.0, 1.0, -1.0), Segment("again", 1.0, 2.0, -1.0)))


class Stub:
    """Transcribes each file as its name, or fails if that has "bad" in it; outcomes come in pairs, in reverse order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def transcribe_many(self, sources: Iterable[str], **_: Any) -> Iterator[Any]:
        waiting: list[str] = []
        for source in sources:
            waiting.append(source)
            if len(waiting) == 2:
                yield from map(self.outcome, reversed(waiting))
                waiting = []
        yield from map(self.outcome, waiting)

    def outcome(self, source: str) -> tuple[str, Transcript | None, AudioError | None]:
        self.heard.append(source)
        if "bad" in Path(source).name:
            return source, None, AudioError(source, "is not audio")
        return source, transcript_of(source, Path(source).stem), None


class StubRecogniser(Stub):
    """The interface that the command needs of a recogniser, and a record of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.model = types.SimpleNamespace(config=ModelConfig(vocab_size=40))
        self.folder, self.device, self.dtype = Path("/models/default"), types.SimpleNamespace(type="cpu"), "float32"
        self.has_lm = True
        self.asked: dict[str, Any] = {}

    def language_model(self, search: SearchConfig) -> None:
        if search.lm_weight and not self.has_lm:
            raise ConfigError("without a language model")

    def spell(self, hotwords: object) -> None:
        pass

    def transcribe_many(self, sources: Any, **options: Any) -> Iterator[Any]:
        self.asked |= options
        return super().transcribe_many(sources, **options)
