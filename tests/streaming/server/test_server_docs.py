"""Pages for browsers: `/` redirects to the page, and `/docs` documents the API without external resources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(api_key="a key"), shipped_engine) as live:
        yield live


class NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def test_a_browser_is_led_to_the_page(server: Running) -> None:
    """`/` was 404, as only WebSockets were expected there. The address is relative, for proxies with a path prefix."""
    request = Request(f"{server.url}/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    with pytest.raises(HTTPError) as caught:
        build_opener(NoRedirect).open(request, timeout=10)
    with caught.value as answer:
        assert (answer.code, answer.headers["Location"]) == (307, "ui/")
    with urlopen(request, timeout=10) as page:
        assert page.url == f"{server.url}/ui/"


def test_other_clients_are_told_what_there_is(server: Running) -> None:
    with urlopen(f"{server.url}/", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b"/ui" in answer.read()


def test_the_documentation_is_whole_and_loads_nothing_from_elsewhere(server: Running) -> None:
    with urlopen(f"{server.url}/docs", timeout=10) as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    for said in (
        "POST /v1/audio/transcriptions",
        "timestamp_granularities[]",
        "verbose_json",
        "GET /health",
        "required",
    ):
        assert said in text
    for address in re.findall(r'href="(ui/[^"]+)"', text):
        with urlopen(f"{server.url}/{address}", timeout=10) as file:
            assert file.status == 200
