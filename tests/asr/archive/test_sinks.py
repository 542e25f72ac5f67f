"""Where transcripts go: standard output and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.archive.sinks import OutputFolder, StandardOutput
from asr.archive.sources import find
from asr.output.formats import FORMATS
from asr.transcript import Transcript, read_json
from tests.support.archive import files
from tests.support.commands import transcript_of


def test_the_output_folder_mirrors_a_folder(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "sub/b.wav")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt", "json"])
    assert out.paths(f"{folder}/sub/b.wav") == [tmp_path / "out/sub/b.wav.txt", tmp_path / "out/sub/b.wav.json"]


def test_no_two_sources_share_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "one/a.wav", "one/a.mp3", "two/a.wav", "one/a.wav.mp3", "a.wav", "one/x/a.wav")
    monkeypatch.chdir(tmp_path)
    given = ["one", "two/a.wav", "two/../a.wav", "-"]
    out = OutputFolder(Path("out"), given, FORMATS)
    sources = [source for source in find(given) if isinstance(source, str)]
    paths = [path for source in sources for path in out.paths(source)]
    assert len({*paths}) == len(paths) == 7 * len(FORMATS)
    assert all(Path("out") in path.parents for path in paths)
    assert ".." not in {part for path in paths for part in path.parts}
    assert out.paths("two/a.wav")[0] == Path("out/two/a.wav.txt")


def test_a_linked_file_keeps_its_own_name(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "real.wav")
    (folder / "link.wav").symlink_to(folder / "real.wav")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt"])
    assert out.paths(f"{folder}/link.wav") == [tmp_path / "out/link.wav.txt"]


@pytest.mark.parametrize(
    ("name", "several", "expected"),
    [
        ("txt", False, "hello there\nagain\n"),
        ("txt", True, "a.wav: hello there\na.wav: again\n"),
        ("tsv", False, "start\tend\ttext\n0\t1000\thello there\n1000\t2000\tagain\n"),
    ],
)
def test_standard_output(name: str, several: bool, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    StandardOutput(name, several).write("a.wav", transcript_of("a.wav"))
    assert capsys.readouterr().out == expected


def test_silence_among_several_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    StandardOutput("txt", several=True).write("a.wav", Transcript("a.wav", 1.0))
    assert capsys.readouterr().out == "a.wav:\n"


def test_json_of_several_takes_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("a.wav", "b.wav"):
        StandardOutput("json", several=True).write(source, transcript_of(source))
    lines = capsys.readouterr().out.splitlines()
    assert [read_json(line) for line in lines] == [transcript_of("a.wav"), transcript_of("b.wav")]
