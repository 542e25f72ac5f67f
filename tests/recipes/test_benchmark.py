"""The benchmarks' arithmetic and tables, without peers or models."""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from asr.archive.manifest import Utterance
from asr.errors import DataError
from asr.text import metrics
from asr.transcript import Segment, Word
from recipes.benchmark import streaming, streaming_report, whole_file
from recipes.benchmark.peers import Clip, System, peer
from recipes.benchmark.whole_file import Result
from streaming.events import Event, Final, Partial


def utterance(name: str, corpus: str = "books", text: str | None = "one two three four") -> Utterance:
    return Utterance(name, Path(f"{name}.wav"), 2.0, text, corpus, None)


def clip(name: str, corpus: str = "books", seconds: float = 2.0) -> Clip:
    return Clip(utterance(name, corpus), np.zeros(round(16_000 * seconds), dtype=np.int16))


def says(name: str, text: str, batched: bool = False) -> System:
    return System(name, lambda clips: [text] * len(clips), batched)


PEER = "PocketSphinx"


def measured(name: str, cpu_seconds: float, text: str = "one two three four") -> Result:
    made = Result(name)
    for member in (clip("a"), clip("b", "phone")):
        whole_file.measure(says(name, text), [member], made)
    made.cpu_seconds, made.wall_seconds = cpu_seconds, 2 * cpu_seconds
    return made


def test_times_are_for_each_second_of_audio() -> None:
    peer, ours = measured(PEER, 1.0), measured("ours", 0.1)
    assert peer.audio_seconds == 4.0
    assert (peer.cpu_rate, peer.wall_rate) == (0.25, 0.5)
    assert whole_file.speedup(ours, [peer, ours]) == pytest.approx(10)
    assert whole_file.speedup(ours, [ours]) == 1.0


def test_errors_are_summed_by_corpus_and_in_all() -> None:
    summaries = measured("ours", 1.0, "One, two three.").summaries()
    assert [(s.name, s.words.rate, s.words.deletions) for s in summaries] == [
        ("books", 0.25, 1),
        ("phone", 0.25, 1),
        ("total", 0.25, 2),
    ]


def test_measuring_takes_time() -> None:
    def busy(clips: Sequence[Clip]) -> list[str]:
        sum(range(200_000))
        return ["" for _ in clips]

    made = Result("busy")
    whole_file.measure(System("busy", busy), [clip("a"), clip("b")], made)
    assert made.cpu_seconds > 0
    assert made.wall_seconds > 0
    assert [one.hypothesis for one in made.scored] == ["", ""]


def test_systems_take_turns_and_batches_come_whole() -> None:
    calls: list[tuple[str, list[str]]] = []

    def system(name: str, batched: bool = False) -> System:
        def recognise(clips: Sequence[Clip]) -> list[str]:
            calls.append((name, [one.utterance.id for one in clips]))
            return ["" for _ in clips]

        return System(name, recognise, batched)

    systems = [system("x"), system("y"), system("z", batched=True)]
    found = whole_file.run(systems, iter([[clip("a"), clip("b")], [clip("c")]]))
    assert calls[:3] == [("x", ["a"]), ("y", ["a"]), ("z", ["a"])]  # to warm up
    assert calls[3:] == [
        ("x", ["a"]),
        ("y", ["a"]),
        ("y", ["b"]),
        ("x", ["b"]),
        ("z", ["a", "b"]),
        ("x", ["c"]),
        ("y", ["c"]),
        ("z", ["c"]),
    ]
    assert [(one.name, len(one.scored), one.audio_seconds) for one in found] == [
        ("x", 3, 6.0),
        ("y", 3, 6.0),
        ("z", 3, 6.0),
    ]


@pytest.mark.parametrize("name", ["kaldi", "faster-whisper", "pocketsphinx:x"])
def test_an_unknown_peer_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such peer; expected pocketsphinx or faster-whisper:DIR"):
        peer(name)


def test_a_peer_is_never_looked_for_on_the_network(tmp_path: Path) -> None:
    """A missing folder is an error: faster-whisper would take its path for a model to download."""
    with pytest.raises(DataError, match=r"tiny: no CTranslate2 model: it has no model\.bin"):
        peer(f"faster-whisper:{tmp_path}/tiny")


def test_a_limit_is_spread_over_the_manifest() -> None:
    manifest = [utterance(str(i), text=None if i == 1 else "word") for i in range(11)]
    assert [one.id for one in whole_file.pick(manifest, 5)] == ["0", "3", "5", "7", "9"]
    assert len(whole_file.pick(manifest, None)) == len(whole_file.pick(manifest, 100)) == 10
    with pytest.raises(DataError, match="no utterance to measure"):
        whole_file.pick(manifest, 0)


