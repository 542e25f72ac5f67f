"""The WebSocket protocol of vosk-server (https://alphacephei.com/vosk/server), at `/`.

A client sends {"config": {...}}, then PCM. Each PCM message gets one answer, {"partial": ...} or a result. {"eof": 1}
ends the stream and gets the last result; {"reset": 1} only ends the open segment.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, get_args

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from asr.audio.waveform import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from asr.errors import AudioError, ConfigError, SpellstreamError
from asr.writing.hotwords import Hotwords
from asr.writing.parts import Style
from streaming.events import Event, Final, Partial
from streaming.server.access import BEARER
from streaming.server.errors import LimitError, OverloadError
from streaming.server.service import Service, Stream

__all__ = ["VoskConfig", "router"]

GOING_AWAY, BAD_DATA, POLICY, FAULT, TRY_AGAIN = 1001, 1007, 1008, 1011, 1013
_REASON_BYTES = 123  # of a close frame
_MAX_ALTERNATIVES = 100
_NOTHING = Partial((), (), 0.0)

Message: TypeAlias = "bytes | dict[str, Any]"


class ProtocolError(SpellstreamError):
    """A client sent a message that the protocol does not allow."""


@dataclass(frozen=True)
class VoskConfig:
    """A client's settings. `phrase_list` holds hotwords, each with an optional `:weight`; other words are found too.

    Two settings extend vosk-server's protocol. `style`: "written" gives capitals, punctuation and digits; clients of
    vosk-server expect "spoken" words in lower case. `live`: if the engine is late, the oldest audio is dropped instead
    of making the client wait, and each answer gives the total dropped so far.
    """

    sample_rate: int
    words: bool = True
    max_alternatives: int = 0
    phrase_list: tuple[str, ...] = ()
    live: bool = False
    style: Style = "spoken"

    def updated(self, given: object, model: str) -> VoskConfig:
        """Apply a config message; unknown settings are ignored, as vosk-server does.

        Raises:
            ProtocolError: a setting has an invalid value.
        """
        if not isinstance(given, dict):
            raise ProtocolError(f"config is {_shown(given)}: it must be an object")
        changes: dict[str, Any] = {}
        for name, value in given.items():
            if name == "sample_rate":
                changes[name] = _number(name, value, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)
            elif name in ("words", "live"):
                changes[name] = bool(_number(name, value, 0, 1))
            elif name == "max_alternatives":
                changes[name] = _number(name, value, 0, _MAX_ALTERNATIVES)
            elif name == "phrase_list":
                changes[name] = _phrases(value)
            elif name == "style":
                if value not in get_args(Style):
                    raise ProtocolError(f"style is {_shown(value)}: it must be written or spoken")
                changes[name] = value
            elif name == "model" and value != model:
                raise ProtocolError(f"the model is {model}: there is no {_shown(value)}")
        return replace(self, **changes)

    def partial(self, partial: Partial) -> dict[str, Any]:
        """The segment being spoken; for a live client, with the number of its committed words."""
        said: dict[str, Any] = {"partial": partial.text}
        return {**said, "committed": partial.settled_words} if self.live else said

    def result(self, finals: Sequence[Final]) -> dict[str, Any]:
        """The segments finished since the last result as one answer; {"text": ""} without any."""
        text = " ".join(final.text for final in finals if final.text)
        words = [
            {
                "conf": round(word.confidence, 6),
                "end": round(word.end_seconds, 3),
                "start": round(word.start_seconds, 3),
                "word": word.text,
            }
            for final in finals
            for word in final.segment.words
        ]
        said: dict[str, Any] = {"result": words} if self.words and words else {}
        said["text"] = text
        if not self.max_alternatives:
            return said
        best = {"confidence": sum(final.segment.score for final in finals), **said}
        # For several segments, the alternatives would be all combinations.
        others = finals[0].segment.alternatives[1 : self.max_alternatives] if len(finals) == 1 else ()
        return {"alternatives": [best, *({"confidence": other.score, "text": other.text} for other in others)]}


def router(service: Service) -> APIRouter:
    """The WebSocket at `/`."""
    routes = APIRouter()

    @routes.websocket("/")
    async def recognise(socket: WebSocket) -> None:
        asked = socket.scope.get("subprotocols", [])
        await socket.accept(BEARER if BEARER in asked else None)
        await _Client(service, socket).serve()

    return routes


class _Client:
    """One connection."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._config = VoskConfig(service.config.sample_rate)
        self._hotwords: Hotwords | None = None
        self._stream: Stream | None = None
        self._partial = _NOTHING

    async def serve(self) -> None:
        """Serve until either side ends the connection; errors are sent to the client."""
        draining = asyncio.ensure_future(self._service.stop.requested.wait())
        with self._service.stop.conversation():
            try:
                async with AsyncExitStack() as stack:
                    await self._talk(stack, draining)
            except WebSocketDisconnect:
                pass
            except (ProtocolError, AudioError) as error:
                await self._refuse(error, BAD_DATA)
            except OverloadError as error:
                await self._refuse(error, TRY_AGAIN)
            except LimitError as error:
                await self._refuse(error, POLICY)
            except SpellstreamError as error:
                await self._refuse(error, FAULT)
            finally:
                draining.cancel()

    async def _talk(self, stack: AsyncExitStack, draining: asyncio.Future[Any]) -> None:
        self._service.check_room()  # now, before the client begins to speak
        while True:
            message = await self._receive(draining)
            if message is None:
                await self._end()
                if not self._service.healthy:
                    raise SpellstreamError("the server has failed")
                return await self._close(GOING_AWAY, "the server is being stopped")
            if isinstance(message, bytes):
                await self._hear(message, stack)
            elif "config" in message:
                await self._configure(message["config"])
            elif "reset" in message:
                await self._reset()
            else:
                await self._end()
                return await self._close(1000, "")

    async def _receive(self, draining: asyncio.Future[Any]) -> Message | None:
        """The next message; None when the server is being stopped."""
        seconds = self._service.limits.idle_seconds
        receiving = asyncio.ensure_future(self._socket.receive())
        try:
            await asyncio.wait((receiving, draining), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if draining.done():  # even if a message has arrived: a client ahead of the engine must learn of it
                return None
            if receiving.done():
                return _message(receiving.result())
        finally:
            receiving.cancel()
        raise LimitError(f"nothing was received for {seconds:g} s", "idle_seconds")

    async def _configure(self, given: object) -> None:
        config = self._config.updated(given, self._service.config.model_name)
        if self._stream is not None and config.sample_rate != self._stream.sample_rate:
            raise ProtocolError(f"sample_rate is {self._stream.sample_rate}: it cannot change during a stream")
        if config.phrase_list != self._config.phrase_list:
            if self._stream is not None:
                raise ProtocolError("phrase_list cannot change during a stream")
            try:
                self._hotwords = await self._service.hotwords(config.phrase_list)
            except ConfigError as error:
                raise ProtocolError(f"phrase_list: {error}") from None
        if self._stream is not None and config.style != self._config.style:
            raise ProtocolError("style cannot change during a stream")
        self._config = config
        if self._stream is not None:
            self._stream.live = config.live

    async def _hear(self, pcm: bytes, stack: AsyncExitStack) -> None:
        """Push audio, and answer once it has been decoded.

        If the engine is late, the answer is delayed by at most the audio's length, so that a client that waits for each
        answer does not fall behind; for a live client by half of that, so that it can catch up.
        """
        if self._stream is None:
            config = self._config
            opening = self._service.stream(
                config.sample_rate, kind="vosk", live=config.live, hotwords=self._hotwords, style=config.style
            )
            self._stream = await stack.enter_async_context(opening)
        try:
            await self._stream.push(pcm)
        except LimitError:
            if self._stream.error is None:  # the stream is too long: keep its words so far
                await self._end()
            raise
        seconds = len(pcm) / (2 * self._stream.sample_rate)
        await self._stream.heard(seconds / 2 if self._stream.live else seconds)
        await self._answer(self._stream.take())

    async def _answer(self, events: Sequence[Event]) -> None:
        """Send one message: the finished segments or, without one, the partial."""
        finals = [event for event in events if isinstance(event, Final)]
        if events:
            self._partial = events[-1] if isinstance(events[-1], Partial) else _NOTHING
        await self._send(self._config.result(finals) if finals else self._config.partial(self._partial))

    async def _reset(self) -> None:
        if self._stream is not None:
            await self._stream.flush()
        await self._result()

    async def _end(self) -> None:
        if self._stream is not None:
            self._stream.finish()
            await self._stream.heard()
        await self._result()

    async def _result(self) -> None:
        events = [] if self._stream is None else self._stream.take()
        self._partial = _NOTHING
        await self._send(self._config.result([event for event in events if isinstance(event, Final)]))

    async def _send(self, answer: dict[str, Any]) -> None:
        if self._stream is not None and self._stream.dropped_seconds:
            answer["dropped_seconds"] = round(self._stream.dropped_seconds, 3)
        await self._socket.send_text(json.dumps(answer, ensure_ascii=False))

    async def _refuse(self, error: SpellstreamError, code: int) -> None:
        try:
            await self._send({"error": str(error)})
            await self._close(code, str(error))
        except (WebSocketDisconnect, RuntimeError):  # the client has disconnected
            pass

    async def _close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))


