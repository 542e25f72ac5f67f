"""Many sources on a Ray cluster, behind the interface of one recogniser: an engine on each GPU, or on every few cores.

Ray Data hands out tasks of a few files each, and retries them when a process dies. Transcripts return to the command,
which writes them. Each node reads the files that it transcribes, so all nodes must see the files and the model under
the same path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from asr.archive.cluster_engine import Attempts, ClusterEngine, Setup
from asr.archive.ray_connection import configure_data, connect, last_line
from asr.config import SearchConfig, usable_cores
from asr.errors import AudioError, ClusterError, DeviceError, SpellstreamError
from asr.files import absolute
from asr.transcript import read_json

if TYPE_CHECKING:
    from asr.audio import Track
    from asr.audio.segment import SegmentConfig
    from asr.recogniser import Outcome
    from asr.writing.hotwords import Hotwords
    from asr.writing.parts import Style

__all__ = ["Cluster", "Setup", "tasks"]

TASK_BYTES = 100 << 20  # upper limit of a task's audio files, which bounds the work repeated after a process dies
TASK_BATCHES = 8  # upper limit: the batches that a recogniser sorts by length together
TASKS_PER_ENGINE = 4  # lower limit, so that all engines have work to the end


class Cluster:
    """A Ray cluster in place of a `Recogniser`; a context manager.

    Args:
        address: "local" for this machine alone, "auto" for the cluster that this machine is a node of, or "HOST:PORT"
            of that cluster's head. From outside, `ray job submit` brings the command to a node; Ray Data does not work
            through Ray Client ("ray://").
        setup: settings of each engine.
        engines: upper limit of their number; None for as many as fit on the cluster.

    Raises:
        ClusterError: on entering, if there is no cluster at that address, or no room on it.
        DeviceError: on entering, if `setup` asks for a GPU and the cluster has none.
        ModuleNotFoundError: on entering, if Ray is not installed.
    """

    def __init__(self, address: str, setup: Setup, engines: int | None = None) -> None:
        self.address, self.setup, self.engines = address, setup, engines or 0
        self._resources: dict[str, Any] = {}

    def __enter__(self) -> Cluster:
        cores = max(usable_cores(), self.engines * self.setup.threads)
        connect(self.address, cores)
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
        track: Track = None,
        hotwords: Hotwords | None = None,
        style: Style = "written",
    ) -> Iterator[Outcome]:
        """See `Recogniser.transcribe_many`; a source that is named twice is transcribed once.

        Raises:
            ClusterError: the cluster was lost, or the engines cannot be started on it.
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
            "track": track,
            "hotwords": hotwords,
            "style": style,
        }
        configure_data(self.engines)
        rows = (
            ray.data.from_items(work, override_num_blocks=len(work))
            .flat_map(
                ClusterEngine,
                fn_constructor_args=(self.setup, options, attempts),
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
        except Exception as error:  # Ray Data passes on whatever its parts raise
            raise ClusterError(f"{self.address}: {last_line(error)}") from error
        for source in names.values():
            yield Outcome(source, None, AudioError(source, "came back without a transcript"))


def tasks(paths: Sequence[str], engines: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """Divide the work into tasks `{"task": number, "paths": bytes}` of similar size, several for each engine."""
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
