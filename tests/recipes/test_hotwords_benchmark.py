"""The benchmark of hotwords: which words count as found, and lists that are measured side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.steps import Steps
from recipes.benchmark.hotwords import Counts, compare, in_turn, main


def test_rare_and_other_words_are_counted_apart() -> None:
    counts = Counts("files")
    compare(counts, "call siobhan at noon", "call siobhan at moon nora", {"siobhan"}, {"siobhan", "nora"})
    assert (counts.rare, counts.found) == (1, 1)
    assert (counts.others, counts.errors) == (3, 2)  # "noon" was not recognised, and "nora" is one word too many
    assert counts.false_alarms == 1


def test_lists_take_steps_in_turn() -> None:
    """Each list was measured after the one before, and 1,000 names cost less than 100 while another program ran."""
    order = []

    def run(name: str, steps: int) -> Steps[str]:
        for step in range(steps):
            order.append(f"{name}{step}")
            yield
        return name

    found = in_turn([run("a", 3), run("b", 1), run("c", 2)])
    assert [name for name, _ in found] == ["a", "b", "c"]
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert all(seconds >= 0 for _, seconds in found)


def test_text_with_too_few_rare_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a small text, the lists of 100 and of 1,000 names had no distractor, and their costs were all the same."""
    text = tmp_path / "train.txt"
    text.write_text("a rare word\n")
    assert main(["--manifest", str(tmp_path / "dev.jsonl"), "--text", str(text)]) == 1
    assert "--text has 0 rare words for lists of 1000" in capsys.readouterr().err
