"""Edits that change the content of a text field to the desired text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Delete", "Edit", "Press", "Type", "edits_between"]

_KEYS: dict[str, Literal["Return", "Tab"]] = {"\n": "Return", "\t": "Tab"}


@dataclass(frozen=True)
class Type:
    """Type text, which holds no control characters."""

    text: str


@dataclass(frozen=True)
class Press:
    """Press a key."""

    key: Literal["Return", "Tab"]


@dataclass(frozen=True)
class Delete:
    """Delete `count` characters before the cursor."""

    count: int


Edit: TypeAlias = Type | Press | Delete


def edits_between(old: str, new: str) -> list[Edit]:
    """The edits, with the cursor at the end of `old`, that give `new`; the common prefix stays."""
    kept = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    while kept > 0 and any(unicodedata.combining(text[kept]) for text in (old, new) if kept < len(text)):
        kept -= 1  # an accent stays with its letter
    edits: list[Edit] = [Delete(len(old) - kept)] if len(old) > kept else []
    parts = filter(None, re.split(r"([\n\t])", new[kept:]))
    return [*edits, *(Press(_KEYS[part]) if part in _KEYS else Type(part) for part in parts)]
