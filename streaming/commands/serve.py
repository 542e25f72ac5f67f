"""`spellstream serve`, added to the command as a plugin."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asr.commands import options as shared
from asr.commands.groups import grouped
from asr.config import usable_cores
from asr.errors import ConfigError, SpellstreamError
from asr.terminal import loading, say
from streaming.commands.options import StreamOptions, StyleOption, make_engine

if TYPE_CHECKING:
    from streaming.engine import Engine
    from streaming.server.config import ServerConfig, ServerLimits

__all__ = ["register"]

KEY_VARIABLE = "SPELLSTREAM_API_KEY"

_MOST_THREADS = 4  # by default: each takes the memory of a model, and larger batches cost less
_ACCESS, _LIMITS, _OTHER = "Access", "Limits", "Other clients and logs"


# --- options ----------------------------------------------------------------------------------------------------------

Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 or :: for all addresses of this machine.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0: any free one.")]
Language = Annotated[
    str, typer.Option(metavar="CODE", help="The model's language (ISO 639-1); requests for another are refused.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"CPU cores to use; with several, each has a process that steps a share of the streams and decodes files. "
        f"All cores by default, at most {_MOST_THREADS}.",
        rich_help_panel="Model",
    ),
]

ApiKeyVariable = Annotated[
    str,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="Environment variable that holds the API key. If it is not set, no key is needed.",
        rich_help_panel=_ACCESS,
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Web origin whose pages may use the server, such as https://example.org; * for all. Repeatable.",
        rich_help_panel=_ACCESS,
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Host name that requests may use; * for all. By default a server bound to localhost without a key accepts "
        "localhost and IP addresses; any other server accepts all names. Repeatable.",
        rich_help_panel=_ACCESS,
    ),
]

MaxSessions = Annotated[int, typer.Option(min=1, help="Concurrent streams.", rich_help_panel=_LIMITS)]
LoadShare = Annotated[
    float,
    typer.Option(
        min=0.01,
        metavar="SHARE",
        help="Refuse new streams when the p95 latency exceeds this share of a chunk's length. A smaller share admits "
        "fewer streams, with less delay.",
        rich_help_panel=_LIMITS,
    ),
]
MaxConnections = Annotated[
    int, typer.Option(min=1, help="Concurrent connections, including idle ones.", rich_help_panel=_LIMITS)
]
MaxUploadMb = Annotated[int, typer.Option(min=1, metavar="MB", help="Size of an upload.", rich_help_panel=_LIMITS)]
MaxUploads = Annotated[int, typer.Option(min=1, help="Concurrent uploads.", rich_help_panel=_LIMITS)]
MaxUploadSeconds = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="Time to receive an upload.", rich_help_panel=_LIMITS)
]
MaxStreamSeconds = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="Audio in one stream or file.", rich_help_panel=_LIMITS)
]
IdleSeconds = Annotated[
    float,
    typer.Option(
        min=1, metavar="SECONDS", help="Drop a client that sends nothing for this time.", rich_help_panel=_LIMITS
    ),
]
GraceSeconds = Annotated[
    float,
    typer.Option(
        min=0, metavar="SECONDS", help="Time for streams to finish when the server stops.", rich_help_panel=_LIMITS
    ),
]

Wyoming = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=1,
        max=65535,
        help="Also serve the Wyoming protocol (Home Assistant) on this port, without an API key.",
        rich_help_panel=_OTHER,
    ),
]
SampleRate = Annotated[
    int,
    typer.Option(
        min=1000, metavar="HZ", help="Sample rate of WebSocket clients that do not send one.", rich_help_panel=_OTHER
    ),
]
Alternatives = Annotated[
    int,
    typer.Option(
        min=1, help="Maximum number of alternatives that WebSocket clients may request.", rich_help_panel=_OTHER
    ),
]
LogFormatName = Literal["text", "json"]
LogFormat = Annotated[LogFormatName, typer.Option("--log-format", help="Format of the log.", rich_help_panel=_OTHER)]


@dataclass(frozen=True)
class ServeModelOptions(shared.ModelOptions):
    """The model and where it runs; several threads divide the streams."""

    threads: Threads = None


@dataclass(frozen=True)
class AccessOptions:
    """Who may use the server."""

    api_key_env: ApiKeyVariable = KEY_VARIABLE
    cors: Cors = None
    allow_host: AllowHost = None

    def api_key(self) -> str | None:
        """The key in the environment variable.

        Raises:
            ConfigError: it is set but empty, which is probably a mistake.
        """
        key = os.environ.get(self.api_key_env)
        if key is not None and not key.strip():
            raise ConfigError(f"{self.api_key_env} is set, but empty: unset it to serve without a key")
        return None if key is None else key.strip()


@dataclass(frozen=True)
class LimitOptions:
    """Limits for one client and for all."""

    max_sessions: MaxSessions = 100
    load_share: LoadShare = 0.9
    max_connections: MaxConnections = 1000
    max_upload_mb: MaxUploadMb = 256
    max_uploads: MaxUploads = 8
    max_upload_seconds: MaxUploadSeconds = 600.0
    max_stream_seconds: MaxStreamSeconds = 14_400.0
    idle_seconds: IdleSeconds = 60.0
    grace_seconds: GraceSeconds = 10.0

    def limits(self) -> ServerLimits:
        from streaming.server.config import ServerLimits

        return ServerLimits(
            max_connections=self.max_connections,
            max_sessions=self.max_sessions,
            load_share=self.load_share,
            max_upload_bytes=self.max_upload_mb << 20,
            max_uploads=self.max_uploads,
            max_upload_seconds=self.max_upload_seconds,
            max_stream_seconds=self.max_stream_seconds,
            idle_seconds=self.idle_seconds,
        )


# --- the command ------------------------------------------------------------------------------------------------------


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=shared.RECOGNITION)(serve)


@grouped
def serve(
    access: AccessOptions,
    model: ServeModelOptions,
    limits: LimitOptions,
    streams: StreamOptions,
    host: Host = "127.0.0.1",
    port: Port = 2700,
    language: Language = "en",
    dtype: shared.Dtype = "float32",
    lm_weight: shared.LmWeight = None,
    hotwords: shared.HotwordsOption = None,
    style: StyleOption = "written",
    wyoming: Wyoming = None,
    sample_rate: SampleRate = 8000,
    alternatives: Alternatives = 1,
    log_format: LogFormat = "text",
) -> None:
    """Serve speech recognition: a page at /ui, vosk-server's WebSocket at /, OpenAI-compatible HTTP at /v1.

    All clients share one model. Ctrl-C or SIGTERM lets open streams finish; a second Ctrl-C ends at once.

    Examples:
      spellstream serve
      spellstream serve --host 0.0.0.0 --port 8080 --cors https://example.org --log-format json
      SPELLSTREAM_API_KEY=secret spellstream serve --max-sessions 40 --wyoming 10300
    """
    loading(f"the model {model.model}")  # before the imports, which take seconds
    with shared.extra("serve"):
        import streaming.server.app  # noqa: F401 - a missing package must be reported before the model is loaded
        from streaming.server.config import ServerConfig

    with shared.usage():
        config = ServerConfig(
            host=host,
            port=port,
            model=model.model,
            language=language,
            device=model.device,
            threads=model.threads or min(usable_cores(), _MOST_THREADS),
            api_key=access.api_key(),
            cors=tuple(access.cors or ()),
            allow_hosts=tuple(access.allow_host or ()),
            wyoming_port=wyoming,
            sample_rate=sample_rate,
            grace_seconds=limits.grace_seconds,
            limits=limits.limits(),
            stream=replace(streams.config(style), alternatives=alternatives),
            hotwords=shared.hotwords_given(hotwords),
        )

    def engine() -> Engine:
        # PyTorch's threads for one operation wait for each other, and a core busy with the network delays all of them.
        # So each process of the server computes alone.
        alone = replace(model, threads=1)
        return make_engine(alone, lm_weight, streams, config.stream, config.hotwords, dtype)

    _run(config, engine, log_format)


def _run(config: ServerConfig, make_engine: Callable[[], Engine], log_format: LogFormatName) -> None:
    """Bind the ports, so that a port in use is reported before the model is loaded; then serve until stopped."""
    from streaming.server.app import create_app
    from streaming.server.logs import configure
    from streaming.server.run import Server, listen

    configure(log_format)
    if config.wyoming_port is not None:
        listen(config.host, config.wyoming_port).close()
    with listen(config.host, config.port) as listener:
        engine = make_engine()
        address = f"[{config.host}]" if ":" in config.host else config.host
        where = f"http://{address}:{listener.getsockname()[1]}/ui; WebSocket at /, OpenAI API at /v1; Ctrl-C stops"
        app = create_app(config, engine)
        server = Server(app, config, ready=lambda: say(where))
        server.run([listener])

    if app.state.service.workers.busy_seconds:
        # The engine hangs, and Python would wait for its thread forever at exit.
        with suppress(OSError):
            say("the engine hangs: the server exits without waiting for it")
        os._exit(1)
    if server.failed:
        raise SpellstreamError("the server ended because its engine failed: see the log")
