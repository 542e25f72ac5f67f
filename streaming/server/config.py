"""Settings of a server: its address, its model, access control, and limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from asr.audio.waveform import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from asr.config import require
from asr.writing.hotwords import Hotwords
from streaming.engine import StreamConfig

__all__ = ["ServerConfig", "ServerLimits"]

_HOST = re.compile(r"\*|[\w.-]+", re.ASCII)
# The form sent by browsers, without a path: a trailing slash would never match.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")


@dataclass(frozen=True)
class ServerLimits:
    """Limits for one client, and for all clients together."""

    max_connections: int = 1000  # of all protocols, idle ones included
    max_sessions: int = 100  # streams at the same time
    load_share: float = 0.9  # new streams are refused when the latency exceeds this share of a chunk's length
    max_message_bytes: int = 1 << 20  # bytes of one WebSocket message
    max_upload_bytes: int = 256 << 20  # bytes of one request's body
    max_uploads: int = 8  # requests with a body at the same time
    max_upload_seconds: float = 600.0  # time to receive a request's body
    max_stream_seconds: float = 4 * 3600.0  # audio in one stream or file
    max_behind_seconds: float = 10.0  # audio of one stream that waits for the engine
    max_hotwords: int = 1000  # phrases of one client
    max_events: int = 256  # events of one stream that wait for the client
    idle_seconds: float = 60.0  # a client that sends nothing for this time is dropped
    send_seconds: float = 10.0  # a client that reads nothing for this time is dropped

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_sessions", "max_message_bytes", "max_upload_bytes", "max_uploads"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("max_upload_seconds", "max_stream_seconds", "max_events", "idle_seconds", "send_seconds"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.max_hotwords >= 0, "max_hotwords", self.max_hotwords, "at least 0")
        require(self.load_share > 0, "load_share", self.load_share, "positive")
        require(self.max_behind_seconds >= 1, "max_behind_seconds", self.max_behind_seconds, "at least 1")


@dataclass(frozen=True)
class ServerConfig:
    """A server's settings."""

    host: str = "127.0.0.1"
    port: int = 2700
    model: str = "default"
    language: str = "en"  # of the model, as ISO 639-1; requests for another are refused
    device: str = "auto"
    threads: int = 1  # on a CPU; each steps a share of the streams
    api_key: str | None = None  # None: no key is needed
    cors: tuple[str, ...] = ()  # origins whose pages may use the server; "*" for all
    allow_hosts: tuple[str, ...] = ()  # host names that requests may use; "*" for all
    wyoming_port: int | None = None
    sample_rate: int = 8000  # in Hz, of WebSocket clients that send none, as with vosk-server
    grace_seconds: float = 10.0  # time for streams to finish when the server is stopped
    limits: ServerLimits = field(default_factory=ServerLimits)
    stream: StreamConfig = field(default_factory=StreamConfig)
    hotwords: Hotwords | None = None  # of all clients, besides their own

    def __post_init__(self) -> None:
        require(self.threads > 0, "threads", self.threads, "positive")
        require(0 <= self.port < 65536, "port", self.port, "in 0..65535")
        require(len(self.language) == 2 and self.language.islower(), "language", self.language, "two letters, as en")
        require(self.api_key is None or bool(self.api_key), "api_key", "", "not empty")
        for origin in self.cors:
            require(bool(_ORIGIN.fullmatch(origin)), "cors", origin, "an origin, as https://example.org, or *")
        for name in self.allow_hosts:
            require(bool(_HOST.fullmatch(name)), "allow_hosts", name, "a name, as speech.example.org, or *")
        clash = self.wyoming_port is not None and self.wyoming_port == self.port
        require(not clash, "wyoming_port", self.wyoming_port, "another than port")
        bounds = f"in {MIN_SAMPLE_RATE}..{MAX_SAMPLE_RATE}"
        require(MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE, "sample_rate", self.sample_rate, bounds)
        require(self.grace_seconds >= 0, "grace_seconds", self.grace_seconds, "at least 0")

    @property
    def model_name(self) -> str:
        """The model's name for clients: that of its folder."""
        return Path(self.model).resolve().name
