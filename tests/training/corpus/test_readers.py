"""Formats of corpora: LibriSpeech's and Kaldi's folders, Common Voice's tables, lhotse's cuts."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import DataError
from asr.training.corpus.prepare import Settings, prepare
from asr.training.corpus.readers import Candidate, Kind, Problem, read
from asr.training.data import Corpus
from tests.support.corpora import problems, tone, tones


def table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def candidates(source: Path, kind: Kind = Kind.auto) -> list[Candidate]:
    found = list(read(source, kind))
    assert not [one for one in found if isinstance(one, Problem)]
    return [one for one in found if isinstance(one, Candidate)]


def wrong(source: Path) -> dict[str, str]:
    return {one.id: one.kind for one in read(source) if isinstance(one, Problem)}


def test_a_corpus_in_a_relative_folder_can_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linked audio in a relative folder was looked up below the prepared folder, an error only in training."""
    chapter = tmp_path / "Libri" / "19" / "198"
    table(chapter / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY")
    tone(chapter / "19-198-0000.flac")
    monkeypatch.chdir(tmp_path)
    prepare([Path("Libri")], Path("made/out"), Settings(store="link"))
    assert len(Corpus.open(tmp_path / "made" / "out").waveform(0)) == 16_000


def test_folders_like_librispeech(tmp_path: Path) -> None:
    """Speakers are folders; the corpus is the subset, whether the whole tree or one subset is given."""
    chapter = tmp_path / "LibriSpeech" / "train-clean-5" / "19" / "198"
    table(chapter / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY", "19-198-0001 IT'S GONE", "19-198-0002")
    tone(chapter / "19-198-0000.flac")
    tone(chapter / "19-198-0003.flac")
    for source in (tmp_path / "LibriSpeech", tmp_path / "LibriSpeech" / "train-clean-5"):
        found = [one for one in read(source) if isinstance(one, Candidate)]
        assert found[0] == Candidate(
            "19-198-0000", chapter / "19-198-0000.flac", "NORTHANGER ABBEY", "19", "train-clean-5"
        )
        assert [(one.id, one.text) for one in found[1:]] == [("19-198-0001", "IT'S GONE"), ("19-198-0002", "")]
        assert wrong(source) == {"19-198-0003": "no text"}
    report = prepare([tmp_path / "LibriSpeech"], tmp_path / "out", Settings())
    assert [entry.text for entry in Corpus.open(tmp_path / "out").entries] == ["northanger abbey"]
    assert report.counts == {"no text": 2, "missing audio": 1}


def test_folders_like_kaldi(tmp_path: Path) -> None:
    """Utterances are cut from recordings, each read once; a command in wav.scp is reported and never run."""
    folder = tmp_path / "train"
    tone(folder / "wav" / "one.wav", 10.0)
    mark = tmp_path / "mark"
    table(folder / "wav.scp", "one wav/one.wav", f"two touch {mark} && cat two.wav |", "three nowhere.wav")
    table(folder / "text", "a hello", "b  good bye", "c so", "d what", "e gone", "f off", "g x", "h y", "j too")
    segments = (
        "a one 0.5 2.25",
        "b one 3 -1",
        "c two 0 1",
        "d three 0 1",
        "f one 9 12",
        "g one 2 1",
        "h one 1 x",
        "i one 1 2",
    )
    table(folder / "segments", *segments, "j\tone\t4\t5")  # was taken for a recording missing from wav.scp
    table(folder / "utt2spk", "a anna", "b bob")
    prepare([folder], tmp_path / "out", Settings())
    corpus = Corpus.open(tmp_path / "out")
    assert [(e.id, e.text, e.speaker, e.corpus, e.seconds) for e in corpus.entries] == [
        ("a", "hello", "anna", "train", 1.75),
        ("b", "goodbye", "bob", "train", 7.0),
        ("j", "too", None, "train", 1.0),
    ]
    whole, _ = soundfile.read(folder / "wav" / "one.wav", dtype="float32")
    np.testing.assert_array_equal(corpus.waveform(0), whole[8_000:36_000])
    np.testing.assert_array_equal(corpus.waveform(1), whole[48_000:])
    assert problems(tmp_path / "out") == {
        "c": "command",
        "d": "missing audio",
        "e": "missing audio",
        "f": "cut short",
        "g": "bad line",
        "h": "bad line",
        "i": "no text",
    }
    assert not mark.exists()


def test_kaldi_without_segments(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    table(tmp_path / "wav.scp", f"a {tmp_path}/a.wav", "b sph2pipe b.sph |")
    table(tmp_path / "text", "a hello", "b there")
    assert [one for one in read(tmp_path) if isinstance(one, Candidate)] == [
        Candidate("a", tmp_path / "a.wav", "hello", None, tmp_path.name)
    ]
    assert wrong(tmp_path) == {"b": "command"}
    (tmp_path / "text").unlink()
    with pytest.raises(DataError, match=r"text: cannot be read: No such file"):
        list(read(tmp_path))


def test_tables_of_common_voice(tmp_path: Path) -> None:
    """Quotes are literal; a folder gives its validated clips; a row with missing columns is reported."""
    rows = ("client_id\tpath\tsentence\tup_votes", 'ab12\tone.mp3\t"Yes," she said.\t2', "cd34\ttwo\tNo.\t2", "ef56")
    source = table(tmp_path / "en" / "validated.tsv", *rows)
    clips = tmp_path / "en" / "clips"
    for named in (source, source.parent):
        assert [one for one in read(named) if isinstance(one, Candidate)] == [
            Candidate("one", clips / "one.mp3", '"Yes," she said.', "ab12", "en"),
            Candidate("two", clips / "two.mp3", "No.", "cd34", "en"),
        ]
        assert wrong(named) == {f"{source}:4": "bad line"}
    other = table(tmp_path / "other.tsv", "a\tb", "c\td")
    with pytest.raises(DataError, match=r"other\.tsv: not a Common Voice table: its header lacks path and sent"):
        list(read(other, Kind.common_voice))
    with pytest.raises(DataError, match=r"other\.tsv:1: no header with a column audio, audio_filepath, "):
        list(read(other))


def test_tables_and_folders_of_any_tool(tmp_path: Path) -> None:
    """A CSV, NeMo's manifest or a folder of audio and text is read as `transcribe` and `evaluate` read it."""
    tone(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("Go on.")
    expected = Candidate("a.wav", tmp_path / "a.wav", "Go on.", None, tmp_path.name)
    assert list(read(tmp_path)) == [expected]
    for name, *lines in (
        ("m.csv", "audio,text", "a.wav,Go on."),
        ("m.tsv", "audio\ttext", "a.wav\tGo on."),
        ("m.json", '{"audio_filepath": "a.wav", "text": "Go on."}'),
    ):
        assert list(read(table(tmp_path / name, *lines))) == [dataclasses.replace(expected, corpus="m")]


def test_cuts_of_lhotse(tmp_path: Path) -> None:
    """Prepared cuts can be prepared again; a cut other than a plain part of a file is reported."""
    prepare([tones(tmp_path, 2)], tmp_path / "out", Settings())
    found = candidates(tmp_path / "out")
    assert [(c.id, c.text, c.start_seconds, c.seconds, c.corpus) for c in found] == [
        ("u0", "go on", 0.0, 1.0, "some"),
        ("u1", "go on", 1.0, 1.01, "some"),
    ]
    prepare([tmp_path / "out"], tmp_path / "again", Settings())
    first, second = Corpus.open(tmp_path / "out"), Corpus.open(tmp_path / "again")
    assert all(first.waveform(i).equal(second.waveform(i)) for i in range(2))

    cut = json.loads(gzip.decompress((tmp_path / "out" / "cuts.jsonl.gz").read_bytes()).splitlines()[0])
    source = cut["recording"]["sources"][0]

    def like(name: str, **changes: Any) -> str:
        return json.dumps(cut | {"id": name} | changes)

    lines = (
        like("command", recording=cut["recording"] | {"sources": [source | {"type": "command"}]}),
        like("stereo", recording=cut["recording"] | {"sources": [source | {"channels": [0, 1]}]}),
        like("faster", recording=cut["recording"] | {"transforms": [{"name": "Speed"}]}),
        like("mixed", type="MixedCut"),
        like("talk", supervisions=cut["supervisions"] * 2),
        like("before", start=-1.0),
        like("number", supervisions=[{"text": 7}]),
        like("unsaid", supervisions=[]),
        "[]",
    )
    path = table(tmp_path / "cuts.jsonl", *lines)
    assert wrong(path) == {
        "command": "cut",
        "stereo": "cut",
        "faster": "cut",
        "mixed": "cut",
        "talk": "cut",
        "before": "bad line",
        f"{path}:7": "bad line",
        f"{path}:9": "bad line",
    }


def test_what_is_no_corpus_is_one_line(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", tmp_path, tone(tmp_path / "talk.wav")):
        with pytest.raises(DataError) as caught:
            list(read(source))
        assert str(source) in str(caught.value)
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1_000)[:-10])
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz: cannot be read"):
        list(read(tmp_path))
    with pytest.raises(DataError, match="contains no utterance"):
        list(read(tmp_path, Kind.librispeech))


KINDS = {
    Kind.manifest: "some.jsonl",
    Kind.librispeech: "1/2/1-2.trans.txt",
    Kind.kaldi: "text",
    Kind.common_voice: "validated.tsv",
    Kind.cuts: "cuts.jsonl",
}
JUNK = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([b"a one 0 1", b"one a.wav", b"path\tsentence", b"\x00\tb", b'{"id": "a"}', b"x" * 5_000 + b" y"]),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(lines=st.lists(JUNK, min_size=1, max_size=4))
def test_whatever_a_file_holds_there_is_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    for name in (KINDS[kind], "wav.scp", "segments") if kind is Kind.kaldi else (KINDS[kind],):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(lines))
    try:
        report = prepare([folder if kind in (Kind.kaldi, Kind.librispeech) else path], folder / "out", Settings(kind))
    except DataError as error:
        said = str(error)
    else:
        assert report.utterances == 0
        said = str(folder)
    assert str(folder) in said
    assert "\n" not in said
