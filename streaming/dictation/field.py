"""The state of the text field, as a value: each word or command returns a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from streaming.dictation.table import Action, Command

__all__ = ["Field", "Unit"]

KEPT_UTTERANCES = 50  # number of utterances that can be scratched one after the other
KEPT_CHARACTERS = 10_000

_EVERY: dict[Action, Literal["written", "capital", "upper"]] = {
    "capitals": "capital",
    "uppercase": "upper",
    "as written": "written",
}


@dataclass(frozen=True)
class Unit:
    """Spoken words that form one written unit.

    Args:
        spoken: the words as recognised, in lower case: ("twenty", "three").
        text: written form, without a mark: "23".
        mark: the automatic mark after it, one of `asr.writing.parts.MARKS`.
        begins: whether it begins a sentence, so that a capital may be due to that.
        pause: silence between its last word and the next one of the utterance, in seconds.
    """

    spoken: tuple[str, ...]
    text: str
    mark: str = ""
    begins: bool = False
    pause: float = 0.0

    def split(self) -> list[Unit]:
        """Its words one by one, as spoken."""
        *words, last = (Unit((word,), word) for word in self.spoken)
        return [*words, replace(last, pause=self.pause)]


@dataclass(frozen=True)
class Field:
    """The end of the text, and the form of the next word.

    Args:
        text: the text typed so far, without the oldest part.
        space: whether a space is due before the next word.
        automatic: length of the automatic mark at the end, in characters.
        case: case of the next word; "inside": without a capital for the start of a sentence.
        every: case of all following words.
        joining: whether words are joined without spaces.
        before: the field before the last typed utterance, to which "scratch that" returns.
    """

    text: str = ""
    space: bool = False
    automatic: int = 0
    case: Literal["written", "inside", "capital", "upper"] = "written"
    every: Literal["written", "capital", "upper"] = "written"
    joining: bool = False
    before: Field | None = None

    def begun(self) -> Field:
        """The field at the start of an utterance."""
        bounded = self._bounded()
        return replace(bounded, before=bounded)

    def word(self, unit: Unit) -> Field:
        """The field after a word and its automatic mark."""
        mark = f" {unit.mark}" if unit.mark == "—" else unit.mark
        text = self.text + (" " if self.space and not self.joining else "") + self._cased(unit)
        return replace(self, text=text + mark, automatic=len(mark), space=True, case="written")

    def command(self, command: Command) -> Field:
        """The field after a spoken command."""
        if command.action is not None:
            return self._act(command.action)
        text = self.text[: len(self.text) - self.automatic] if command.mark else self.text
        if command.space in ("before", "both") and self.space and not self.joining:
            text += " "
        after = "inside" if command.mark else "written" if command.text.isspace() else self.case
        case = "capital" if command.sentence else after
        space = command.space in ("after", "both")
        return replace(self, text=text + command.text, automatic=0, space=space, case=case)

    def resumed(self) -> Field:
        """The field after a pause, in which the user may have typed, so that earlier text cannot be deleted."""
        return Field(space=self.space, case=self.case, every=self.every, joining=self.joining)

    def _act(self, action: Action) -> Field:
        if action == "scratch":
            return self._scratched()
        if action in ("capital", "upper"):
            return replace(self, case=action)
        if action == "join":
            return replace(self, space=False)
        if action in ("join on", "join off"):
            return replace(self, joining=action == "join on")
        return replace(self, every=_EVERY[action])

    def _scratched(self) -> Field:
        earlier = self.before
        while earlier is not None and earlier.text == self.text:  # it typed nothing, or was scratched already
            earlier = earlier.before
        return self if earlier is None else replace(earlier, before=earlier)

    def _cased(self, unit: Unit) -> str:
        text = unit.text
        case = self.every if self.case == "written" or self.every == "upper" else self.case
        if case == "upper":
            return text.upper()
        if case == "capital":
            return text[:1].upper() + text[1:]
        pronoun = text.partition("'")[0] == "I"
        if case == "inside" and unit.begins and text[1:] == text[1:].lower() and not pronoun:
            return text[:1].lower() + text[1:]
        return text

    def _bounded(self) -> Field:
        """The field without its oldest text and utterances, if they exceed the limits."""
        depth, earlier = 0, self.before
        while earlier is not None:
            depth, earlier = depth + 1, earlier.before
        if len(self.text) < 2 * KEPT_CHARACTERS and depth < 2 * KEPT_UTTERANCES:
            return self
        return self._cut(max(0, len(self.text) - KEPT_CHARACTERS), KEPT_UTTERANCES)

    def _cut(self, characters: int, utterances: int) -> Field:
        """The field without its first `characters`, and with at most `utterances` earlier ones."""
        earlier = self.before
        if earlier is not None:
            forgotten = utterances == 0 or len(earlier.text) < characters
            earlier = None if forgotten else earlier._cut(characters, utterances - 1)
        return replace(self, text=self.text[characters:], before=earlier)
