"""SpeechBrain's `hyperparams.yaml`, read as data: nothing that its tags name is imported, built or called.

`!new:`, `!name:` and `!apply:` become a `Call`, `!ref` a `Ref`, any other tag a `Tagged`, which is an error
only if its value is needed.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError

__all__ = ["Call", "Hyperparams", "Ref"]

_MAX_BYTES = 1_000_000
_MAX_NUMBER = 1e9
_MAX_REFS = 50  # in a chain; a longer chain is a cycle
_CALLS = ("new", "name", "apply")
_REF = re.compile(r"<([A-Za-z_]\w*)((?:\[\w+\])*)>")


@dataclass(frozen=True)
class Call:
    """`!new:target arguments` and the like."""

    target: str
    arguments: Any  # a mapping, a list, or None

    @property
    def name(self) -> str:
        """The target without its module."""
        return self.target.rpartition(".")[2]


@dataclass(frozen=True)
class Ref:
    """`!ref text`, with names in angle brackets."""

    text: str


@dataclass(frozen=True)
class Tagged:
    """A value with another tag, such as `!PLACEHOLDER`."""

    tag: str


class Hyperparams:
    """The settings of a file; an unsupported one raises a `CheckpointError` that names file and setting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = _read(path)

    def error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}")

    def resolved(self, value: Any, where: str) -> Any:
        """`value` with references followed; lists and mappings inside it are left as they are."""
        for _ in range(_MAX_REFS):
            if not isinstance(value, Ref):
                break
            value = self._follow(value, where)
        else:
            raise self.error(f"{where} refers to itself")
        if isinstance(value, Tagged):
            raise self.error(f"{where} is {value.tag}, which is not understood")
        return value

    def arguments(
        self, call: Call, where: str, known: Mapping[str, Any], ignored: Collection[str] = ()
    ) -> dict[str, Any]:
        """The resolved arguments of a call.

        Args:
            call: its arguments must have names.
            where: its place in the file, for error messages.
            known: SpeechBrain's defaults of the arguments that matter, by name.
            ignored: names of the arguments that do not matter.
        """
        given = {} if call.arguments is None else call.arguments
        if not isinstance(given, dict):
            raise self.error(f"{where} ({call.name}): arguments without names are not understood")
        for name in given:
            if name not in known and name not in ignored:
                raise self.error(f"{where} ({call.name}): the argument {name} is not understood")
        found = {name: self.resolved(given[name], f"{where}.{name}") for name in given if name in known}
        return {**known, **found}

    def calls(self, *names: str) -> dict[str, Call]:
        """Top-level settings that construct one of these classes."""
        return {key: v for key, v in self.values.items() if isinstance(v, Call) and v.name in names}

    def key_of(self, value: Any) -> str | None:
        """The top-level name that a reference stands for."""
        while isinstance(value, Ref) and (match := _REF.fullmatch(value.text)) and not match[2]:
            key, value = match[1], self.values.get(match[1])
            if not isinstance(value, Ref):
                return key
        return None

    def expect(self, given: Mapping[str, Any], key: str, **expected: object) -> None:
        """Refuse arguments with values other than these."""
        for name, value in expected.items():
            if given[name] != value:
                raise self.error(f"{key}.{name} is {given[name]!r}: only {value!r} is understood")

    @staticmethod
    def named(key: str, name: str) -> str:
        """The name of an argument for messages; `key` is empty for a top-level setting."""
        return f"{key}.{name}" if key else name

    def integer(self, given: Mapping[str, Any], key: str, name: str) -> int:
        """The whole number of an argument."""
        value = self.number(given, key, name)
        if value != int(value):
            raise self.error(f"{self.named(key, name)} is {value}: it must be a whole number")
        return int(value)

    def number(self, given: Mapping[str, Any], key: str, name: str) -> float:
        """The number of an argument."""
        value = self.resolved(given[name], self.named(key, name))
        if isinstance(value, str):  # YAML 1.1 reads 1.e-8 as a string
            try:
                value = float(value)
            except ValueError:
                value = None
        # `not <=` and not `>`, since NaN is neither.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _MAX_NUMBER:
            raise self.error(f"{self.named(key, name)} is {given[name]!r}: it must be a number")
        return value

    def integers(self, given: Mapping[str, Any], key: str, name: str) -> tuple[int, ...]:
        """Whole numbers, as a YAML list or as SpeechBrain writes tuples: (128, 256)."""
        value = given[name]
        if isinstance(value, str) and len(value) < 200:
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value)
        values = [value] if isinstance(value, int) else value
        if not isinstance(values, (list, tuple)) or not all(isinstance(n, int) for n in values) or not values:
            raise self.error(f"{key}.{name} is {given[name]!r}: it must be whole numbers")
        return tuple(values)

    def _follow(self, ref: Ref, where: str) -> Any:
        if match := _REF.fullmatch(ref.text):
            return self._named(match, where)
        if not _REF.search(ref.text) or re.search(r">\s*[-+*/%]|[-+*/%]\s*<", ref.text.replace(">/", ">")):
            raise self.error(f"{where} is !ref {ref.text}, which is not understood")
        return _REF.sub(lambda match: str(self.resolved(self._named(match, where), where)), ref.text)

    def _named(self, match: re.Match[str], where: str) -> Any:
        value: Any = self.values
        for key in (match[1], *re.findall(r"\w+", match[2])):
            value = self.resolved(value, where)
            value = value.arguments if isinstance(value, Call) else value
            if not isinstance(value, dict) or key not in value:
                raise self.error(f"{where} refers to <{match[1]}{match[2]}>, which is not there")
            value = value[key]
        return value


def _read(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain data, with our values for tags."""

    def tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
        kind, _, target = tag.partition(":")
        if kind in _CALLS and target:
            return Call(target, _plain(loader, node))
        if kind == "ref":
            return Ref(str(_plain(loader, node)))
        return _plain(loader, node) if kind == "tuple" else Tagged(f"!{tag}")

    Loader.add_multi_constructor("!", tagged)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: larger than any file of hyper-parameters")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not YAML that can be read: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CheckpointError(f"{path}: not a table of hyper-parameters")
    return found


def _plain(loader: Any, node: Any) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) or None
