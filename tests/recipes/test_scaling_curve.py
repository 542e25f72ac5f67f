"""The scaling curve: nested subsets, and a power law fitted to error rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.errors import DataError
from recipes.scaling_curve import curve


def utterances(folder: Path, corpus: str, count: int, *, text: bool = True) -> list[Utterance]:
    return [
        Utterance(f"{corpus}-{i}", folder / f"{i}.wav", 36.0, "a word" if text else None, corpus, None)
        for i in range(count)
    ]


def test_subsets_hold_the_smaller_ones_and_mix_corpora(tmp_path: Path) -> None:
    manifest.write(tmp_path / "one.jsonl", utterances(tmp_path, "one", 300))
    manifest.write(
        tmp_path / "two.jsonl", utterances(tmp_path, "two", 100) + utterances(tmp_path, "mute", 50, text=False)
    )
    made = tmp_path / "subsets"
    assert curve.main(["subsets", *map(str, tmp_path.glob("*.jsonl")), "--hours", "1", "2", "--output", str(made)]) == 0
    small, large = ({u.id for u in manifest.read(made / f"{hours}h.jsonl")} for hours in (1, 2))
    assert (len(small), len(large)) == (100, 200)
    assert small < large
    assert not any(name.startswith("mute") for name in large)
    assert 30 <= sum(name.startswith("two") for name in large) <= 70  # 50 are expected


def test_more_hours_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are 0\.1 hours with a text, but 2 are requested"):
        curve.subset(utterances(tmp_path, "one", 10), 2)


def test_the_law_of_points_that_lie_on_one_is_found() -> None:
    law = curve.fit({hours: 0.8 * hours**-0.25 for hours in (2, 4, 8, 16)})
    assert law.at_one == pytest.approx(0.8)
    assert law.exponent == pytest.approx(0.25)
    assert law(81) == pytest.approx(0.8 / 3)


def test_the_table_says_what_was_measured_and_what_twice_the_hours_buy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = []
    for hours, rate in ((1, 0.64), (4, 0.32)):
        scores = tmp_path / f"{hours}.json"
        scores.write_text(json.dumps({"summaries": [{"name": "total", "words": {"rate": rate}}]}), encoding="utf-8")
        points.append(f"{hours}={scores}")
    assert curve.main(["fit", *points]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| hours | total |",
        "| --- | --- |",
        "| 1 | 64.0 (64.0) |",
        "| 4 | 32.0 (32.0) |",
        "| law | 64.0 × hours^-0.50 |",
        "| twice the hours | 0.71 times the errors |",
    ]


@pytest.mark.parametrize("point", ["2=missing.json", "scores.json"])
def test_a_wrong_point_is_one_line(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert curve.main(["fit", point]) == 1
    assert capsys.readouterr().err.startswith(f"curve: {point}: expected hours=scores.json")
