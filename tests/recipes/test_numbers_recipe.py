"""The recipe that lists sentences without numbers that the number rules change."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.punctuation import numbers


def test_what_the_author_wrote_in_another_way_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "news.txt"
    sentences = (
        ("The U.S.-made cat sat.", "She saw 3 cats.", "Nothing to change here."),
        ("The second cat left.", "Watch the T-V now.", "So u, k, then."),
    )
    text.write_text("\n".join(" ".join(sentence for sentence in line for _ in range(3)) for line in sentences))
    monkeypatch.setattr("sys.argv", ["numbers", str(text), "--sentences", "10"])

    numbers.main()

    said = capsys.readouterr().out.splitlines()
    assert said == ["u k → UK\tSo u, k, then.", "4 sentences; 2 forms as their author wrote them, 1 to judge"]
