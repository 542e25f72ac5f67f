"""`spellstream evaluate` with a stub recogniser: scores, skipped and failed utterances, reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.commands import Command, StubRecogniser


def manifest(folder: Path, *rows: tuple[str, str, str | None]) -> Path:
    """A manifest of (name, corpus, text)."""
    lines = (
        {"id": name, "corpus": corpus, "audio": f"{name}.wav", "duration": 2.0, "text": text}
        for name, corpus, text in rows
    )
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    return manifest(
        tmp_path,
        ("one", "clean", "One, again!"),
        ("two", "noisy", "two more again"),
        ("three", "clean", None),
        ("four", "clean", "at 4 o'clock"),
        ("five", "noisy", "something else"),
    )


def test_evaluate(scored: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, err = command("evaluate", scored, "--worst", 1, "--confusions", 2)
    assert (status, err) == (0, "")
    rows = {line.split()[1]: line.split("│") for line in out.splitlines() if line.startswith("│")}
    assert list(rows) == ["clean", "noisy", "total"]
    assert [cell.strip() for cell in rows["total"][2:5]] == ["3", "0.1", "42.86"]  # 3 of 7 words
    assert "2 utterances were left out: no text, or digits or another script in it" in out
    assert "real-time factor" in out
    assert "beam_size 8 · " in out
    assert "five (noisy): 2 errors in 2 words\nREF: something else\nHYP: five      again\n" in out
    assert "one (clean)" not in out
    assert "deletion      more → ***" in out


def test_a_missing_folder_is_told_before_the_work(
    scored: Path, tmp_path: Path, command: Command, stub: StubRecogniser
) -> None:
    """The missing folder was reported only after hours of recognition, which gave no scores."""
    path = tmp_path / "nowhere" / "scores.json"
    expected = (1, "", f"spellstream: {path}: its folder does not exist\n")
    assert command("evaluate", scored, "--json", path) == expected


def test_evaluate_chooses(scored: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, _ = command(
        "evaluate", scored, "--corpus", "noisy", "--limit", 1, "--json", "-", "--beam-size", 2, "--track", "de"
    )
    assert status == 0
    assert stub.asked["track"] == "de"
    assert stub.asked["style"] == "spoken"
    scores = json.loads(out)
    assert [one["id"] for one in scores["utterances"]] == ["two"]
    assert scores["summaries"][-1]["words"]["rate"] == pytest.approx(1 / 3)
    assert scores["settings"]["search"]["beam_size"] == 2
    assert scores["real_time_factor"] == pytest.approx(scores["wall_seconds"] / 2.0, abs=1e-3)
    status, _, err = command("evaluate", scored, "--corpus", "quiet")
    assert (status, err) == (1, f"spellstream: {scored}: no corpus 'quiet'; there are clean, noisy\n")


def test_evaluate_goes_on_after_a_failure(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    path = manifest(tmp_path, ("a", "x", "a again"), ("bad", "x", "lost"), ("c", "x", "c again"))
    status, out, err = command("evaluate", path, "--json", tmp_path / "scores.json")
    assert status == 1
    assert err == f"spellstream: bad: {tmp_path}/bad.wav: is not audio\nspellstream: 1 of 3 failed\n"
    assert "total" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [one["id"] for one in scores["utterances"]] == ["a", "c"]  # in the manifest's order
    assert (scores["failed"], scores["summaries"][-1]["words"]["rate"]) == (1, 0.0)


def test_evaluate_without_anything_to_score(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    path = manifest(tmp_path, ("bad", "x", "lost"))
    assert command("evaluate", path) == (1, "", f"spellstream: bad: {tmp_path}/bad.wav: is not audio\n")
    path = manifest(tmp_path, ("a", "x", None))
    expected = f"spellstream: {path}: none of 1 utterances has a text to compare with\n"
    assert command("evaluate", path) == (1, "", expected)
    assert command("evaluate", tmp_path / "none.jsonl")[0] == 1


def rates(out: str) -> dict[str, list[str]]:
    """The cells of each row of the table, by corpus."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {name: cells for name, *cells in rows}


