"""The table of spoken commands: the shipped one, extended by the user's own."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from asr.errors import ConfigError
from asr.files import user_home

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

__all__ = ["Action", "Command", "Space", "Table", "extended", "load", "user_file"]

Space = Literal["after", "before", "both", "none"]
Action = Literal["scratch", "capital", "upper", "capitals", "uppercase", "as written", "join", "join on", "join off"]

SHIPPED = Path(__file__).with_name("commands.toml")
MAX_BYTES = 1_000_000
_KINDS = ("mark", "type", "do")


@dataclass(frozen=True)
class Command:
    """Effect of a spoken command: it writes `text` or, without one, carries out `action`.

    Args:
        text: punctuation or other text; a newline is a press of Return.
        space: the sides on which a space separates it from words.
        mark: whether it replaces an automatic mark before it.
        sentence: whether the next word begins a sentence.
        noun: whether its words are also a common noun, which often follows "this" or "long".
        action: see `commands.toml`.
    """

    text: str = ""
    space: Space = "both"
    mark: bool = False
    sentence: bool = False
    noun: bool = False
    action: Action | None = None


@dataclass(frozen=True)
class Table:
    """Spoken commands by their words.

    Args:
        commands: by words in lower case.
        literal: the word that turns a following command into plain words.
    """

    commands: Mapping[tuple[str, ...], Command]
    literal: str = "literal"
    _beginnings: frozenset[tuple[str, ...]] = field(init=False, repr=False)
    _longest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cut = {words[:n] for words in self.commands for n in range(1, len(words))}
        object.__setattr__(self, "_beginnings", frozenset(cut))
        object.__setattr__(self, "_longest", max(map(len, self.commands), default=0))

    def match(self, words: Sequence[str]) -> int:
        """Number of words in the longest command at the start of `words`; 0: none."""
        for count in range(min(self._longest, len(words)), 0, -1):
            if tuple(words[:count]) in self.commands:
                return count
        return 0

    def may_begin(self, words: Sequence[str]) -> bool:
        """Whether all of these words could become a command, or a longer one, with further words."""
        if words and words[0] == self.literal:
            return len(words) == 1 or self.may_begin(words[1:])
        return tuple(words) in self._beginnings


def user_file() -> Path:
    """Path of the user's own table: `$XDG_CONFIG_HOME/spellstream/dictation.toml`, by default below ~/.config."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else user_home() / ".config"  # a relative path is ignored
    return folder / "spellstream" / "dictation.toml"


def load(path: Path | None = None) -> Table:
    """The shipped table with the user's file, if there is one, and then the file `path` on top.

    Raises:
        ConfigError: a file cannot be read, or an entry is wrong; names the file, the line or entry, and the reason.
    """
    table = extended(Table({}), SHIPPED)
    if (own := user_file()).exists():
        table = extended(table, own)
    return table if path is None else extended(table, path)


def extended(table: Table, path: Path) -> Table:
    """The table with the entries of a file added, replaced or removed; errors as in `load`."""
    values = _read(path)
    if unknown := sorted(values.keys() - {"literal", "commands"}):
        raise ConfigError(f"{path}: {unknown[0]}: unknown; expected literal or [commands]")

    literal = values.get("literal", table.literal)
    if not isinstance(literal, str) or len(literal.split()) != 1:
        raise ConfigError(f"{path}: literal = {literal!r}: expected one word")
    entries = values.get("commands", {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: commands = {entries!r}: expected a table, [commands]")

    commands = dict(table.commands)
    for phrase, value in entries.items():
        words = tuple(phrase.lower().split())
        if not words:
            raise ConfigError(f"{path}: commands: an entry has no words")
        if value is False:
            commands.pop(words, None)
            continue
        try:
            commands[words] = _command(value)
        except ConfigError as error:
            raise ConfigError(f'{path}: "{phrase}": {error}') from None
    return Table(commands, literal.strip().lower())


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES // 1000} kB")
        values: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
        return values
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8, at byte {error.start}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _command(value: object) -> Command:
    """An entry of the table.

    Raises:
        ConfigError: the message is only the reason.
    """
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        raise ConfigError(f"{value!r}: expected text, false, or one of mark, type and do in braces")
    if unknown := sorted(value.keys() - {*_KINDS, "space", "sentence", "noun"}):
        raise ConfigError(f"{unknown[0]}: unknown; expected mark, type, do, space, sentence or noun")
    if len(kinds := [kind for kind in _KINDS if kind in value]) != 1:
        raise ConfigError(f"{' and '.join(kinds) or 'nothing'} given: expected one of mark, type and do")

    if kinds == ["do"]:
        if len(value) > 1:
            raise ConfigError("space, sentence and noun are for mark and type")
        return Command(action=_chosen("do", value["do"], get_args(Action)))
    text, mark = _text(kinds[0], value[kinds[0]]), kinds == ["mark"]
    space = _chosen("space", value.get("space", "after" if mark else "both"), get_args(Space))
    flags = {name: value.get(name, False) for name in ("sentence", "noun")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ConfigError(f"{name} = {flag!r}: expected true or false")
    if flags["noun"] and not mark:
        raise ConfigError("noun is for mark")
    return Command(text, space, mark, **flags)


def _chosen(name: str, value: object, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}: expected {', '.join(choices)}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} = {value!r}: expected text")
    value = unicodedata.normalize("NFC", value.replace("\r\n", "\n"))
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise ConfigError(f"{name}: U+{ord(character):04X} cannot be typed")
    return value
