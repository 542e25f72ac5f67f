"""Every error that Spellstream raises on purpose.

One tree, so that a caller can catch `SpellstreamError` and be sure to have them all. The message is one line that
names the file or id, the value that was found and the bound it broke: it is what the command line prints.
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
    "SourceError",
    "SpellstreamError",
    "TokenizerError",
    "TrainingError",
]


class SpellstreamError(Exception):
    """The root of the tree; never raised itself."""


class ConfigError(SpellstreamError):
    """A setting is missing, unknown, of the wrong type or out of its bounds."""


class AudioError(SpellstreamError):
    """A source could not be turned into a waveform.

    Args:
        source: what was being read, as the user would name it (a path, "standard input", "array").
        reason: why it could not be read, in a few words.
    """

    def __init__(self, source: object, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        # Exceptions with several arguments do not survive the pickling that worker processes use without this.
        return type(self), (self.source, self.reason)


class SourceError(AudioError):
    """A live source went away while it was being listened to; what came before was delivered."""


class DataError(SpellstreamError):
    """A manifest, transcript or corpus is broken; names the file and line or the utterance id."""


class TokenizerError(SpellstreamError):
    """A tokenizer could not be trained or read, or text could not be encoded."""


class CheckpointError(SpellstreamError):
    """A model folder is missing, incomplete, or does not fit its own config."""


class TrainingError(SpellstreamError):
    """A training run cannot go on."""


class DeviceError(SpellstreamError):
    """The asked-for device is not there or cannot run what was asked."""


class ClusterError(SpellstreamError):
    """A cluster cannot be reached, has no room, or went away; what was finished by then is kept."""


class DependencyError(SpellstreamError):
    """An optional package or system library is missing; the message says what to install."""
