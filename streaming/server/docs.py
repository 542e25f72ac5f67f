"""The page at `/docs`: the HTTP API as HTML, made from its OpenAPI schema; it loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from streaming.server.page import HEADERS

__all__ = ["router"]

Schema = dict[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} API</title>
<link rel="icon" href="ui/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="ui/style.css">
<link rel="stylesheet" href="ui/docs.css">
</head>
<body>
<header><h1>{title} {version}</h1><p><a href="ui/">Page</a> · <a href="openapi.json">OpenAPI schema</a></p></header>
<main>
<p>{summary}</p>
{operations}
<article>
<h2><code>WebSocket /</code></h2>
<p>The protocol of vosk-server: a JSON config, then 16-bit mono PCM in binary messages, each answered with a partial or
a final result; <code>{{"eof": 1}}</code> ends the stream.</p>
</article>
</main>
</body>
</html>
"""


def router(schema: Callable[[], Schema]) -> APIRouter:
    """Route `/docs`.

    Args:
        schema: returns the application's OpenAPI schema.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    def docs() -> Response:
        return HTMLResponse(_render(schema()), headers=HEADERS)

    return routes


def _render(schema: Schema) -> str:
    info = {name: escape(str(schema["info"].get(name, ""))) for name in ("title", "version", "summary")}
    operations = (
        _operation(method, path, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(**info, operations="\n".join(operations))


def _operation(method: str, path: str, operation: Schema, schema: Schema) -> str:
    fields = [*_parameters(operation), *_form_fields(operation, schema)]
    rows = "".join(_row(*field) for field in fields)
    answers = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer.get('description', ''))}</li>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<article><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
        + (f"<table><tr><th>Field<th>Type<th>Meaning</tr>{rows}</table>" if rows else "")
        + f"<h3>Answers</h3><ul>{answers}</ul></article>"
    )


def _parameters(operation: Schema) -> Iterator[tuple[str, Schema, bool]]:
    for parameter in operation.get("parameters", []):
        about = {"description": parameter.get("description", "")}
        yield parameter["name"], {**parameter.get("schema", {}), **about}, parameter.get("required", False)


def _form_fields(operation: Schema, schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        form = _resolved(content.get("schema", {}), schema)
        for name, field in form.get("properties", {}).items():
            yield name, field, name in form.get("required", [])


def _resolved(value: Schema, schema: Schema) -> Schema:
    """Follow a local reference, as "#/components/schemas/Form"."""
    if "$ref" not in value:
        return value
    for part in value["$ref"].removeprefix("#/").split("/"):
        schema = schema[part]
    return schema


def _row(name: str, field: Schema, required: bool) -> str:
    notes = [field.get("description", "")]
    if required:
        notes.append("required")
    elif field.get("default") not in (None, "", []):
        notes.append(f"default: {field['default']}")
    cells = (f"<code>{escape(name)}</code>", escape(_type(field)), escape("; ".join(filter(None, notes))))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _type(field: Schema) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " | ".join(_type(kind) for kind in field["anyOf"] if kind.get("type") != "null")
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    binary = field.get("format") == "binary" or "contentMediaType" in field
    return "file" if binary else str(field.get("type", ""))
