"""Formats of manifests: all give the same utterances, and each bad row is one error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr.archive.manifest import Utterance, scan
from asr.errors import DataError


def found(path: Path) -> list[tuple[str, str, str | None] | str]:
    """(id, audio, text) of each row, or its error, without the manifest's folder."""
    folder = f"{path if path.is_dir() else path.parent}/"
    return [
        (one.id, str(one.audio).removeprefix(folder), one.text)
        if isinstance(one, Utterance)
        else str(one).replace(folder, "")
        for _, one in scan(path)
    ]


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.jsonl", '{"id": "1", "audio": "a.wav", "text": "Hi, you"}\n\n{"id": "2", "audio": "b.wav"}\n'),
        (
            "m.json",
            '{"id": "1", "audio_filepath": "a.wav", "text": "Hi, you"}\r\n{"id": "2", "wav": "b.wav"}',
        ),
        ("m.json", '[{"id": "1", "audio": "a.wav", "text": "Hi, you"},\n {"id": "2", "audio": "b.wav"}]'),
        ("m.csv", 'id,audio,text\n1,a.wav,"Hi, you"\n\n2,b.wav,\n'),
        ("m.csv", "ID;wav_filename;transcript\r\n1;a.wav;Hi, you\r\n2;b.wav;\r\n"),
        ("m.CSV", 'ID,duration,wav,spk_id,wrd\n1,2.5,a.wav,ann,"Hi, you"\n2,2.5,b.wav,ann,\n'),
        ("m.tsv", "id\tfile_name\ttranscription\tmood\n1\ta.wav\tHi, you\tcalm\n2\tb.wav\t\t\n"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
def test_the_same_in_every_form(tmp_path: Path, name: str, text: str, mark: str) -> None:
    """JSON lines and arrays, CSV, TSV; the names of NeMo, Hugging Face, DeepSpeech and SpeechBrain."""
    assert found(put(tmp_path / name, mark + text)) == [("1", "a.wav", "Hi, you"), ("2", "b.wav", None)]


def test_a_folder_of_audio_and_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.wav", "a.mp3", "sub/c.flac", "d.wav"):
        (tmp_path / name).touch()
    put(tmp_path / "a.txt", "\ufeffHello\n there.\n")
    put(tmp_path / "sub" / "c.txt", "")
    put(tmp_path / "d.txt", "hello", "utf-16")
    assert found(tmp_path) == [
        ("a.mp3", "a.mp3", "Hello there."),
        ("b.wav", "b.wav", None),
        "d.txt: the text is UTF-16; save it as UTF-8",
        ("sub/c.flac", "sub/c.flac", ""),
    ]
    assert {one.corpus for _, one in scan(tmp_path) if isinstance(one, Utterance)} == {tmp_path.name}


def test_common_voice(tmp_path: Path) -> None:
    """Clips are in a folder beside the table, and quotes in sentences are literal."""
    text = 'client_id\tpath\tsentence\n7f\tone.mp3\t"Stop!" he said.\n7f\ttwo\tGo "on\n'
    assert found(put(tmp_path / "validated.tsv", text)) == [
        ("one.mp3", "clips/one.mp3", '"Stop!" he said.'),
        ("two", "clips/two.mp3", 'Go "on'),
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_utf16_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    """UTF-16, which PowerShell's > writes, gave "not JSON: 'utf-8' codec can't decode byte 0xff"."""
    path = put(tmp_path / name, json.dumps({"audio": "a.wav"}), encoding)
    with pytest.raises(DataError, match=rf"{name}: the text is UTF-16; save it as UTF-8$"):
        list(scan(path))


@pytest.mark.parametrize("start", [b"RIFF\x24\x00\x00\x00WAVE", b"\x00\x00\x00\x20ftypM4A ", b"ID3\x04\x00"])
def test_a_recording_is_no_manifest(tmp_path: Path, start: bytes) -> None:
    """`evaluate talk.wav` printed an error for each newline byte, thousands for an hour; MP4 was "UTF-16"."""
    path = tmp_path / "talk.wav"
    path.write_bytes(start + b"\n\x00\x01" * 99)
    with pytest.raises(DataError, match=rf"{path}: is not a text file$"):
        list(scan(path))


def test_each_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"audio,text\na.wav,hi\nb.wav\nc.wav,caf\xe9\n,hi\nd.wav,hi\n")
    good = [one for one in found(path) if isinstance(one, tuple)]
    bad = [one for one in found(path) if isinstance(one, str)]
    assert [audio for _, audio, _ in good] == ["a.wav", "d.wav"]
    assert bad[:2] == ["m.csv:3: 1 columns; the header has 2", "m.csv:4: the text is not UTF-8"]
    assert bad[2] == "m.csv:5: no audio; expected a field named audio or audio_filepath"


def test_a_table_without_a_header_or_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.csv:1: no header with a column audio, audio_filepath, .* or path$"):
        found(put(tmp_path / "m.csv", "a.wav,hello\nb.wav,there\n"))
    with pytest.raises(DataError, match="empty"):
        found(put(tmp_path / "m.csv", "audio,text\n"))
