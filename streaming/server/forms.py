"""Multipart forms: bounded in size, with lenient names for the file and for lists, since clients differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

__all__ = ["FormRequest"]

_MAX_FIELDS, _MAX_FIELD_BYTES = 64, 1 << 16  # besides the file; FastAPI allows a thousand fields of a megabyte
_FILE = "file"
_LIST = re.compile(r"(timestamp_granularities)(\[\d*\])?")


class FormRequest(Request):
    """A request whose form cannot exhaust memory, and may vary as clients do.

    - The part `file` may come without a file name, and a part with a file name may come without a name.
    - `timestamp_granularities` may have brackets, an index in them, or neither, and hold several names with commas.
    """

    async def _get_form(self, **_: Any) -> FormData:
        if self._form is None:
            kind, _options = parse_options_header(self.headers.get("Content-Type"))
            if kind == b"multipart/form-data":
                self._form = await self._multipart()
            else:
                self._form = await super()._get_form(
                    max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
                )
            self._form = FormData(list(_spelt(self._form)))
        return self._form

    async def _multipart(self) -> FormData:
        try:
            async with aclosing(self.stream()) as stream:
                parser = _Parser(
                    self.headers, stream, max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
                )
                return await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error


class _Parser(MultiPartParser):
    """Completes the header of the file's part."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == _FILE.encode() and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + f'; filename="{_FILE}"'.encode()
        elif b"filename" in options and b"name" not in options:
            part.content_disposition = (part.content_disposition or b"") + f'; name="{_FILE}"'.encode()
        super().on_headers_finished()


def _spelt(form: FormData) -> Iterator[tuple[str, str | UploadFile]]:
    """The fields under the names in the API's documentation."""
    for name, value in form.multi_items():
        found = _LIST.fullmatch(name)
        if found and isinstance(value, str):
            yield from ((f"{found[1]}[]", one.strip()) for one in value.split(","))
        else:
            yield name, value
