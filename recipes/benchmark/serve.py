"""Capacity of a server: real-time streams over WebSocket, beside a server with one session per connection.

    python -m recipes.benchmark.serve --manifest dev.jsonl

README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import torch
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from asr.archive.manifest import read
from asr.audio import SAMPLE_RATE
from asr.config import usable_cores
from asr.errors import SpellstreamError
from recipes.benchmark.origin import Report, origin, processor, report
from recipes.benchmark.whole_file import pick

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Crowd", "Held", "Speech", "percentile", "speak", "table"]

REFUSALS = 5  # in a row: the server is full
EVERY_SECONDS = 0.5  # a stream begins
PAUSE_SECONDS = 1.0  # of silence between recordings


@dataclass
class Crowd:
    """A group of streams: their measurements, and the event that ends them."""

    latencies: list[tuple[float, float]] = field(default_factory=list)  # when an answer came, and how late
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    streams: set[asyncio.Task[None]] = field(default_factory=set)

    def since(self, moment: float) -> list[float]:
        """Latencies of the answers after a point in time."""
        return [latency for at, latency in self.latencies if at >= moment]


@dataclass(frozen=True)
class Held:
    """Measurements of a number of streams over some time."""

    server: str
    streams: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_share: float  # of one core
    memory_mb: float
    refused: int  # during the measurement
    failed: int

    def keeps_up(self, chunk_ms: float) -> bool:
        """Whether the server keeps up."""
        return self.p95_ms < chunk_ms and not self.failed


@dataclass(frozen=True)
class Peer:
    """A server in its own process."""

    name: str
    url: str
    process: subprocess.Popen[str]

    def cpu_seconds(self) -> float:
        """CPU time of all its processes."""
        fields = (stat.rsplit(")", 1)[1].split() for stat in self._read("stat"))
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Memory of all its processes; what they share, mostly PyTorch's code, counts a fraction in each."""
        lines = (line for rollup in self._read("smaps_rollup") for line in rollup.splitlines())
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def _read(self, name: str) -> Iterator[str]:
        """A file of `/proc` for the process and each of its children."""
        pid = str(self.process.pid)
        threads = list(Path(f"/proc/{pid}/task").iterdir())  # each has a list of the children that it has started
        children = {child for thread in threads for child in (thread / "children").read_text().split()}
        for each in {pid, *children}:
            with contextlib.suppress(OSError):  # it has just ended
                yield Path(f"/proc/{each}/{name}").read_text()


@dataclass(frozen=True)
class Speech:
    """Recordings joined to one endless loop of PCM; each stream starts at another position."""

    pcm: bytes
    starts: tuple[int, ...]
    chunk_bytes: int

    @property
    def chunk_seconds(self) -> float:
        return self.chunk_bytes / (2 * SAMPLE_RATE)

    def chunk(self, stream: int, number: int) -> bytes:
        """A chunk of a stream."""
        at = (self.starts[stream % len(self.starts)] + number * self.chunk_bytes) % (len(self.pcm) - self.chunk_bytes)
        return self.pcm[at : at + self.chunk_bytes]


async def speak(url: str, speech: Speech, crowd: Crowd) -> bool:
    """One real-time stream until the group is stopped; returns whether it was admitted.

    Chunks are sent when due, regardless of earlier answers, and latency is measured from the time when a chunk was due,
    so a server that falls behind cannot improve its numbers. `spellstream serve` answers a chunk at the latest after
    the chunk's own length, processed or not, so once it is overloaded its latency shows no more than that.
    """
    stream = len(crowd.streams)
    try:
        socket = await connect(url, max_queue=None)
        await socket.send(json.dumps({"config": {"sample_rate": SAMPLE_RATE}}))
        began = time.monotonic()
        await socket.send(speech.chunk(stream, 0))
        if "error" in json.loads(await socket.recv()):
            return False
    except (OSError, InvalidHandshake, ConnectionClosed):
        return False

    async def listen() -> None:
        number = 0
        async for _ in socket:
            number += 1
            now = time.monotonic()
            crowd.latencies.append((now, now - began - number * speech.chunk_seconds))

    async def send() -> None:
        for number in count(1):
            with contextlib.suppress(asyncio.TimeoutError):
                due = began + number * speech.chunk_seconds - time.monotonic()
                await asyncio.wait_for(crowd.stop.wait(), max(0.0, due))
            if crowd.stop.is_set():
                return
            await socket.send(speech.chunk(stream, number))

    async def run() -> None:
        listening = asyncio.create_task(listen())
        try:
            async with socket:
                await send()
        except ConnectionClosed as error:
            crowd.failed.append(str(error))
        finally:
            listening.cancel()

    crowd.streams.add(asyncio.create_task(run()))
    return True


async def fill(peer: Peer, speech: Speech, crowd: Crowd, most: int) -> None:
    """Start streams one after the other, up to a number, or until the server refuses."""
    turned_away = 0
    while len(crowd.streams) < most and turned_away < REFUSALS:
        if await speak(peer.url, speech, crowd):
            turned_away = 0
        else:
            turned_away += 1
        await asyncio.sleep(EVERY_SECONDS)


async def hold(peer: Peer, speech: Speech, seconds: float, most: int, knock: bool = False) -> Held:
    """Fill a server and measure for some seconds; with `knock`, more streams keep asking for admission."""
    crowd = Crowd()
    await fill(peer, speech, crowd, most)
    streams, began, cpu = len(crowd.streams), time.monotonic(), peer.cpu_seconds()
    while time.monotonic() < began + seconds:
        await asyncio.sleep(EVERY_SECONDS)
        if knock and not await speak(peer.url, speech, crowd):
            crowd.refused += 1
    taken = peer.cpu_seconds() - cpu
    late, memory = crowd.since(began), peer.memory_bytes()
    crowd.stop.set()
    await asyncio.wait(crowd.streams, timeout=60)
    ms = [1000 * percentile(late, share) for share in (0.5, 0.95, 0.99)]
    held = max(streams, len(crowd.streams))
    return Held(peer.name, held, *ms, taken / seconds, memory / 2**20, crowd.refused, len(crowd.failed))


