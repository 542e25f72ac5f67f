"""The real server in a thread of this process, on a free port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streaming.engine import Engine
from streaming.server.app import create_app
from streaming.server.config import ServerConfig
from streaming.server.run import Server, listen
from streaming.server.service import Service

__all__ = ["Running", "running"]


@dataclass(frozen=True)
class Running:
    """A running server."""

    host: str
    port: int
    service: Service
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    def stop(self) -> None:
        """Stop the server like a signal."""
        self.server.handle_exit(15, None)


@contextlib.contextmanager
def running(config: ServerConfig, engine: Engine) -> Iterator[Running]:
    """Serve during the context; the config's port is ignored."""
    listener = listen(config.host, 0)
    config = replace(config, port=listener.getsockname()[1])
    app = create_app(config, engine)
    server = Server(app, config)
    thread = threading.Thread(target=server.run, args=([listener],), name="server", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        yield Running(config.host, config.port, app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        if thread.is_alive():
            server.force_exit = True
            thread.join(timeout=30)
