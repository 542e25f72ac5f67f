"""OpenAI's HTTP API for transcription, compatible with its official clients.

https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.types import Send

from asr.errors import AudioError, SpellstreamError
from asr.transcript import Transcript
from asr.writing.prompts import phrases_of_prompt
from streaming.server.answers import error_body
from streaming.server.files import FileDecoder, Part, TooLongError
from streaming.server.forms import FormRequest
from streaming.server.protocols.openai_answers import LANGUAGES, MEDIA_TYPES, Format, answer, timed
from streaming.server.service import Service

__all__ = ["router"]

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

# Names built into clients: all stand for the served model.
_ALIASES = ("default", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe")


class TranscriptionForm(BaseModel):
    """The form of a transcription request. `temperature` is accepted without effect."""

    file: Annotated[UploadFile, File(description="audio or video, of any sample rate and number of channels")]
    model: str = Field("default", description="a name listed by /v1/models; all stand for the served model")
    language: str | None = Field(None, description="ISO 639-1 code; languages that the model does not know are refused")
    prompt: str | None = Field(None, description="names to listen for: a list with commas, or text with rare words")
    response_format: Format = "json"
    temperature: float = Field(0.0, ge=0, le=1)
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        default=[], alias="timestamp_granularities[]", description="for verbose_json; segment by default"
    )
    stream: bool = Field(False, description="send server-sent events while decoding; not for srt and vtt")


_Form = Annotated[TranscriptionForm, Form(media_type="multipart/form-data")]


class _RefusedError(Exception):
    """A refused request: status and fields of an error in OpenAI's format."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.status, str(self), self.param, self.code)


