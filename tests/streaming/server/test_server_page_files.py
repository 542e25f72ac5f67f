"""The served files of the browser page: content policy, caching, completeness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from streaming.server import page
from streaming.server.head import HeadRequests

FILES = sorted(path.name for path in page.FOLDER.iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(page.router())
    app.add_middleware(HeadRequests)
    with TestClient(app, follow_redirects=False) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("", "text/html; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("recorder.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_are_sent_with_what_they_are_and_may(client: TestClient, name: str, media_type: str) -> None:
    answer = client.get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == (page.FOLDER / (name or "index.html")).read_bytes()
    assert answer.headers["content-type"] == media_type
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.head(f"/ui/{name}").headers["content-length"] == str(len(answer.content))


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/ui/page.js")
    tag = first.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}"):
        again = client.get("/ui/page.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/ui/page.js", headers={"If-None-Match": '"other"'}).content == first.content
    assert client.get("/ui/style.css").headers["etag"] != tag
    assert "no-cache" in first.headers["cache-control"]


def test_the_page_is_a_folder_wherever_it_is_mounted(client: TestClient) -> None:
    answer = client.get("/ui")
    assert answer.status_code == 307
    assert answer.headers["location"] == "ui/"  # relative: a proxy may add a path prefix


@pytest.mark.parametrize(
    "name", ["../page.py", "..%2fpage.py", "%2e%2e/page.py", "page.py", "other.js", "page/page.js"]
)
def test_nothing_else_can_be_read(client: TestClient, name: str) -> None:
    assert client.get(f"/ui/{name}").status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_files_name_nothing_outside_and_hold_no_markup_from_strings(name: str) -> None:
    text = (page.FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]", text), "it names another server"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|srcdoc", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son[a-z]+=|\sstyle=", text), "the policy refuses it"


def test_every_file_that_is_asked_for_is_there() -> None:
    asked = set()
    for path in map(page.FOLDER.joinpath, FILES):
        asked |= set(
            re.findall(r'(?:src|href|from|URL\()\s*[=(]?\s*"(?:\./)?([\w.-]+\.(?:js|css|svg))"', path.read_text())
        )
    assert asked == set(FILES) - {"index.html", "docs.css"}


def test_files_stay_short() -> None:
    for name in FILES:
        assert len(Path(page.FOLDER, name).read_text().splitlines()) < 400, name
