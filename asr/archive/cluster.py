"""Many sources on a Ray cluster: a recogniser on each GPU, or on every few cores, behind the face of a single one.

Ray Data hands out tasks of a few files each and gives those of a process that dies to another one; transcripts come
back here, where one process writes them. Files are read where they are transcribed, so every node must see them, and
the model, under the same path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asr.config import SearchConfig, require, usable_cores
from asr.errors import AudioError, ClusterError, DeviceError, SpellstreamError
from asr.files import absolute
from asr.output.formats import render
from asr.transcript import read_json

if TYPE_CHECKING:
    from asr.audio.segment import SegmentConfig
    from asr.recogniser import Outcome

__all__ = ["Attempts", "Cluster", "Engine", "Setup", "tasks"]

CONNECT_SECONDS = 10.0
LOCAL_STORE_BYTES = 128 << 20  # paths and transcripts are small
TASK_BYTES = 100 << 20  # of audio files, at most, bounds what is done again when a process dies
TASK_BATCHES = 8  # at most: what a recogniser sorts by length
TASKS_PER_ENGINE = 4  # at least, so that all have work to the end
ATTEMPTS_ALONE = 2  # before a source is blamed for the deaths of the processes that tried it


@dataclass(frozen=True)
class Setup:
    """What every engine is made of, as in `asr.load`; `threads` is the number of cores that each of them gets."""

    model: str
    device: str
    dtype: str
    lm: str | None
    threads: int

    def __post_init__(self) -> None:
        require(self.threads > 0, "threads", self.threads, "positive")


class Cluster:
    """Stands in for a `Recogniser` where there are many sources; a context manager.

    Args:
        address: "local" for this machine alone, "auto" for the cluster that this machine is a node of, or "HOST:PORT"
            of that cluster's head. From outside, `ray job submit` brings the command to a node; Ray Data cannot be
            driven through Ray Client ("ray://").
        setup: what each engine is made of.
        engines: at most so many; all that the cluster has room for if None.

    Raises:
        ClusterError: on entering, if there is no cluster at that address or no room on it.
        DeviceError: on entering, if it has no GPU, but `setup` asks for one.
        ModuleNotFoundError: on entering, if Ray is not installed.
    """

    def __init__(self, address: str, setup: Setup, engines: int | None = None) -> None:
        self.address, self.setup, self.engines = address, setup, engines or 0
        self._resources: dict[str, Any] = {}

    def __enter__(self) -> Cluster:
        cores = max(usable_cores(), self.engines * self.setup.threads)
        _connect(self.address, cores)
        try:
            self._make_room()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    def _make_room(self) -> None:
        """Choose between GPUs and cores, and count the engines that fit."""
        import ray

        threads = self.setup.threads
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        on_gpu = self.setup.device == "cuda" or (self.setup.device == "auto" and gpus > 0)
        room = gpus if on_gpu else sum(int(node.get("CPU", 0) // threads) for node in nodes)
        if on_gpu and not room:
            raise DeviceError(f"{self.address}: no GPU on this cluster; --device cpu works everywhere")
        if not room:
            raise ClusterError(f"{self.address}: no node has {threads} cores for an engine; give it fewer threads")
        self.setup = replace(self.setup, device="cuda" if on_gpu else "cpu")
        self.engines = min(room, self.engines or room)
        self._resources = {"num_gpus": 1} if on_gpu else {"num_cpus": threads}

    def transcribe_many(
        self,
        sources: Iterable[str],
        *,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
        keep_damaged: bool = False,
    ) -> Iterator[Outcome]:
        """As `Recogniser.transcribe_many`; a source that is named twice is done once.

        Raises:
            ClusterError: the cluster went away, or the engines cannot be started there.
        """
        import ray
        import ray.data

        from asr.recogniser import Outcome

        names = {absolute(source): source for source in sources}
        if not names:
            return
        work = list(tasks(list(names), self.engines, batch_size))
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        options = {
            "search": search,
            "segment": segment,
            "word_timestamps": word_timestamps,
            "batch_size": batch_size,
            "keep_damaged": keep_damaged,
        }
        made_of = (self.setup, options, attempts)
        _configure_data(self.engines)
        rows = (
            ray.data.from_items(work, override_num_blocks=len(work))
            .flat_map(
                Engine,
                fn_constructor_args=made_of,
                compute=ray.data.ActorPoolStrategy(size=min(self.engines, len(work))),
                **self._resources,
            )
            .iter_rows()
        )
        try:
            for row in rows:
                source = names.pop(os.fsdecode(row["path"]), None)
                if source is not None:
                    yield _outcome(source, row)
        except SpellstreamError:
            raise
        except Exception as error:  # Ray Data lets through whatever its parts raise
            raise ClusterError(f"{self.address}: {_last_line(error)}") from error
        for source in names.values():
            yield Outcome(source, None, AudioError(source, "came back without a transcript"))


def _connect(address: str, local_cores: int) -> None:
    """Join the cluster, or start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what workers say would land among the transcripts
    place: dict[str, Any] = {"address": address}
    if address == "local":
        place |= {"num_cpus": local_cores, "include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    elif address != "auto":
        # Once is enough where something listens: twenty times would be a quarter of an hour.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
        os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", f"{CONNECT_SECONDS:.0f}")
        _knock(address)
    import ray
    import ray.data

    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            ray.init(**place, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # it has many kinds, and none in common
        reason = _last_line(error)
        if "AuthenticationError" in f"{type(error)} {error.__cause__}":
            reason = "it asks for a token (set RAY_AUTH_MODE=token, and see Ray's pages on token authentication)"
        raise ClusterError(f"{address}: no Ray cluster can be used there: {reason}") from error


def _knock(address: str) -> None:
    """Ray waits long for a machine that is not there, and says little."""
    if "://" in address:
        raise ClusterError(f"{address}: Ray Client is not supported; run it on a node (auto), or by ray job submit")
    try:
        where = urlsplit(f"//{address}")
        host, port = where.hostname, where.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        raise ClusterError(f"{address}: not the address of a Ray cluster; expected local, auto or HOST:PORT")
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{address}: cannot be reached: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without standard error, on which Ray's own threads write while they connect."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _configure_data(engines: int) -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a task may be hours of audio, a cluster busy
    context.max_consecutive_actor_init_deaths = engines  # a node may be broken; if all are, it ends
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # its file has it all


def _last_line(error: BaseException) -> str:
    """Of a remote traceback that is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def tasks(paths: Sequence[str], engines: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """Cut the work into tasks of similar size, enough of them for all engines: `{"task", "paths"}`."""
    most = min(TASK_BATCHES * batch_size, max(1, len(paths) // (TASKS_PER_ENGINE * engines)))
    number, held, held_bytes = 0, list[bytes](), 0
    for path in paths:
        size = _size_bytes(path)
        if held and (len(held) == most or held_bytes + size > TASK_BYTES):
            yield {"task": number, "paths": held}
            number, held, held_bytes = number + 1, [], 0
        held.append(os.fsencode(path))
        held_bytes += size
    if held:
        yield {"task": number, "paths": held}


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):  # reported when the file is opened
        return 0


def _outcome(source: str, row: dict[str, Any]) -> Outcome:
    from asr.recogniser import Outcome

    error = AudioError(source, row["reason"].decode()) if row["reason"] else None
    transcript = replace(read_json(row["transcript"].decode()), source=source) if row["transcript"] else None
    return Outcome(source, transcript, error)


class Attempts:
    """How often pieces of work were begun and not ended; an actor, to outlive the process that dies of one."""

    def __init__(self) -> None:
        self._counts: Counter[object] = Counter()

    def begin(self, what: object) -> int:
        """Count one more, and give the number."""
        self._counts[what] += 1
        return self._counts[what]

    def end(self, what: object) -> None:
        """It came to its end."""
        del self._counts[what]


class Engine:
    """A recogniser in a process of its own, called by Ray Data with each task; `options` are of `transcribe_many`."""

    def __init__(self, setup: Setup, options: dict[str, Any], attempts: Any) -> None:
        import torch

        from asr.recogniser import Recogniser

        torch.set_num_threads(setup.threads)
        self._recogniser = Recogniser.load(setup.model, device=setup.device, dtype=setup.dtype, lm=setup.lm)
        self._options, self._attempts = options, attempts

    def __call__(self, task: dict[str, Any]) -> list[dict[str, bytes]]:
        """`{"path", "transcript" or empty, "reason" or empty}` for each of the task's paths."""
        paths = [os.fsdecode(path) for path in task["paths"]]
        if self._begin(task["task"]) == 1:
            rows = self._transcribe(paths)
        else:  # a process has died of this, perhaps of one file, which must not take the others with it for ever
            rows = [row for path in paths for row in self._transcribe_alone(path)]
        self._attempts.end.remote(task["task"])
        return rows

    def _transcribe_alone(self, path: str) -> list[dict[str, bytes]]:
        if self._begin(path) > ATTEMPTS_ALONE:
            return [_row(path, reason="the process died each time that it was tried")]
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
                rows[path] = _row(path, content, reason or ("" if content else "no transcript"))
        except Exception as error:  # memory that runs out, say: the others are not to suffer from it
            if len(paths) == 1:
                return [_row(paths[0], reason=f"{type(error).__name__}: {_last_line(error)}")]
            for path in paths:
                if path not in rows:
                    (rows[path],) = self._transcribe([path])
        return list(rows.values())


def _row(path: str, transcript: str = "", reason: str = "") -> dict[str, bytes]:
    # As bytes: a file name may hold what is not UTF-8.
    texts = (text.encode("utf-8", errors="backslashreplace") for text in (transcript, reason))
    return {"path": os.fsencode(path), **dict(zip(("transcript", "reason"), texts, strict=True))}
