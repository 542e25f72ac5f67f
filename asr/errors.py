"""The exceptions that Spellstream raises on purpose, all of them subclasses of `SpellstreamError`.

A message is one line that names the file or id, the value found and the bound violated; the command line prints it
unchanged.
"""

from __future__ import annotations

__all__ = [
    "AudioError",
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "DependencyError",
    "DeviceError",
    "HubError",
    "SourceError",
    "SpellstreamError",
    "TokenizerError",
    "TrainingError",
]


class SpellstreamError(Exception):
    """The base class; raised itself only where no subclass fits."""


class ConfigError(SpellstreamError):
    """A setting is missing, unknown, of the wrong type or out of bounds."""


class AudioError(SpellstreamError):
    """A source cannot be decoded.

    Args:
        source: name of the source as users know it (a path, "standard input", "array").
        reason: why it cannot be decoded, in a few words.
    """

    def __init__(self, source: object, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        # Without this, exceptions with several arguments cannot be pickled by worker processes.
        return type(self), (self.source, self.reason)


class SourceError(AudioError):
    """A live source was lost while listening; the audio before that was delivered."""


class DataError(SpellstreamError):
    """A manifest, transcript or corpus cannot be read or written; names the file and line, or the utterance id."""


class TokenizerError(SpellstreamError):
    """A tokenizer cannot be trained or read, or text cannot be encoded."""


class CheckpointError(SpellstreamError):
    """A model folder is missing or incomplete, or does not match its own config."""


class HubError(SpellstreamError):
    """A repository of models cannot be reached or is refused, or one of its files has a wrong checksum."""


class TrainingError(SpellstreamError):
    """A training run cannot continue."""


class DeviceError(SpellstreamError):
    """The requested device is missing, or cannot run what was requested."""


class ClusterError(SpellstreamError):
    """A cluster cannot be reached, has no room, or was lost; results so far are kept."""


class DependencyError(SpellstreamError):
    """An optional package or system library is missing; the message names what to install."""
