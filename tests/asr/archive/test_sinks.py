"""Destinations of transcripts: standard output and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asr.archive.sinks import Destination, OutputFile, OutputFiles, StandardOutput
from asr.archive.sources import find
from asr.output.formats import FORMATS
from asr.transcript import Transcript, read_json
from tests.support.archive import files
from tests.support.commands import transcript_of


def in_folder(folder: Path, sources: list[str], *formats: str, **more: bool) -> OutputFiles:
    return OutputFiles(sources, Destination(folder=folder, formats=formats or ("txt",), **more))


def beside(source: Path, *formats: str, **more: bool) -> OutputFiles:
    return OutputFiles([str(source)], Destination(beside=True, formats=formats or ("txt",), **more))


def test_the_output_folder_mirrors_a_folder(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "sub/b.wav")
    out = in_folder(tmp_path / "out", [str(folder)], "txt", "json")
    assert out.paths(f"{folder}/sub/b.wav") == [tmp_path / "out/sub/b.txt", tmp_path / "out/sub/b.json"]


def test_no_two_sources_share_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "one/a.wav", "one/a.mp3", "two/a.wav", "one/a.wav.mp3", "a.wav", "one/x/a.wav", "stdin.wav")
    monkeypatch.chdir(tmp_path)
    given = ["one", "two/a.wav", "two/../a.wav", "stdin.wav", "-"]
    out = in_folder(Path("out"), given, *FORMATS)
    sources = [source for source in find(given) if isinstance(source, str)]
    paths = [path for source in sources for path in out.paths(source)]
    assert len({*paths}) == len(paths) == 8 * len(FORMATS)
    assert all(Path("out") in path.parents for path in paths)
    assert ".." not in {part for path in paths for part in path.parts}
    assert out.paths("two/a.wav")[0] == Path("out/two/a.txt")
    assert out.paths("one/a.wav")[0] == Path("out/one/a.wav.txt")
    assert list(out.notes) == ["sources that differ only in their extension keep it in the output: a.wav.txt"]


def test_outputs_have_the_names_that_players_look_for(tmp_path: Path) -> None:
    """`movie.mp4.srt` is not picked up beside `movie.mp4`; `movie.srt` is. A dot in a name is no extension."""
    folder = files(tmp_path, "movie.mp4", "Dr. Strange", "v1.2.MKV")
    names = [
        path.name
        for name in ("movie.mp4", "Dr. Strange", "v1.2.MKV")
        for path in beside(folder).paths(str(folder / name))
    ]
    assert names == ["movie.txt", "Dr. Strange.txt", "v1.2.txt"]
    assert beside(folder / "movie.mp4", "srt").paths(str(folder / "movie.mp4")) == [folder / "movie.srt"]


def test_the_same_file_named_twice_is_no_collision(tmp_path: Path) -> None:
    source = str(files(tmp_path, "a.wav") / "a.wav")
    assert in_folder(tmp_path / "out", [source, source, str(tmp_path)]).paths(source) == [tmp_path / "out/a.txt"]


def test_a_linked_file_keeps_its_own_name(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "real.wav")
    (folder / "link.wav").symlink_to(folder / "real.wav")
    out = in_folder(tmp_path / "out", [str(folder)])
    assert out.paths(f"{folder}/link.wav") == [tmp_path / "out/link.txt"]


@pytest.mark.parametrize(
    ("names", "shortened"),
    [(["日" * 83 + ".wav"], False), (["é" * 127], True), (["x" * 251 + ".mp3", "x" * 251 + ".wav"], True)],
    ids=["253 bytes with an extension", "254 bytes without one", "two of 255 bytes that keep theirs"],
)
def test_long_names_are_shortened_and_said(tmp_path: Path, names: list[str], shortened: bool) -> None:
    """A legal source name of 255 bytes gave an output name beyond the limit: all the work was lost."""
    sources = [str(files(tmp_path, *names) / name) for name in names]
    out = OutputFiles(sources, Destination(beside=True, formats=("json",)))
    for source in sources:
        assert out.obstacle(source) is None
        out.write(source, transcript_of(source))
        assert out.holds(source)
    written = [path.name for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert len(written) == len(names)
    assert {"~" in name for name in written} == {shortened}
    assert any("name too long for an output, shortened to " in note for note in out.notes) == shortened


def test_files_beside_the_source_are_not_overwritten_unasked(tmp_path: Path) -> None:
    """A user's own notes may be named talk.txt, so --beside must not overwrite them unasked."""
    source = files(tmp_path, "talk.wav", "talk.txt") / "talk.wav"
    problem = beside(source).obstacle(str(source))
    assert str(problem) == f"{tmp_path}/talk.txt: exists already: --overwrite replaces it, --resume skips it"
    assert beside(source, overwrite=True).obstacle(str(source)) is None

    resumed = beside(source, "txt", "json", resume=True)
    assert not resumed.holds(str(source))
    assert resumed.obstacle(str(source)) is None
    resumed.write(str(source), transcript_of("talk.wav"))
    assert (tmp_path / "talk.txt").read_text() == ""
    assert (tmp_path / "talk.json").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_known_before_the_work(tmp_path: Path) -> None:
    source = files(tmp_path / "in", "a.wav") / "a.wav"
    source.parent.chmod(0o500)
    assert "no permission to write" in str(beside(source).obstacle(str(source)))
    source.parent.chmod(0o700)


def test_one_file(tmp_path: Path) -> None:
    sink = OutputFile(tmp_path / "talk.srt", "srt")
    assert sink.obstacle("a.wav") is None
    sink.write("a.wav", transcript_of("a.wav"))
    assert (tmp_path / "talk.srt").read_text().startswith("1\n00:00:00,000 --> ")
    nowhere = OutputFile(tmp_path / "talk.srt" / "x.srt", "srt").obstacle("a.wav")
    assert str(nowhere) == f"{tmp_path}/talk.srt: cannot be made: File exists"


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
