"""The Wyoming protocol (https://github.com/OHF-Voice/wyoming), which Home Assistant uses: JSON lines and PCM over TCP.

The library defines the events. They are parsed here, because anyone who can reach the port may send anything, and the
library sets no bounds. The protocol has neither keys nor encryption: it is for trusted networks only.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import torch
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

import asr
from asr.audio import pcm
from asr.errors import ConfigError, SpellstreamError
from asr.writing.hotwords import Hotwords
from streaming.events import Final
from streaming.server.errors import LimitError, OverloadError
from streaming.server.service import Service, Stream

__all__ = ["serving"]

_LOG = logging.getLogger(__name__)
_LINE_BYTES = 1 << 16  # of a header line, and of the JSON data behind it
_MAX_CHANNELS = 32
_LINGER_SECONDS = 1.0
_TERM_WEIGHT = 0.5  # in the protocol, terms matter less than names


class _ProtocolError(SpellstreamError):
    """A client broke the protocol: it gets the error, and its connection is closed."""


class _Format(NamedTuple):
    """A PCM format: sample rate in Hz, bytes of a sample, channels."""

    rate: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.rate} Hz, width {self.width}, channels {self.channels}"


@asynccontextmanager
async def serving(service: Service, host: str, port: int) -> AsyncIterator[None]:
    """Serve clients while this is open; at the end the port and all connections are closed.

    Raises:
        ConfigError: the server cannot listen on the port.
    """
    connections: set[asyncio.Task[None]] = set()
    service.connections.add_group(connections)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if service.connections.full:
            service.connections.refused()
            writer.transport.abort()
            return
        connection = asyncio.create_task(_Connection(service, reader, writer).run())
        connections.add(connection)
        connection.add_done_callback(connections.discard)

    try:
        server = await asyncio.start_server(connected, host, port, limit=_LINE_BYTES)
    except OSError as error:
        raise ConfigError(f"wyoming: cannot listen on {host}:{port}: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class _Connection:
    """One client."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service, self._reader, self._writer = service, reader, writer
        self._limits = service.limits
        self._hotwords: Hotwords | None = None

    async def run(self) -> None:
        """Serve until either side ends the connection; errors are sent to the client."""
        try:
            while (event := await self._read()) is not None:
                if AudioStart.is_type(event.type):
                    await self._transcribe(_format(event))
                elif AudioChunk.is_type(event.type):  # some clients send no audio-start; a chunk gives the format, too
                    await self._transcribe(_format(event), event)
                elif AudioStop.is_type(event.type):
                    await self._write_empty()
                else:
                    await self._answer(event)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            self._writer.transport.abort()  # the client disconnected, sends nothing, or does not read
        except OverloadError as error:
            await self._refuse(str(error), "overloaded")
        except SpellstreamError as error:
            await self._refuse(str(error), "refused")
        except Exception:
            _LOG.exception("a Wyoming client was dropped because of a fault of the server")
            await self._refuse("the server failed to continue this stream", "failed")
        finally:
            self._writer.close()
        try:  # the connection counts until it is closed, and a client that does not read would prevent that
            await asyncio.wait_for(self._writer.wait_closed(), self._limits.send_seconds)
        except (OSError, asyncio.TimeoutError):
            self._writer.transport.abort()

    async def _answer(self, event: Event) -> None:
        """Answer events that are not audio; unknown ones are ignored, as the protocol demands."""
        if Describe.is_type(event.type):
            await self._write(_info(self._service))
        elif Ping.is_type(event.type):
            text = event.data.get("text")
            await self._write(Pong(text if isinstance(text, str) else None))
        elif Transcribe.is_type(event.type):
            language, known = event.data.get("language"), self._service.config.language
            if language and str(language).lower().replace("_", "-").partition("-")[0] != known:
                raise _ProtocolError(f"language is {str(language)[:40]!r}: the model supports only {known!r}")
            self._hotwords = await self._service.hotwords(_phrases(event), lenient=True)

    async def _transcribe(self, audio: _Format, first: Event | None = None) -> None:
        """Recognise one stream of audio, which may begin with a chunk, and send its transcript."""
        style = self._service.config.stream.style
        async with self._service.stream(audio.rate, kind="wyoming", hotwords=self._hotwords, style=style) as stream:
            telling = asyncio.create_task(self._tell(stream))
            hearing = asyncio.create_task(self._hear(stream, audio, first))
            stopping = asyncio.create_task(self._stop(stream, hearing))
            try:
                # If one fails, the other is cancelled.
                await asyncio.wait((telling, hearing), return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for task in (stopping, hearing, telling):
                    task.cancel()
                ends = await asyncio.gather(stopping, hearing, telling, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception):
                    raise end

    async def _stop(self, stream: Stream, hearing: asyncio.Task[None]) -> None:
        """End the audio if the server is being stopped; the transcript so far is still sent."""
        await self._service.stop.requested.wait()
        hearing.cancel()
        stream.finish()

    async def _hear(self, stream: Stream, audio: _Format, first: Event | None) -> None:
        """Push the client's audio to the stream until its audio-stop."""
        downmix, state = pcm.Downmix(audio.rate, audio.channels), pcm.DownmixState.start(audio.channels)
        leftover = b""
        event = first or await self._read_in_stream()

        while event is not None and not AudioStop.is_type(event.type):
            if AudioStart.is_type(event.type):
                raise _ProtocolError("an audio-start came before the audio-stop of the previous stream")
            if AudioChunk.is_type(event.type):
                if (found := _format(event)) != audio:
                    raise _ProtocolError(f"the format changed within a stream: {found} after {audio}")
                data = leftover + (event.payload or b"")
                frames, leftover = pcm.decode(data, pcm.INTEGER_ENCODINGS[audio.width], audio.channels)
                mono, state = downmix.step(frames, state)
                await stream.push(torch.from_numpy(mono))
            else:
                await self._answer(event)
            event = await self._read_in_stream()

        if event is None:
            raise ConnectionResetError
        await stream.push(torch.from_numpy(downmix.flush(state)))
        stream.finish()

    async def _tell(self, stream: Stream) -> None:
        """Send words as they are committed, or with each segment in the written style; at the end the transcript."""
        await self._write(TranscriptStart())
        finished = sent = ""
        async for event in stream.events():
            if isinstance(event, Final):
                now = event.text
            elif event.written is None:
                now = " ".join(word.text for word in event.committed)
            else:  # capitals and marks may still change, but sent text cannot
                now = ""
            text = f"{finished} {now}".strip()
            if isinstance(event, Final):
                finished = text
            if len(text) > len(sent):
                await self._write(TranscriptChunk(text[len(sent) :]))
                sent = text
        await self._write(Transcript(finished, language=self._service.config.language))
        await self._write(TranscriptStop())

    async def _write_empty(self) -> None:
        """Answer an audio-stop without audio: a client would wait forever for a transcript."""
        await self._write(TranscriptStart())
        await self._write(Transcript("", language=self._service.config.language))
        await self._write(TranscriptStop())

    async def _read(self) -> Event | None:
        """The next event, within `idle_seconds`; None when the client has disconnected."""
        return await asyncio.wait_for(
            _read_event(self._reader, self._limits.max_message_bytes), self._limits.idle_seconds
        )

    async def _read_in_stream(self) -> Event | None:
        """As `_read`; a timeout raises a LimitError, so that the client gets the reason and the stream is counted."""
        try:
            return await self._read()
        except asyncio.TimeoutError:
            seconds = self._limits.idle_seconds
            raise LimitError(f"nothing was received for {seconds:g} s", "idle_seconds") from None

    async def _write(self, event: Eventable) -> None:
        await asyncio.wait_for(async_write_event(event.event(), self._writer), self._limits.send_seconds)

    async def _refuse(self, message: str, code: str) -> None:
        """Send an error, then keep reading for a moment: closing at once could reset the connection first."""
        try:
            await self._write(Error(message, code))
            self._writer.write_eof()
            await asyncio.wait_for(self._discard(), _LINGER_SECONDS)
        except (OSError, asyncio.TimeoutError):
            self._writer.transport.abort()

    async def _discard(self) -> None:
        while await self._reader.read(_LINE_BYTES):
            pass


async def _read_event(reader: asyncio.StreamReader, max_payload_bytes: int) -> Event | None:
    """Read an event as `wyoming.event.async_read_event` does, with bounded lengths and checked types.

    Raises:
        IncompleteReadError: the client disconnected within an event.
        _ProtocolError: the event is malformed.
    """
    try:
        line = await reader.readline()
    except ValueError:
        raise _ProtocolError(f"a header is longer than {_LINE_BYTES} bytes") from None
    if not line:
        return None
    header = _json(line, "a header")
    kind, data = header.get("type"), header.get("data") or {}
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise _ProtocolError("a header has no type, or its data is not an object")
    if length := _length(header, "data_length", _LINE_BYTES):
        data = {**data, **_json(await reader.readexactly(length), "the data of an event")}
    payload = None
    if length := _length(header, "payload_length", max_payload_bytes):
        payload = await reader.readexactly(length)
    return Event(kind, data, payload)


def _json(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _ProtocolError(f"{what} is not a JSON object")
    return value


def _length(header: dict[str, Any], name: str, bound: int) -> int:
    value = header.get(name) or 0
    if type(value) is not int or not 0 <= value <= bound:
        raise _ProtocolError(f"{name} is not a number from 0 to {bound}")
    return value


def _phrases(event: Event) -> list[str]:
    """The names and terms of a transcribe event."""
    names, terms = (event.data.get(field) or [] for field in ("transcript_names", "transcript_terms"))
    for found in (names, terms):
        if not isinstance(found, list) or not all(isinstance(phrase, str) for phrase in found):
            raise _ProtocolError("transcript_names and transcript_terms must be lists of strings")
    return [*(f"{name}:1" for name in names), *(f"{term}:{_TERM_WEIGHT}" for term in terms)]


def _format(event: Event) -> _Format:
    """The format in an audio-start or audio-chunk; the engine checks the sample rate."""
    rate, width, channels = (event.data.get(name) for name in _Format._fields)
    if type(rate) is not int or type(width) is not int or type(channels) is not int:
        raise _ProtocolError(f"{event.type} must have rate, width and channels, as integers")
    if not 1 <= width <= 4 or not 1 <= channels <= _MAX_CHANNELS:
        raise _ProtocolError(f"{event.type}: width must be 1 to 4 bytes, channels 1 to {_MAX_CHANNELS}")
    return _Format(rate, width, channels)


def _info(service: Service) -> Info:
    name, language = service.config.model_name, service.config.language
    maker = Attribution("Spellstream", _project_url())
    about: dict[str, Any] = {"attribution": maker, "installed": True, "version": asr.__version__}
    model = AsrModel(name, description=f"{name} ({language})", languages=[language], **about)
    program = AsrProgram(
        "spellstream",
        description="Streaming speech recognition",
        models=[model],
        supports_transcript_streaming=True,
        **about,
    )
    return Info(asr=[program])


@cache
def _project_url() -> str:
    """The project's URL in the metadata of the installed package; "" if there is none."""
    try:
        about = metadata.metadata("spellstream")
    except metadata.PackageNotFoundError:
        return ""
    urls = (entry.partition(",")[2].strip() for entry in about.get_all("Project-URL", []))
    return next(urls, "")
