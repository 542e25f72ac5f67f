"""The recipe that measures F1 of marks and capitals."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("num2words")

from asr import checkpoint
from asr.output.timed import Segment, Word
from asr.text.marks import Agreement
from asr.training.punctuation.config import PunctuationTrainConfig
from asr.training.saved_run import read_run_config
from asr.writing.parts import Tag
from recipes.punctuation import evaluate, measure
from tests.support.tiny_punctuation import tiny_punctuator


def test_a_table_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = tiny_punctuator()
    checkpoint.save_punctuation(tmp_path, tagger)
    text = tmp_path / "news.txt"
    text.write_text("The cat sat on a mat. Did I leave Paris?\nYes, I left.\na heading\n")
    monkeypatch.setattr("sys.argv", ["evaluate", "text", str(tmp_path), str(text)])
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    evaluate.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| news")]
    assert len(rows) == 2  # by the model, and by the baseline
    # The baseline finds 1 of 2 full stops, adds one in place of the question mark, and misses 2 of 6 capitals.
    assert rows[1][1:] == ["0.0", "50.0", "0.0", "–", "–", "80.0 |"]


def test_speech_is_scored_with_its_errors_and_pauses() -> None:
    class Told(evaluate.Baseline):
        pauses: list[object] = []  # noqa: RUF012 - of one test

        def tag(self, utterances: object) -> list[list[Tag]]:
            self.pauses += [one.pauses for one in utterances]  # type: ignore[attr-defined]
            return super().tag(utterances)  # type: ignore[arg-type]

    words = tuple(Word(text, i, i + 0.75, 1.0) for i, text in enumerate(["i", "left", "parish"]))
    segments = [Segment("i left parish", 0.0, 2.75, -1.0, words)]
    tagger = Told()
    score = evaluate.of_speech(tagger, [(segments, "I left Paris.")], True)
    evaluate.of_speech(tagger, [(segments, "I left Paris.")], False)
    assert tagger.pauses == [[0.25, 0.25, None], [None, None, None]]
    assert score.marks["."] == Agreement(right=1)
    assert score.capitals == Agreement(right=1)


def test_wrong_use_shows_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "text"])
    with pytest.raises(SystemExit, match="python -m"):
        evaluate.main()


def test_errors_and_pauses_become_settings(tmp_path: Path) -> None:
    """One wrong word in three, and a pause of 0.2 s after one of two commas, become settings."""
    found = measure.Found()
    for start in (1.2, 1.0):
        words = [Word("well", 0.0, 1.0, 1.0), Word("i", start, 2.0, 1.0), Word("lift", 2.0, 3.0, 1.0)]
        found.add("Well, I left.", words)
    found.add("", [])
    assert found.words == {"all": 6, "equal": 4, "substitute": 2}
    assert found.pauses == {"comma": [pytest.approx(0.2), 0.0], "plain": [0.0, 0.0], "end": []}
    for start in (1.1, 1.3):
        found.add("Yes, yes.", [Word("yes", 0.0, 1.0, 1.0), Word("yes", start, 2.0, 1.0)])
    settings = tmp_path / "marks.toml"
    settings.write_text("\n".join(found.toml()))
    config = read_run_config(settings, PunctuationTrainConfig)
    assert config.errors.substituted == 0.2
    assert config.pauses.comma[::2] == (0.2, 0.75)