async def capacity(peer: Peer, speech: Speech, seconds: float, streams: int, tried: list[Held]) -> int:
    """Largest number of streams with which a server keeps up, found by bisection; at most twice the initial number."""
    low, high = 0, 2 * streams + 1
    while high - low > max(1, low // 8):
        tried.append(await hold(peer, speech, seconds, streams))
        print(f"{peer.name}: {streams} streams, p95 {tried[-1].p95_ms:.0f} ms", file=sys.stderr)
        if tried[-1].keeps_up(1000 * speech.chunk_seconds):
            low = streams
        else:
            high = streams
        streams = (low + high) // 2
    return low


def percentile(values: Sequence[float], share: float) -> float:
    """Quantile; infinite for no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.inf


@contextlib.contextmanager
def started(name: str, command: Sequence[str], address: str) -> Iterator[Peer]:
    """Start a server; its address is in the first output line that contains `address`."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output = cast(IO[str], process.stdout)
        try:
            for line in output:
                if address in line:
                    port = line.split(address)[1].split("/")[0].strip()
                    break
            else:
                raise SpellstreamError(f"{name} did not start: {shlex.join(command)}")
            # Later output is read and discarded, since the process would block on a full pipe.
            reading = threading.Thread(target=deque, args=(output, 0))
            reading.start()
            yield Peer(name, f"ws://127.0.0.1:{port}", process)
            process.terminate()
            reading.join()
        finally:
            process.terminate()


def table(rows: Sequence[Held], chunk_ms: float) -> Table:
    """The measurements as a table, a row per load."""
    from rich.table import Table

    made = Table(title=f"streams at real time; a chunk is {chunk_ms:.0f} ms")
    for name in ("server", "streams", "p50 ms", "p95 ms", "p99 ms", "keeps up", "refused", "cores", "MB"):
        made.add_column(name, justify="left" if name == "server" else "right")
    for row in rows:
        times = (f"{value:.0f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms))
        up, cost = "yes" if row.keeps_up(chunk_ms) else "no", f"{row.cpu_share:.2f}"
        made.add_row(row.server, str(row.streams), *times, up, str(row.refused), cost, f"{row.memory_mb:.0f}")
    return made


async def measure(options: argparse.Namespace, speech: Speech) -> tuple[list[Held], int, int]:
    """Fill our server with the streams it admits; then the same load, and the largest sustained one, on the other."""
    ours = ["--model", options.model, "--device", options.device]
    serve = [
        sys.executable,
        "-m",
        "asr",
        "serve",
        "--port",
        "0",
        "--threads",
        str(options.threads),
        *ours,
    ]
    serve += ["--max-sessions", str(options.most), "--max-connections", str(options.most + 100)]
    with started("spellstream serve", serve, "http://127.0.0.1:") as peer:
        await asyncio.sleep(options.settle)
        first = await hold(peer, speech, options.seconds, options.most, knock=True)
    rows = [first]
    print(f"spellstream serve: {first.streams} streams, p95 {first.p95_ms:.0f} ms", file=sys.stderr)
    held = first.streams if first.keeps_up(1000 * speech.chunk_seconds) else 0
    if options.alone:
        return rows, held, 0
    other = [sys.executable, "-m", "recipes.benchmark.per_connection", "--threads", str(options.threads), *ours]
    with started("one session a connection", other, "ws://127.0.0.1:") as peer:
        most = await capacity(peer, speech, options.seconds, first.streams, rows)
    return rows, held, most


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parser().parse_args(arguments)

    def benchmark() -> Report:
        speech = _speech(options)
        rows, ours, theirs = asyncio.run(measure(options, speech))
        facts = {
            **origin("serve", arguments),
            "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
            "versions": f"torch {torch.__version__}, {platform.python_version()}",
            "held": f"{ours} streams" + ("" if options.alone else f"; one session a connection: {theirs}"),
        }
        data = {"rows": [asdict(row) for row in rows], **facts}
        return Report(data, table(rows, 1000 * speech.chunk_seconds), facts)

    return report(benchmark, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.serve", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--manifest", type=Path, default=Path("dev.jsonl"), help="utterances with audio and text, as JSON lines")
    add("--limit", type=int, default=60, help="use only N recordings, spread evenly over the manifest")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--device", default="cpu", help="auto, cpu or cuda")
    add("--threads", type=int, default=usable_cores(), help="CPU threads; for the other server, parallel steps")
    add("--seconds", type=float, default=30.0, help="length of each measurement")
    add("--most", type=int, default=1000, help="streams")
    add("--settle", type=float, default=5.0, help="seconds for the server to start")
    add("--alone", action="store_true", help="leave out the other server")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def _speech(options: argparse.Namespace) -> Speech:
    import asr
    from asr import audio
    from streaming.engine import Engine

    chunk_samples = Engine(asr.load(options.model, "cpu")).chunk_samples
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    loaded = [audio.load(row.audio) for row in pick(read(options.manifest), options.limit)]
    spoken = [(torch.cat([w, pause]).clamp(-1, 1) * 32767).short().numpy().tobytes() for w in loaded]
    starts = list(accumulate(map(len, spoken), initial=0))[:-1]
    return Speech(b"".join(spoken), tuple(starts), 2 * chunk_samples)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
