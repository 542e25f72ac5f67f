"""Wall and CPU time of a long file on one and on several threads: by `transcribe`, and as an upload to `serve`.

    python -m recipes.benchmark.uploads --manifest dev.jsonl --minutes 10

README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from asr.archive.manifest import read
from asr.audio import SAMPLE_RATE
from asr.config import usable_cores
from asr.errors import SpellstreamError
from asr.processes import Processes
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.serve import PAUSE_SECONDS, Peer, started
from recipes.benchmark.whole_file import pick

if TYPE_CHECKING:
    from rich.table import Table

    from asr.recogniser import Recogniser

__all__ = ["Timed", "send", "table"]


@dataclass
class Timed:
    """The runs of one way to decode the file."""

    way: str
    threads: int
    wall_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def run(self, work: Callable[[], object], cpu: Callable[[], float]) -> None:
        """Do the work and add its times."""
        wall, before = time.perf_counter(), cpu()
        work()
        self.wall_seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(cpu() - before)


def send(url: str, path: Path) -> bytes:
    """Upload a file to a server, and return the answer.

    Raises:
        SpellstreamError: the server refused it.
    """
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    body = b"".join((head.encode(), path.read_bytes(), f"\r\n--{boundary}--\r\n".encode()))
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=3600)
    try:
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        connection.request("POST", "/v1/audio/transcriptions", body, kind)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise SpellstreamError(f"the server answered {answer.status}: {text.decode(errors='replace')[:200]}")
    return text


def transcribe(recogniser: Recogniser, path: Path) -> None:
    """Transcribe a file as `spellstream transcribe` does, with as many processes as PyTorch has threads."""
    with Processes(recogniser) as processes:
        for _, _, error in recogniser.transcribe_many([path], processes=processes):
            if error is not None:
                raise error


def own_cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(recogniser: Recogniser, path: Path, servers: Sequence[tuple[int, Peer]], rounds: int) -> list[Timed]:
    """Decode the file in all ways, in turn, so that other load on the machine slows all of them alike."""
    ways = [(Timed("transcribe", threads), Timed("upload", threads), peer) for threads, peer in servers]
    for number in range(rounds):
        for file, upload, peer in ways:
            torch.set_num_threads(file.threads)
            file.run(lambda: transcribe(recogniser, path), own_cpu_seconds)
            upload.run(lambda peer=peer: send(peer.url, path), peer.cpu_seconds)  # type: ignore[misc]
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return [timed for file, upload, _ in ways for timed in (file, upload)]


def table(rows: Sequence[Timed], audio_seconds: float) -> Table:
    """Medians; the speed-up over the first number of threads, and the time of an upload over that of the file."""
    from rich.table import Table

    made = Table(title=f"a file of {audio_seconds / 60:.1f} minutes, medians")
    for name in ("way", "threads", "wall s", "CPU s", "CPU s/s", "speed-up", "upload / transcribe"):
        made.add_column(name, justify="left" if name == "way" else "right")
    walls = {(row.way, row.threads): median(row.wall_seconds) for row in rows}
    for row in rows:
        wall, cpu = median(row.wall_seconds), median(row.cpu_seconds)
        gained = walls[row.way, rows[0].threads] / wall
        share = f"{wall / walls['transcribe', row.threads]:.2f}" if row.way == "upload" else ""
        cost = f"{cpu / audio_seconds:.4f}"
        made.add_row(row.way, str(row.threads), f"{wall:.1f}", f"{cpu:.1f}", cost, f"{gained:.2f}", share)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parser().parse_args(arguments)
    return report(lambda: _benchmark(options, arguments), options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.uploads", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--manifest", type=Path, required=True, help="utterances with audio and text, as JSON lines, joined to one file"
    )
    add("--minutes", type=float, default=10.0, help="length of the file, at most that of all recordings")
    add("--threads", type=int, nargs="+", default=sorted({1, usable_cores()}), help="CPU threads to compare")
    add("--rounds", type=int, default=3, help="runs of each way")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def _benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> Report:
    import asr

    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        path = Path(folder, "joined.flac")
        seconds = _join(options.manifest, 60 * options.minutes, path)
        recogniser = asr.load(options.model, device="cpu")
        servers = []
        for threads in options.threads:
            command = [sys.executable, "-m", "asr", "serve", "--port", "0", "--model", options.model]
            command += ["--device", "cpu", "--threads", str(threads)]
            peer = running.enter_context(started("spellstream serve", command, "http://127.0.0.1:"))
            servers.append((threads, peer))
        sample = Path(__file__).parent.parent / "sample.flac"
        recogniser.transcribe(sample)
        for _, peer in servers:
            send(peer.url, sample)
        rows = measure(recogniser, path, servers, options.rounds)
    facts = {
        **origin("uploads", arguments),
        **weights(recogniser.folder),
        "cores": str(len(os.sched_getaffinity(0))),
        "versions": f"torch {torch.__version__}, {platform.python_version()}",
    }
    return Report(
        {"audio_seconds": seconds, "rows": [asdict(row) for row in rows], **facts}, table(rows, seconds), facts
    )


def _join(manifest: Path, seconds: float, path: Path) -> float:
    """Write recordings, spread over the manifest, and pauses between them to one file; return its length in seconds."""
    import soundfile

    from asr import audio

    pause, parts, samples = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE)), list[torch.Tensor](), 0
    chosen = pick(read(manifest), None)
    step = max(1, int(sum(row.duration_seconds for row in chosen) // seconds)) if seconds > 0 else 1
    for row in chosen[::step]:
        if samples >= seconds * SAMPLE_RATE:
            break
        parts += [audio.load(row.audio).clamp(-1, 1), pause]
        samples = sum(map(len, parts))
    soundfile.write(path, torch.cat(parts).numpy(), SAMPLE_RATE)
    return samples / SAMPLE_RATE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