def _message(event: Any) -> Message:
    """A client's message, parsed."""
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1005))
    if (pcm := event.get("bytes")) is not None:
        return bytes(pcm)
    try:
        message = json.loads(event["text"])
    except (ValueError, RecursionError):
        raise ProtocolError(f"{_shown(event['text'])} is not JSON; audio must come in binary messages") from None
    if not isinstance(message, dict) or len({"config", "eof", "reset"} & message.keys()) != 1:
        raise ProtocolError(f'{_shown(message)} is none of {{"config": ...}}, {{"eof": 1}} and {{"reset": 1}}')
    return message


def _number(name: str, value: object, low: int, high: int) -> int:
    """A whole number, which may be sent as a float or a string."""
    number = math.nan
    if isinstance(value, (int, float, str)) and len(str(value)) < 32:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if not (low <= number <= high and number.is_integer()):
        raise ProtocolError(f"{name} is {_shown(value)}: it must be a whole number from {low} to {high}")
    return int(number)


def _phrases(value: object) -> tuple[str, ...]:
    """A list of phrases, which some clients send as a JSON string; [unk] (any other word) is always allowed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ProtocolError(f"phrase_list is {_shown(value)}: it must be a list of strings") from None
    if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
        raise ProtocolError(f"phrase_list is {_shown(value)}: it must be a list of strings")
    return tuple(phrase for phrase in value if phrase != "[unk]" and phrase.strip())


def _shown(value: object) -> str:
    """A client's value, shortened for a message."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value[:60] if isinstance(value, str) else value)[:80]
