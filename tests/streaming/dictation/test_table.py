"""The table of spoken commands: the shipped one, the user's own, and error messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asr.errors import ConfigError
from streaming.dictation.table import Command, load


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "spellstream").mkdir(parents=True)
    return tmp_path / "config" / "spellstream"


def test_a_user_without_a_home_folder_has_no_entries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user id has no account, the command ended in a traceback."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    assert load().commands["comma",] == Command(",", "after", mark=True)


def test_the_users_own_entries_come_on_top(home: Path, tmp_path: Path) -> None:
    assert load().commands["comma",] == Command(",", "after", mark=True)
    (home / "dictation.toml").write_text('[commands]\n"Comma" = false\nperiod = "one"', encoding="utf-8")
    given = tmp_path / "given.toml"
    given.write_text(
        'literal = "Word"\n[commands]\nperiod = "two"\n"my  Town" = "Mount Isa\\r\\nQLD"', encoding="utf-8"
    )
    own, both = load(), load(given)
    assert ("comma",) not in own.commands
    assert [table.commands["period",].text for table in (own, both)] == ["one", "two"]
    assert both.commands["my", "town"] == Command("Mount Isa\nQLD", "both")
    assert [table.literal for table in (own, both)] == ["literal", "word"]


def test_the_longest_match_counts() -> None:
    table = load()
    assert [table.match(words.split()) for words in ("all caps on it", "all caps now", "all", "it all caps")] == [
        *(3, 2, 0, 0)
    ]
    assert [table.may_begin(words.split()) for words in ("all", "all caps", "all caps on", "literal new")] == [
        *(True, True, False, True)
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[commands]\ncomma = ]", "not TOML: .*line 2"),
        ("[comands]", "comands: unknown; expected literal or \\[commands\\]"),
        ("commands = 3", "commands = 3: expected a table"),
        ("literal = 'a b'", "literal = 'a b': expected one word"),
        ("[commands]\n' ' = 'x'", "an entry has no words"),
        ("[commands]\ncomma = 3", '"comma": 3: expected text, false, or one of'),
        ("[commands]\ncomma = {}", '"comma": nothing given: expected one of mark, type and do'),
        ("[commands]\ncomma = {mark = ',', do = 'scratch'}", '"comma": mark and do given'),
        ("[commands]\ncomma = {mark = ''}", "\"comma\": mark = '': expected text"),
        ("[commands]\ncomma = {mark = ',', spaces = 1}", '"comma": spaces: unknown'),
        ("[commands]\ncomma = {mark = ',', space = []}", '"comma": space = \\[\\]: expected after, before, both, none'),
        ("[commands]\ncomma = {mark = ',', sentence = 1}", '"comma": sentence = 1: expected true or false'),
        ("[commands]\ncomma = {mark = ',', noun = 1}", '"comma": noun = 1: expected true or false'),
        ("[commands]\ncomma = {type = ',', noun = true}", '"comma": noun is for mark'),
        ("[commands]\ncomma = {do = 'jump'}", "\"comma\": do = 'jump': expected scratch, capital"),
        (
            "[commands]\ncomma = {do = 'join', space = 'both'}",
            '"comma": space, sentence and noun are for mark and type',
        ),
        ('[commands]\ncomma = "\\u001b[A"', '"comma": type: U\\+001B cannot be typed'),
        ("literal = " + 5000 * "1", "not TOML: "),  # a plain ValueError gave a traceback
        (b"\xff", "not UTF-8, at byte 0"),
        (b"#" * 1_000_001, "larger than 1000 kB"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_named(content: str | bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"^{path}: .*{says}"):
        load(path)