class _Route(APIRoute):
    """A route that reads forms as `FormRequest` does, and answers errors in OpenAI's format."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(FormRequest(request.scope, request.receive))
            except RequestValidationError as invalid:
                error = _invalid(invalid)
            except _RefusedError as refused:
                error = refused
            except AudioError as unreadable:
                error = _failed(unreadable)
            return JSONResponse(error.body, error.status)

        return handle_or_refuse


def router(service: Service) -> APIRouter:
    """`POST /v1/audio/transcriptions`, `GET /v1/models` and `GET /v1/models/{model}`."""
    decoder = FileDecoder(service)
    models = {name: _model(name, service) for name in (service.config.model_name, *_ALIASES)}
    refusals: dict[int | str, dict[str, Any]] = {"4XX": {"description": "Refused"}, 503: {"description": "Overloaded"}}
    kinds = ("application/json", "text/event-stream", "text/plain", *MEDIA_TYPES.values())
    answers = {200: {"description": "The transcript", "content": {kind: {} for kind in kinds}}, **refusals}
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=_Route)

    @routes.get("/models", responses=refusals)
    async def list_models() -> dict[str, Any]:
        """List the names of the model."""
        return {"object": "list", "data": list(models.values())}

    @routes.get("/models/{model}", responses=refusals)
    async def retrieve_model(model: str) -> dict[str, Any]:
        """Show one name of the model."""
        _check_model(model, models)
        return models[model]

    @routes.post("/audio/transcriptions", responses=answers)
    async def create_transcription(request: Request, form: _Form) -> Response:
        """Transcribe an audio file."""
        _check(form, models, service.config.language)
        phrases = phrases_of_prompt(form.prompt or "")
        hotwords = await service.hotwords(phrases, lenient=True)
        parts = decoder.parts(form.file.file, hotwords)
        if form.stream:
            first = await _while_connected(request, anext(parts))
            if first is not None:
                return _EventStream(_events(first, parts, form.response_format), media_type="text/event-stream")
        else:
            transcript = await _while_connected(request, _collect(parts))
            if transcript is not None:
                kind, granularities = form.response_format, form.timestamp_granularities
                tokenizer = service.recogniser.tokenizer
                return answer(transcript, kind, granularities, service.config.language, tokenizer)
        return Response(status_code=499)  # the client has disconnected

    return routes


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None if the client disconnects first, which cancels the work."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


# --- answers ----------------------------------------------------------------------------------------------------------


async def _collect(parts: AsyncGenerator[Part, None]) -> Transcript:
    segments, seconds = [], 0.0
    async with aclosing(parts):
        async for part in parts:
            seconds = part.read_seconds
            if part.segment is not None:
                segments.append(part.segment)
    return Transcript("file", seconds, tuple(segments))


class _EventStream(StreamingResponse):
    """A response of server-sent events that always closes its generator."""

    def __init__(self, content: AsyncGenerator[str, None], **arguments: Any) -> None:
        super().__init__(content, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, **arguments)
        self._content = content

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._content):
            await super().stream_response(send)


async def _events(first: Part, rest: AsyncGenerator[Part, None], kind: Format) -> AsyncGenerator[str, None]:
    """Send a delta for each segment, then the whole text, or an error if decoding fails.

    verbose_json adds an event with each segment's times and words.
    """
    said: list[str] = []
    part: Part | None = first
    async with aclosing(rest):
        try:
            while part is not None:
                if part.segment is not None:
                    delta = (" " if said else "") + part.segment.text
                    said.append(part.segment.text)
                    yield _event({"type": "transcript.text.delta", "delta": delta})
                    if kind == "verbose_json":
                        yield _event({"type": "transcript.text.segment", **timed(len(said) - 1, part.segment)})
                part = await anext(rest, None)
            yield _event({"type": "transcript.text.done", "text": " ".join(said)})
        except SpellstreamError as error:
            yield _event({"type": "error", **_failed(error).body})
        except Exception:
            _LOG.exception("a file failed because of a fault of the server")
            yield _event({"type": "error", **_RefusedError(500, "the server failed to transcribe this file").body})


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _model(name: str, service: Service) -> dict[str, Any]:
    created = int((service.recogniser.folder / "config.json").stat().st_mtime)
    return {"id": name, "object": "model", "created": created, "owned_by": "spellstream"}


# --- refusals ---------------------------------------------------------------------------------------------------------


def _check(form: TranscriptionForm, models: dict[str, Any], language: str) -> None:
    """Refuse a form that cannot be answered as asked."""
    _check_model(form.model, models)
    asked = (form.language or language).strip().lower()
    if asked.replace("_", "-").partition("-")[0] not in (language, LANGUAGES.get(language)):
        message = f"language is {_shown(asked)}: the model supports only {language!r}"
        raise _RefusedError(400, message, "language", "unsupported_language")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        message = "response_format must be verbose_json if timestamp_granularities[] are given"
        raise _RefusedError(400, message, "response_format", "invalid_value")
    if form.stream and form.response_format in ("srt", "vtt"):
        message = "response_format must be json, text or verbose_json if stream is true"
        raise _RefusedError(400, message, "response_format", "invalid_value")


def _check_model(name: str, models: dict[str, Any]) -> None:
    if name not in models:
        message = f"model is {_shown(name)}: there are {', '.join(models)}"
        raise _RefusedError(404, message, "model", "model_not_found")


def _invalid(error: RequestValidationError) -> _RefusedError:
    first = error.errors()[0]
    name = str(first["loc"][1:2] and first["loc"][1])  # ("body", name of the field, index in a list)
    # A validator's own message names Python classes; the only field with one is the file.
    reason = "must be a file" if first["type"] == "value_error" else first["msg"]
    return _RefusedError(400, f"{_shown(name)}: {reason}", name, "invalid_value")


def _failed(error: SpellstreamError) -> _RefusedError:
    """The error response for a file that failed."""
    if not isinstance(error, AudioError):
        return _RefusedError(503, str(error))
    return _RefusedError(
        400, str(error), "file", "input_too_large" if isinstance(error, TooLongError) else "invalid_value"
    )


def _shown(text: str) -> str:
    """A client's text, shortened for a message."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
