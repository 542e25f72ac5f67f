"""The part that runs on a cluster's nodes: a recogniser in its own process, and the record of processes that died."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from asr.archive.ray_connection import last_line
from asr.config import require
from asr.errors import AudioError
from asr.output.formats import render

__all__ = ["Attempts", "ClusterEngine", "Setup"]

ATTEMPTS_ALONE = 2  # attempts at a source on its own before it is reported as the cause of the crashes


@dataclass(frozen=True)
class Setup:
    """Settings of every engine: the arguments of `asr.load`, and the number of cores per engine.

    Raises:
        ConfigError: `threads` is not positive.
    """

    model: str
    device: str
    dtype: str
    lm: str | None
    threads: int

    def __post_init__(self) -> None:
        require(self.threads > 0, "threads", self.threads, "positive")


class Attempts:
    """Counts unfinished attempts at each piece of work; a Ray actor, since it must outlive a process that dies."""

    def __init__(self) -> None:
        self._counts: Counter[object] = Counter()

    def begin(self, what: object) -> int:
        """Count one more attempt; return the count."""
        self._counts[what] += 1
        return self._counts[what]

    def end(self, what: object) -> None:
        """Forget the attempts at work that was finished."""
        del self._counts[what]


class ClusterEngine:
    """A recogniser in a process of its own; Ray Data calls it with each task.

    Args:
        setup: settings of the recogniser.
        options: of `Recogniser.transcribe_many`.
        attempts: handle of the actor `Attempts`.
    """

    def __init__(self, setup: Setup, options: dict[str, Any], attempts: Any) -> None:
        import torch

        from asr.recogniser import Recogniser

        torch.set_num_threads(setup.threads)
        self._recogniser = Recogniser.load(setup.model, device=setup.device, dtype=setup.dtype, lm=setup.lm)
        self._options, self._attempts = options, attempts

    def __call__(self, task: dict[str, Any]) -> list[dict[str, bytes]]:
        """A row for each path of the task: `{"path", "transcript", "reason"}` as bytes; a missing value is empty."""
        paths = [os.fsdecode(path) for path in task["paths"]]
        if self._begin(task["task"]) == 1:
            rows = self._transcribe(paths)
        else:  # this task killed a process, perhaps through a single file: find it
            rows = [row for path in paths for row in self._transcribe_alone(path)]
        self._attempts.end.remote(task["task"])
        return rows

    def _transcribe_alone(self, path: str) -> list[dict[str, bytes]]:
        if self._begin(path) > ATTEMPTS_ALONE:
            return [row(path, reason="the process that transcribed it died each time")]
        rows = self._transcribe([path])
        self._attempts.end.remote(path)
        return rows

    def _begin(self, what: object) -> int:
        import ray

        return int(ray.get(self._attempts.begin.remote(what)))

    def _transcribe(self, paths: list[str]) -> list[dict[str, bytes]]:
        rows: dict[str, dict[str, bytes]] = {}
        try:
            for path, transcript, error in self._recogniser.transcribe_many(paths, **self._options):
                content = "" if transcript is None else render(transcript, "json")
                reason = error.reason if isinstance(error, AudioError) else str(error or "")
                rows[path] = row(path, content, reason or ("" if content else "no transcript"))
        except Exception as error:  # an error of the model, such as running out of memory
            if len(paths) == 1:
                return [row(paths[0], reason=f"{type(error).__name__}: {last_line(error)}")]
            for path in paths:
                if path not in rows:
                    (rows[path],) = self._transcribe([path])
        return list(rows.values())


def row(path: str, transcript: str = "", reason: str = "") -> dict[str, bytes]:
    # As bytes, since a file name need not be UTF-8.
    texts = (text.encode("utf-8", errors="backslashreplace") for text in (transcript, reason))
    return {"path": os.fsencode(path), **dict(zip(("transcript", "reason"), texts, strict=True))}