def test_the_table_has_a_row_for_each_system() -> None:
    console = Console(width=120, record=True, file=sys.stderr)
    console.print(whole_file.table([measured(PEER, 1.0, "one two"), measured("ours", 0.1)]))
    text = console.export_text()
    peer = next(line for line in text.splitlines() if f"│ {PEER} " in line)
    ours = next(line for line in text.splitlines() if "│ ours " in line)
    assert all(value in peer for value in ("0.2500", "0.5000", " 1.0", "50.0"))
    assert all(value in ours for value in ("0.0250", "0.0500", "10.0", " 0.0"))
    assert "2 files, 0.1 minutes" in text


def test_json_holds_the_numbers_and_where_they_come_from() -> None:
    found = json.loads(json.dumps(whole_file.to_json([measured(PEER, 1.0), measured("ours", 0.1)], {"command": "x"})))
    assert found["origin"] == {"command": "x"}
    ours = found["systems"][1]
    assert ours["name"] == "ours"
    assert ours["cpu_seconds_per_audio_second"] == pytest.approx(0.025)
    assert ours["times_faster_than_peer"] == pytest.approx(10)
    assert [summary["name"] for summary in ours["summaries"]] == ["books", "phone", "total"]


def test_ours_is_given_the_very_same_samples() -> None:
    pcm = np.array([0, 1, -32768, 32767], dtype=np.int16)
    with wave.open(whole_file._wav(Clip(utterance("a"), pcm))) as file:
        assert file.getframerate() == 16_000
        assert file.readframes(9) == pcm.tobytes()


def test_a_missing_peer_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"id": "a", "audio": "a.wav", "duration": 1, "text": "word"}\n')
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    assert whole_file.main(["--manifest", str(manifest)]) == 1
    assert capsys.readouterr().err == "error: PocketSphinx is not installed: pip install 'spellstream[benchmark]'\n"


def heard(text: str, *ends: float) -> tuple[Word, ...]:
    """Words of 0.2 s with these end times."""
    return tuple(Word(one, end - 0.2, end, 1.0) for one, end in zip(text.split(), ends, strict=True))


def final(words: tuple[Word, ...], clock: float) -> streaming.Shown:
    text = " ".join(word.text for word in words)
    return streaming.Shown(Final(Segment(text, 0.0, clock, -1.0, words), clock), clock)


SHOWN = [
    streaming.Shown(Partial((), heard("won", 1.0), 1.2), 1.25),
    streaming.Shown(Partial((), heard("one to", 1.1, 2.0), 2.2), 2.5),
    streaming.Shown(Partial(heard("one", 1.1), heard("two three", 2.0, 3.0), 3.2), 3.25),
    final(heard("one two", 1.1, 2.0), 5.0),
]


def streamed(name: str = "ctc") -> streaming_report.Measured:
    scored = metrics.score("a", "books", "one two three four", "one two three", 2.0)
    return streaming_report.Measured(name, [0.4, 0.6], [1.0, 2.0], 4, 8, 2, [0.01, 0.02, 0.03], [scored])


def test_a_words_delay_ends_when_it_is_first_right() -> None:
    to_partial, to_commit = streaming.delays(heard("one two four", 1.0, 2.0, 3.0), SHOWN)
    assert to_partial == pytest.approx([1.5, 1.25])
    assert to_commit == pytest.approx([2.25, 3.0])


def test_a_word_said_elsewhere_is_another_word() -> None:
    assert streaming.delays(heard("one", 2.0), SHOWN) == ([], [])
    to_partial, _ = streaming.delays(heard("one one", 1.0, 9.0), SHOWN)
    assert to_partial == pytest.approx([1.5])


def test_words_that_change_are_counted() -> None:
    events = [shown.event for shown in SHOWN]
    assert streaming.flicker(events[:1]) == (1, 0)
    assert streaming.flicker(events[:2]) == (3, 1)  # won changed to one
    assert streaming.flicker(events[:3]) == (5, 2)  # to changed to two
    assert streaming.flicker(events) == (5, 3)  # three was removed
    assert streaming.flicker([*events, *events[:1]]) == (6, 3)  # next segment


def test_a_stream_has_a_clock_that_computing_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        def step(
            self, sessions: list[int], chunks: list[Tensor], ends: list[bool]
        ) -> tuple[list[int], list[list[Event]]]:
            assert len(chunks[0]) == (512 if not ends[0] else 100)
            return [sessions[0] + 1], [[Partial((), (), 0.0)]]

        def start(self) -> int:
            return 0

    clock = iter([0.0, 0.5, 1.0, 1.25, 2.0, 2.25])
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: next(clock))
    shown, chunks = streaming.live(Engine(), torch.zeros(1_124))  # type: ignore[arg-type]
    assert [s.clock_seconds for s in shown] == pytest.approx([0.532, 0.782, 1.032])  # late from the first chunk on
    assert chunks == [1.0]


