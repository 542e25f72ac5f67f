"""Manifests: a written manifest reads back the same, and an error names file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.archive.manifest import Utterance, read, scan, write
from asr.errors import AudioError, DataError
from tests.support.sounds import tone
from tests.support.sounds import write as write_audio

# A busy machine must not fail the test.
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

GOOD: dict[str, Any] = {
    "id": "a1",
    "corpus": "an4",
    "speaker": "fash",
    "audio": "clips/a1.opus",
    "duration": 1.006,
    "text": "yes",
}


def put(folder: Path, *lines: object) -> Path:
    path = folder / "dev.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key not in keys}


def test_a_line_becomes_an_utterance(tmp_path: Path) -> None:
    audio = tmp_path / "clips" / "a1.opus"
    assert read(put(tmp_path, GOOD)) == [Utterance("a1", audio, 1.006, "yes", "an4", "fash")]


def test_corpus_and_speaker_may_be_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, without("corpus", "speaker"), GOOD | {"id": "a2", "corpus": None, "speaker": None})
    assert [(one.corpus, one.speaker) for one in read(path)] == [("dev", None)] * 2


def test_text_may_be_unknown_or_empty(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD | {"text": None}, GOOD | {"id": "a2", "text": ""})
    assert [one.text for one in read(path)] == [None, ""]


def test_audio_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    put(tmp_path / "lists", GOOD | {"audio": "../clips/a1.opus"}, GOOD | {"id": "a2", "audio": "/far/a2.opus"})
    monkeypatch.chdir(tmp_path)
    found = [one.audio for one in read(Path("lists/dev.jsonl"))]
    assert found == [tmp_path / "clips" / "a1.opus", Path("/far/a2.opus")]


def test_blank_lines_a_byte_order_mark_and_unknown_keys_do_no_harm(tmp_path: Path) -> None:
    path = put(tmp_path, "\ufeff" + json.dumps(GOOD | {"mood": "calm"}) + "\r", "", GOOD | {"id": "a2"})
    assert [one.id for one in read(path)] == ["a1", "a2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        (without("audio", "text"), "no audio; expected a field named audio or audio_filepath"),
        (GOOD | {"id": 7}, "id is 7"),
        (GOOD | {"id": ""}, "id is ''"),
        (GOOD | {"audio": None}, "no audio; expected a field"),
        (GOOD | {"audio": 5}, "audio is 5"),
        (GOOD | {"offset": 1.5}, "offset is 1.5; a part of a file cannot be read"),
        (GOOD | {"duration": "long"}, "duration is 'long'"),
        (GOOD | {"duration": True}, "duration is True"),
        (GOOD | {"duration": 0}, "duration is 0"),
        (GOOD | {"duration": float("nan")}, "duration is nan"),
        (GOOD | {"duration": 10**400}, "duration is 1000"),
        (GOOD | {"text": 5}, "text is 5"),
        (GOOD | {"corpus": 5}, "corpus is 5"),
        (GOOD | {"speaker": 5}, "speaker is 5"),
        (GOOD, "id 'a1' was used before, at "),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = put(tmp_path, GOOD, "", line)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_address_is_named(tmp_path: Path) -> None:
    """A ValueError of urllib once ended the command with a traceback."""
    (tmp_path / "m.jsonl").write_text('{"audio": "file://[a.wav"}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:1: audio is 'file://\[a\.wav': Invalid IPv6 URL"):
        read(tmp_path / "m.jsonl")


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "zo\xeb"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not JSON"):
        read(path)


def test_missing_and_empty_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read: No such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"dev\.jsonl: the manifest is empty"):
        read(put(tmp_path, "", "  "))


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/a.wav` was once looked up in a folder named ~ beside the manifest."""
    monkeypatch.setenv("HOME", "/home/ann")
    audio = ("~/a.wav", "file:///data/b%20c.wav", "~nobody-here.wav")
    path = put(tmp_path, *(GOOD | {"id": str(number), "audio": name} for number, name in enumerate(audio)))
    expected = [Path("/home/ann/a.wav"), Path("/data/b c.wav"), tmp_path / "~nobody-here.wav"]
    assert [one.audio for one in read(path)] == expected


def test_ids_and_durations_are_filled_in(tmp_path: Path) -> None:
    """NeMo's manifests, without ids and some without durations, were refused. An id depends only on earlier rows."""
    write_audio(tmp_path / "a.wav", tone(0.5))
    rows = [{"audio_filepath": "a.wav", "text": "hello"}] * 2 + [GOOD | {"id": "a.wav#3"}, {"audio_filepath": "a.wav"}]
    path = put(tmp_path, *rows)
    found = read(path)
    assert [one.id for one in found] == ["a.wav", "a.wav#2", "a.wav#3", "a.wav#4"]
    assert [one.duration_seconds for one in found] == [0.5, 0.5, 1.006, 0.5]
    assert [one.text for one in found] == ["hello", "hello", "yes", None]
    scanned = [one for _, one in scan(path) if isinstance(one, Utterance)]
    assert [one.duration_seconds for one in scanned] == [None, None, 1.006, None]


def test_a_duration_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        read(put(tmp_path, {"audio": "gone.wav"}))


def test_write_refuses_what_read_would(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    one = Utterance("a1", tmp_path / "a1.wav", 1.0, None, "c", None)
    with pytest.raises(DataError, match="'a1' occurs twice"):
        write(path, [one, one])
    with pytest.raises(DataError, match="no utterance"):
        write(path, [])
    assert not path.exists()


def test_a_manifest_moves_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    audio = tmp_path / "old" / "clips" / "a1.opus"
    write(tmp_path / "old" / "dev.jsonl", [Utterance("a1", audio, 1.0, "yes", "c", None)])
    assert '"audio": "clips/a1.opus"' in (tmp_path / "old" / "dev.jsonl").read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    assert read(tmp_path / "new" / "dev.jsonl")[0].audio == tmp_path / "new" / "clips" / "a1.opus"


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
files = st.text("abc é'", min_size=1, max_size=9).map(lambda name: Path("/data") / f"{name}.wav")
durations = st.floats(0, 1e6, exclude_min=True)
utterances = st.builds(Utterance, names, files, durations, st.none() | st.text(), names, st.none() | names)


@relaxed
@given(st.lists(utterances, min_size=1, max_size=5, unique_by=lambda one: one.id))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, expected: list[Utterance]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write(path, expected)
    assert read(path) == expected
