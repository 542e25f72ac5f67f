"""The delay curve, without a model: recordings streamed together, table and plot."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from asr.archive.manifest import Utterance
from asr.transcript import Segment, Word
from recipes.benchmark import delay_curve
from streaming.events import Event, Final, Partial


@dataclass(frozen=True)
class _Heard:
    samples: int = 0
    loudest: float = 0.0


class Echo:
    """A stub engine: after 1 s, the loudest sample is shown as a word, which is committed at the end."""

    def __init__(self) -> None:
        self.most = 0

    def start(self) -> _Heard:
        return _Heard()

    def step(
        self, sessions: list[_Heard], chunks: list[Tensor], final: list[bool]
    ) -> tuple[list[_Heard], list[list[Event]]]:
        self.most = max(self.most, len(sessions))
        after, events = [], []
        for session, chunk, end in zip(sessions, chunks, final, strict=True):
            now = _Heard(session.samples + len(chunk), max([session.loudest, *chunk.abs().tolist()]))
            seconds, found = now.samples / 16_000, list[Event]()
            words = (Word(f"w{now.loudest:.0f}", 0.2, 0.5, 1.0),)
            if session.samples < 16_000 <= now.samples:
                found.append(Partial((), words, seconds))
            if end:
                found.append(Final(Segment(words[0].text, 0.0, seconds, 0.0, words), seconds))
            after.append(now)
            events.append(found)
        return after, events


def clips(*lengths: int) -> list[tuple[Utterance, Tensor, list[Word]]]:
    return [
        (
            Utterance(f"u{i}", Path(f"u{i}.wav"), n / 16_000, f"w{i}", "books", None),
            torch.full((n,), float(i)),
            [Word(f"w{i}", 0.2, 0.5, 1.0)],
        )
        for i, n in enumerate(lengths)
    ]


def test_recordings_are_heard_at_once_and_each_to_its_end() -> None:
    engine = Echo()
    point = delay_curve.hear_together(engine, "echo", clips(8_000, 40_000, 9_001), 2)  # type: ignore[arg-type]
    assert engine.most == 2
    assert [scored.hypothesis for scored in point.measured.scored] == ["w0", "w1", "w2"]
    assert point.audio_seconds == pytest.approx((8_000 + 40_000 + 9_001 + 3 * 24_000) / 16_000)
    assert point.measured.to_partial == pytest.approx([1.28 - 0.5] * 3)  # the fourth chunk of 320 ms ends after 1 s
    assert point.measured.to_commit == pytest.approx([n / 16_000 + 1.5 - 0.5 for n in (8_000, 40_000, 9_001)])
    assert (point.measured.shown, point.measured.changed) == (3, 0)


def test_the_table_has_a_row_and_the_plot_a_point_for_each_setting() -> None:
    points = [
        delay_curve.hear_together(Echo(), setting.name, clips(8_000, 9_000), 2)  # type: ignore[arg-type]
        for setting in delay_curve.SETTINGS
    ]
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(delay_curve.table(points))
    text = console.export_text()
    assert all(setting.name in text for setting in delay_curve.SETTINGS)
    assert "780 / 780" in text
    left, right = delay_curve.figure(points).axes
    assert len(left.lines) == len(right.lines) == len(points)


def test_settings_are_those_of_streams() -> None:
    for setting in delay_curve.SETTINGS:
        assert setting.config().policy == setting.policy
    assert len({setting.name for setting in delay_curve.SETTINGS}) == len(delay_curve.SETTINGS)
