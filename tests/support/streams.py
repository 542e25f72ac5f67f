"""Streams through an engine, their events, and audio without speech."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streaming.engine import Engine
from streaming.events import Event, Final, Partial


def listen(engine: Engine, chunks: Sequence[Tensor]) -> list[Event]:
    """Events of one stream, to its end."""
    session, heard = engine.start(), []
    for chunk in chunks:
        (session,), (events,) = engine.step([session], [chunk])
        heard += events
    return heard + engine.step([session], [torch.zeros(0)], [True])[1][0]


def listen_together(engine: Engine, streams: Sequence[Sequence[Tensor]]) -> list[list[Event]]:
    """Events of several streams to their ends, with a chunk of each in every step."""
    sessions = [engine.start() for _ in streams]
    heard: list[list[Event]] = [[] for _ in streams]
    for step in range(max(map(len, streams)) + 1):
        rows = [i for i, chunks in enumerate(streams) if step <= len(chunks)]
        now = [streams[i][step] if step < len(streams[i]) else torch.zeros(0) for i in rows]
        stepped, events = engine.step([sessions[i] for i in rows], now, [step == len(streams[i]) for i in rows])
        for i, session, found in zip(rows, stepped, events, strict=True):
            sessions[i] = session
            heard[i] += found
    return heard


def finals(events: Sequence[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def keeps_its_word(events: Sequence[Event]) -> int:
    """Check that committed words stay; returns how many were committed before the final."""
    committed: tuple[Any, ...] = ()
    count = 0
    for event in events:
        words = event.committed if isinstance(event, Partial) else event.segment.as_spoken().words
        assert words[: len(committed)] == committed
        count += len(committed) if isinstance(event, Final) else 0
        committed = words if isinstance(event, Partial) else ()
    return count


def rounded(events: Sequence[Event]) -> list[Any]:
    """Events with rounded confidences and scores."""

    def words(found: Any) -> Any:
        return tuple(dataclasses.replace(w, confidence=round(w.confidence, 3)) for w in found)

    return [
        (words(e.committed), words(e.tentative), e.heard_seconds)
        if isinstance(e, Partial)
        else (words(e.segment.words), round(e.segment.score, 2), e.segment.start_seconds, e.segment.end_seconds)
        for e in events
    ]


def no_speech(kind: str, seconds: int) -> Tensor:
    """Digital silence, white noise, or chords of an organ that change every two seconds."""
    if kind == "silence":
        return torch.zeros(seconds * 16_000)
    if kind == "noise":
        return 0.1 * torch.randn(seconds * 16_000)
    time = torch.arange(32_000) / 16_000
    swell = (8 * torch.minimum(time, 2 - time)).clamp(max=1)
    pitches = 220 * 2 ** ((torch.tensor([0, 4, 7]) + torch.randint(0, 24, (seconds // 2, 1))) / 12)  # (chords, 3)
    voices = sum(torch.sin(2 * torch.pi * n * pitches[..., None] * time) / n for n in (1, 2, 3))
    return (0.05 * swell * torch.as_tensor(voices).sum(1)).flatten()