def test_bad_rows_are_named_and_the_rest_is_scored(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    """One bad row of a manifest once ended an evaluation."""
    path = manifest(tmp_path, ("a", "x", "a again"), ("a", "x", "twice"), ("b", "x", "b again"))
    path.write_text(path.read_text() + "{}\nno json\n")
    status, out, err = command("evaluate", path)
    assert status == 1
    assert rates(out)["total"][:3] == ["2", "0.1", "0.00"]
    said = [line.removeprefix(f"spellstream: {path}:") for line in err.splitlines()]
    assert said[:2] == ["2: id 'a' was used before", "4: no audio; expected a field named audio or audio_filepath"]
    assert said[2].startswith("5: not JSON: ")
    assert said[3:] == ["spellstream: 3 of 5 failed"]


@pytest.mark.parametrize("form", ["folder", "csv", "nemo"])
def test_evaluate_takes_any_manifest(tmp_path: Path, form: str, command: Command, stub: StubRecogniser) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("A, again!")
    (tmp_path / "csv").write_text("audio,text\na.wav,A again\n")
    (tmp_path / "csv").rename(tmp_path / "m.csv")
    (tmp_path / "m.json").write_text('{"audio_filepath": "a.wav", "text": "a again"}')
    source = {"folder": tmp_path, "csv": tmp_path / "m.csv", "nemo": tmp_path / "m.json"}[form]
    status, out, err = command("evaluate", source)
    assert (status, err) == (0, "")
    assert rates(out)["total"][:3] == ["1", "0.0", "0.00"]


def test_accents_apostrophes_and_old_spellings_are_scored(
    tmp_path: Path, command: Command, stub: StubRecogniser
) -> None:
    """References with accents, apostrophes or old spellings were left out, or counted as errors."""
    texts = {"don't": "Donʼt again", "cafe": "Café — again", "tomorrow": "To-morrow again", "fine": "ﬁne again"}
    path = manifest(tmp_path, *((name, "x", text) for name, text in texts.items()))
    status, out, err = command("evaluate", path)
    assert (status, err) == (0, "")
    assert rates(out)["total"][:3] == ["4", "0.1", "0.00"]
    assert "left out" not in out


def test_whispers_normaliser_with_plain_beside_it(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    pytest.importorskip("whisper_normalizer")
    rows = ("can't", "x", "can not, again"), ("seven", "x", "7 again"), ("colour", "x", "color again")
    path = manifest(tmp_path, *rows)
    status, out, err = command("evaluate", path, "--normaliser", "whisper", "--json", tmp_path / "scores.json")
    assert (status, err) == (0, "")
    table = rates(out)
    assert "plain WER %" in out
    assert table["total"][2] == "0.00"
    assert table["total"][4] == "50.00"  # can't for cannot, colour for color; "7 again" is left out
    assert "1 utterances are not in the plain WER: digits or another script in their text" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["settings"]["normaliser"] == "whisper"
    assert scores["plain_summaries"][-1]["utterances"] == 2


def test_a_missing_normaliser_says_what_to_install(
    tmp_path: Path, command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "whisper_normalizer", None)
    monkeypatch.delitem(sys.modules, "whisper_normalizer.english", raising=False)
    path = manifest(tmp_path, ("a", "x", "a"))
    expected = "spellstream: the package whisper_normalizer is missing: pip install 'spellstream[evaluate]'\n"
    assert command("evaluate", path, "--normaliser", "whisper") == (1, "", expected)


# --- another system's texts -------------------------------------------------------------------------------------------

HYPOTHESES = {
    "h.jsonl": '{{"id": "one", "text": "One again."}}\n{{"source": "{folder}/two.wav", "text": "two more"}}\n',
    "rows.jsonl": '{{"source": "{folder}/one.wav", "text": "1 again", "spoken": "one again"}}\n'
    '{{"id": "two", "text": "two more"}}\n',
    "nemo.json": '{{"audio_filepath": "one.wav", "text": "x", "pred_text": "one again"}}\n'
    '{{"audio_filepath": "two.wav", "text": "x", "pred_text": "two more"}}\n',
    "h.csv": "id,hypothesis\none,One again!\ntwo,two more\n",
    "addresses.jsonl": '{{"audio": "file://{folder}/one.wav", "text": "one again"}}\n'
    '{{"path": "{folder}/two.wav", "text": "two more"}}\n',
    "h.trn": ";; made by hand\nOne, again (one)\ntwo more (two)\n",
    "h.txt": "one  One again\ntwo two more\n",
}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return manifest(tmp_path, ("one", "x", "One, again!"), ("two", "x", "two more again"))


@pytest.mark.parametrize("name", HYPOTHESES)
def test_another_systems_texts(tmp_path: Path, name: str, two: Path, command: Command) -> None:
    """Another system's texts are scored and reported like our own, without a model or audio."""
    path = tmp_path / name
    path.write_text(HYPOTHESES[name].format(folder=tmp_path))
    status, out, err = command("evaluate", two, "--hypotheses", path)
    assert (status, err) == (0, "")
    assert rates(out)["total"][:3] == ["2", "0.1", "20.00"]
    assert "two (x): 1 errors in 3 words" in out
    assert f"normaliser plain · style spoken · hypotheses {path} · hypotheses_not_scored 0" in out
    assert "real-time factor" not in out


def test_hypotheses_that_are_missing_or_broken_are_named(tmp_path: Path, two: Path, command: Command) -> None:
    path = tmp_path / "h.jsonl"
    rows = [{"id": "one", "text": "one again"}, {"id": "one", "text": "x"}, {"id": "other", "text": "x"}, [], {}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = command("evaluate", two, "--hypotheses", path)
    assert status == 1
    assert rates(out)["total"][:3] == ["1", "0.0", "0.00"]
    assert "hypotheses_not_scored 1" in out
    assert err.splitlines() == [
        f"spellstream: {path}:2: a second hypothesis for one",
        f"spellstream: {path}:4: expected a JSON object, found list",
        f"spellstream: {path}:5: expected an id, or the path of the audio, and a text",
        "spellstream: two: no hypothesis",
        "spellstream: 4 of 5 failed",
    ]
    trn = tmp_path / "h.trn"
    trn.write_text("One again (one)\ntwo more again (two)\n[one\n")
    status, out, err = command("evaluate", two, "--hypotheses", trn)
    assert (status, rates(out)["total"][2]) == (1, "0.00")
    assert err.splitlines()[0] == f"spellstream: {trn}:3: expected the text and then the id in brackets"
    expected = f"spellstream: {tmp_path}/gone.trn: cannot be read: No such file or directory\n"
    assert command("evaluate", two, "--hypotheses", tmp_path / "gone.trn") == (1, "", expected)


def test_hypotheses_go_without_a_model(tmp_path: Path, two: Path, command: Command) -> None:
    status, out, err = command("evaluate", two, "--hypotheses", tmp_path / "h.txt", "--beam-size", 2)
    assert (status, out) == (2, "")
    assert "Invalid value for --hypotheses: options of the model, the search or the audio have no effect with it" in err


def test_marks_and_capitals_are_scored_where_references_have_them(
    tmp_path: Path, command: Command, stub: StubRecogniser
) -> None:
    hypotheses = tmp_path / "other.jsonl"
    texts = {"a": "So, who is it? Paris.", "b": "no marks here", "c": "The end"}
    hypotheses.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    path = manifest(tmp_path, ("a", "x", "So who is it? Paris!"), ("b", "x", "no marks here"), ("c", "x", "The End."))

    status, out, _ = command("evaluate", path, "--hypotheses", hypotheses, "--style", "written", "--json", "-")
    assert status == 0
    written = json.loads(out)["written"]
    assert written["utterances"] == 2
    assert {
        name: (found["right"], found["missed"], found["extra"]) for name, found in written.items() if name in ",.?!"
    } == {
        ",": (0, 0, 1),
        ".": (0, 1, 1),
        "?": (1, 0, 0),
        "!": (0, 1, 0),
    }
    assert (written["capitals"]["right"], written["capitals"]["missed"]) == (3, 1)

    status, out, _ = command("evaluate", path, "--hypotheses", hypotheses, "--style", "written")
    assert "marks and capitals, 2 utterances" in out
    assert "capitals" in out


def test_written_scores_need_written_references(scored: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, _ = command("evaluate", scored, "--style", "written", "--corpus", "noisy")
    assert status == 0
    assert "no reference has marks or capitals to compare with" in out
    assert stub.asked["style"] == "written"
