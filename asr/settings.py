"""Settings: frozen dataclasses that check themselves, and their conversion to plain data and back.

An unknown or missing key, a wrong type or a value out of bounds raises a `ConfigError` that names the setting.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar

from asr.errors import ConfigError

__all__ = ["choices", "from_dict", "require", "to_dict"]

ConfigT = TypeVar("ConfigT")


def require(condition: bool, name: str, value: object, bound: str) -> None:
    """Raise a ConfigError with the setting's name, value and bound unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}: it must be {bound}")


def choices(config: Any, name: str) -> None:
    """Check that a Literal field of a dataclass has one of the annotated values."""
    allowed = typing.get_args(typing.get_type_hints(type(config))[name])
    require(getattr(config, name) in allowed, name, getattr(config, name), f"one of {', '.join(map(str, allowed))}")


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to plain data for `json.dumps`."""
    return dataclasses.asdict(config)


def from_dict(cls: type[ConfigT], data: Any, where: str = "config") -> ConfigT:
    """Build the dataclass `cls` from plain data, checking every name and type.

    Args:
        cls: a frozen dataclass of `asr/config.py`, or another with the same types of fields.
        data: output of `to_dict`, or the content of a JSON or TOML file.
        where: prefix of setting names in error messages.

    Raises:
        ConfigError: unknown or missing setting, wrong type, or value out of bounds.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {data!r}: it must be a table of settings")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            raise ConfigError(f"{where}.{name} is not a setting; there are {', '.join(fields)}")
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        require(value in arguments, where, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}: it must be a list")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        require(math.isfinite(number), where, number, "a finite number")  # Python's JSON knows NaN and Infinity
        return number
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}: it must be of type {hint.__name__}")
    return value
