"""`spellstream listen` in its own process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RUN = (
    "import sys; from asr.commands.main import app, main; from streaming.commands.listen import register;"
    " register(app); sys.exit(main())"
)


@contextlib.contextmanager
def listening(*arguments: object, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run `spellstream listen` during the context, which is entered when it listens."""
    given = [sys.executable, "-c", RUN, "listen", *map(str, arguments)]
    pipe = subprocess.PIPE
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(given, cwd=root, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stderr is not None
            assert "loading the model" in process.stderr.readline()
            assert "listening to" in process.stderr.readline()
            yield process
        finally:
            process.kill()