def test_a_long_stream_is_one_session_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        device = torch.device("cpu")
        heard = torch.zeros(0)

        def start(self) -> int:
            return 0

        def step(self, sessions: list[int], chunks: list[Tensor]) -> tuple[list[int], list[list[Event]]]:
            assert sessions == [len(self.heard)]
            self.heard = torch.cat([self.heard, chunks[0]])
            return [len(self.heard)], [[]]

    def held(engine: Engine) -> int:
        return 10**9 if 45_000 < len(engine.heard) < 55_000 else 2 * len(engine.heard)

    engine = Engine()
    monkeypatch.setattr(streaming, "_memory_bytes", held)
    memory = streaming.hear_long(engine, [torch.ones(8_000), torch.ones(16_000)], 6.0)  # type: ignore[arg-type]
    first, second = [torch.ones(8_000), torch.zeros(24_000)], [torch.ones(16_000), torch.zeros(24_000)]
    assert torch.equal(engine.heard, torch.cat([*first, *second, *first]))
    assert memory == (6.5, 2 * 3 * 5_120, 10**9, 2 * 104_000)


def test_the_streaming_table_has_a_column_for_each_policy() -> None:
    console = Console(width=140, record=True, file=sys.stderr)
    files = [metrics.score("a", "books", "one two three four", "one two three four", 2.0)]
    steps = [streaming_report.Steps(16, [0.1, 0.2, 0.3], 2**30)]
    memory = streaming_report.Memory(3600.0, 500 << 20, 510 << 20, 505 << 20)
    console.print(streaming_report.table([streamed(), streamed("attention")], files, steps, memory))
    text = console.export_text()
    assert text.count("500 / 590") == 2  # to a partial
    assert "50 / 50" in text  # found, committed
    assert "10 / 20" not in text
    assert "20 / 29 / 30" in text
    assert "25.0" in text
    assert "a step of 16 streams" in text
    assert "200 / 290 / 298; 1024" in text
    assert "60 minutes in one stream: MiB after a tenth / peak / end" in text
    assert "500 / 510 / 505" in text


def test_each_of_several_corpora_has_a_row() -> None:
    console = Console(width=140, record=True, file=sys.stderr)
    said = ("one two three four", "one two three", "one two")
    whole, live = (
        [metrics.score("a", "clean", said[0], said[0], 1.0), metrics.score("b", "noisy", said[0], text, 1.0)]
        for text in said[1:]
    )
    measured = streaming_report.Measured("ctc", scored=live)
    console.print(streaming_report.table([measured], whole, [], None))
    rows = {
        row[1].strip(): row[2].strip() for line in console.export_text().splitlines() if len(row := line.split("│")) > 2
    }
    assert rows["WER %, stream"] == "25.0"
    assert rows["WER %, stream / whole file, clean"] == "0.0 / 0.0"
    assert rows["WER %, stream / whole file, noisy"] == "50.0 / 25.0"


def test_streaming_numbers_are_plain_data() -> None:
    files = [metrics.score("a", "books", "one two three four", "one two", 2.0)]
    nothing = streaming_report.Measured("agreement", scored=files)
    steps = [streaming_report.Steps(1, [0.1], 1)]
    memory = streaming_report.Memory(3600.0, 3, 5, 4)
    values = streaming_report.to_json([streamed(), nothing], files, steps, memory, {})
    found = json.loads(json.dumps(values, allow_nan=False))
    assert found["whole_file_wer"] == 0.5
    first, second = found["policies"]
    assert first["partial_words_changed"] == 0.25
    assert first["to_commit_seconds"]["median"] == 1.5
    assert second["to_commit_seconds"] == {"median": None, "p95": None, "p99": None}
    assert found["sessions"][0]["step_seconds"]["p99"] == 0.1
    assert found["memory"] == {"audio_seconds": 3600.0, "tenth_bytes": 3, "peak_bytes": 5, "end_bytes": 4}


def test_the_streaming_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = streaming_report.figure(
        [streamed(), streaming_report.Measured("nothing")], [streaming_report.Steps(n, [0.1 * n], 1) for n in (1, 4)]
    )
    made.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1_000


def test_live_streams_are_measured_from_end_to_end(
    repository_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark failed after an hour's work, on a line below the table: run all of it on one recording."""
    monkeypatch.chdir(tmp_path)
    sample = repository_root / "recipes" / "sample"
    row = {"id": "one", "audio": str(sample.with_suffix(".flac")), "text": sample.with_suffix(".txt").read_text()}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    options = ("--sessions", "2", "--session-seconds", "1", "--memory-minutes", "0", "--plot", "plot.png")
    assert streaming.main(["--manifest", "m.jsonl", *options]) == 0
    out = capsys.readouterr().out
    assert "1 recordings" in out
    assert "latency of the encoder" in out
    assert (tmp_path / "plot.png").stat().st_size > 1000
