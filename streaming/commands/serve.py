"""`spellstream serve`, added to the command as a plugin."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands import options as shared
from asr.commands.groups import grouped
from asr.config import usable_cores
from asr.errors import ConfigError, SpellstreamError
from asr.terminal import say
from streaming.commands.options import StreamOptions, make_engine

if TYPE_CHECKING:
    from streaming.engine import Engine
    from streaming.server.config import ServerConfig

__all__ = ["register"]

KEY_VARIABLE = "SPELLSTREAM_API_KEY"

_ACCESS, _LIMITS, _OTHER = "Access", "ServerLimits", "Other clients and logs"


class LogFormatName(str, Enum):
    """How logs are written."""

    text = "text"
    json = "json"


Host = Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 or :: for all that this machine has.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")]
ApiKeyVariable = Annotated[
    str,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="The environment variable that holds the API key; if it is not set, nobody is asked for one.",
        rich_help_panel=_ACCESS,
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Pages from here may use the server, as https://example.org; * for all. May be given again.",
        rich_help_panel=_ACCESS,
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A name by which clients or a proxy ask for it; * for any. Without this option a server on localhost that "
        "asks for no key answers to localhost and addresses alone. May be given again.",
        rich_help_panel=_ACCESS,
    ),
]
MaxSessions = Annotated[int, typer.Option(min=1, help="Streams at a time.", rich_help_panel=_LIMITS)]
LoadShare = Annotated[
    float,
    typer.Option(
        min=0.01,
        help="New streams are refused when words would come later than this share of a chunk's length.",
        rich_help_panel=_LIMITS,
    ),
]
MaxConnections = Annotated[int, typer.Option(min=1, help="Of all kinds, idle ones too.", rich_help_panel=_LIMITS)]
MaxUploadMb = Annotated[int, typer.Option(min=1, help="Size of a file.", rich_help_panel=_LIMITS)]
MaxUploadSeconds = Annotated[float, typer.Option(min=1, help="For a file to come.", rich_help_panel=_LIMITS)]
MaxUploads = Annotated[int, typer.Option(min=1, help="Files at a time.", rich_help_panel=_LIMITS)]
MaxStreamSeconds = Annotated[float, typer.Option(min=1, help="Audio in one stream or file.", rich_help_panel=_LIMITS)]
IdleSeconds = Annotated[
    float, typer.Option(min=1, help="A client that sends nothing for so long is dropped.", rich_help_panel=_LIMITS)
]
GraceSeconds = Annotated[
    float, typer.Option(min=0, help="For streams to finish when the server is stopped.", rich_help_panel=_LIMITS)
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of the CPU; all but one if not given.", rich_help_panel="Model")
]
Language = Annotated[
    str,
    typer.Option(metavar="CODE", help="The model's, as ISO 639-1: files and speech in another are refused."),
]
Wyoming = Annotated[
    int | None,
    typer.Option(
        metavar="PORT", min=1, max=65535, help="Serve Home Assistant here, without a key.", rich_help_panel=_OTHER
    ),
]
SampleRate = Annotated[
    int, typer.Option(min=1000, help="Of WebSocket clients that do not tell theirs, in Hz.", rich_help_panel=_OTHER)
]
Alternatives = Annotated[
    int,
    typer.Option(min=1, help="So many WebSocket clients may have of each result.", rich_help_panel=_OTHER),
]
LogFormat = Annotated[LogFormatName, typer.Option("--log-format", help="json: a line each.", rich_help_panel=_OTHER)]


@dataclass(frozen=True)
class ServeModelOptions(shared.ModelOptions):
    """The model and where it runs, on all cores but one unless told otherwise."""

    threads: Threads = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


@grouped
def serve(
    model: ServeModelOptions,
    streams: StreamOptions,
    host: Host = "127.0.0.1",
    port: Port = 2700,
    language: Language = "en",
    lm_weight: shared.LmWeight = None,
    api_key_env: ApiKeyVariable = KEY_VARIABLE,
    cors: Cors = None,
    allow_host: AllowHost = None,
    max_sessions: MaxSessions = 100,
    load_share: LoadShare = 0.5,
    max_connections: MaxConnections = 1000,
    max_upload_mb: MaxUploadMb = 256,
    max_uploads: MaxUploads = 8,
    max_upload_seconds: MaxUploadSeconds = 600.0,
    max_stream_seconds: MaxStreamSeconds = 14_400.0,
    idle_seconds: IdleSeconds = 60.0,
    grace_seconds: GraceSeconds = 10.0,
    wyoming: Wyoming = None,
    sample_rate: SampleRate = 8000,
    alternatives: Alternatives = 1,
    log_format: LogFormat = LogFormatName.text,
) -> None:
    """Recognise speech for clients: vosk-server WebSocket at /, OpenAI-compatible HTTP at /v1, a page at /ui.

    All share one model. Ctrl-C or SIGTERM lets open streams finish; a second Ctrl-C does not.

    Examples:
      spellstream serve
      spellstream serve --host 0.0.0.0 --port 8080 --cors https://example.org --log-format json
      SPELLSTREAM_API_KEY=secret spellstream serve --max-sessions 40 --wyoming 10300
    """
    with shared.extra("serve"):
        import streaming.server.app  # noqa: F401 - what is missing is to be known before a model is loaded
        from streaming.server.config import ServerConfig, ServerLimits

    with shared.usage():
        limits = ServerLimits(
            max_connections=max_connections,
            max_sessions=max_sessions,
            load_share=load_share,
            max_upload_bytes=max_upload_mb << 20,
            max_uploads=max_uploads,
            max_upload_seconds=max_upload_seconds,
            max_stream_seconds=max_stream_seconds,
            idle_seconds=idle_seconds,
        )
        config = ServerConfig(
            host=host,
            port=port,
            model=model.model,
            language=language,
            device=model.device.value,
            api_key=_api_key(api_key_env),
            cors=tuple(cors or ()),
            allow_hosts=tuple(allow_host or ()),
            wyoming_port=wyoming,
            sample_rate=sample_rate,
            grace_seconds=grace_seconds,
            limits=limits,
            stream=replace(
                streams.config(),
                alternatives=alternatives,
            ),
        )

    def engine() -> Engine:
        # Threads of a product wait for each other, and all for one whose core is busy with the network: with as many as
        # there are cores, fewer streams are held.
        most = max(1, usable_cores() - 1)
        chosen = replace(model, threads=model.threads or most)
        return make_engine(chosen, lm_weight, streams, config.stream)

    _run(config, engine, log_format.value)


def _run(config: ServerConfig, make_engine: Callable[[], Engine], log_format: str) -> None:
    """Bind first, so that a port that is taken is known before a model is loaded; then serve until stopped."""
    from streaming.server.app import create_app
    from streaming.server.logs import configure
    from streaming.server.run import Server, listen

    configure("json" if log_format == "json" else "text")
    if config.wyoming_port is not None:
        listen(config.host, config.wyoming_port).close()
    with listen(config.host, config.port) as listener:
        engine = make_engine()
        address = f"[{config.host}]" if ":" in config.host else config.host
        say(f"http://{address}:{listener.getsockname()[1]}/ui; WebSocket at /, OpenAI API at /v1; Ctrl-C stops")
        app = create_app(config, engine)
        server = Server(app, config)
        server.run([listener])
    if app.state.service.at_work_seconds:
        # The engine hangs. Before it exits, Python would wait for that thread for ever.
        with suppress(OSError):
            say("the engine hangs: the server ends without it")
        os._exit(1)
    if server.failed:
        raise SpellstreamError("the server has ended for a fault of its own: see its log")


def _api_key(variable: str) -> str | None:
    """The key in an environment variable; that it is set, but empty, is more likely a mistake than meant."""
    key = os.environ.get(variable)
    if key is not None and not key.strip():
        raise ConfigError(f"{variable} is set, but empty: unset it to let everybody in")
    return None if key is None else key.strip()
