"""A corpus in shards of some hundred utterances, decoded by several processes and written atomically."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from asr.audio import SAMPLE_RATE
from asr.errors import DataError
from asr.files import write_atomically
from asr.pools import prepare, submit
from asr.training.corpus.checks import DurationLimits, Linked, Samples, examine, link
from asr.training.corpus.manifests import Kept
from asr.training.corpus.readers import Candidate, Problem

__all__ = ["AUDIO", "MAX_UTTERANCES", "ROWS", "Clip", "Store", "kept", "line", "rows", "write"]

AUDIO, ROWS = "audio", "rows"  # folders
MAX_UTTERANCES = 500  # per clip; twice as many of the longest fit into the 4 GiB of a WAV file
_WAV_HEADER_BYTES = 44

Store: TypeAlias = Literal["copy", "link"]
Found: TypeAlias = "list[Samples | Linked | Problem]"


@dataclass(frozen=True)
class Clip:
    """An audio file and utterances in it, with their normalised texts."""

    path: Path
    candidates: list[Candidate]
    texts: list[str]


def write(
    folder: Path,
    clips: list[Clip],
    limits: DurationLimits,
    store: Store,
    jobs: int,
    advance: Callable[[int, float], None],
) -> None:
    """Examine all clips and write the shards that are not in `folder` yet.

    Args:
        folder: holds folders AUDIO and ROWS.
        clips: in order.
        limits: on durations.
        store: copy the audio, or refer to the original files.
        jobs: decoding processes.
        advance: called after each utterance with the total number and its seconds (0 if left out or done before).

    Raises:
        DataError: if the audio cannot be written.
        OSError: if anything else cannot be written.
    """
    shards: list[list[Clip]] = [[]]
    for clip in clips:
        if sum(len(c.texts) for c in shards[-1]) >= MAX_UTTERANCES:
            shards.append([])
        shards[-1].append(clip)
    total = sum(len(clip.texts) for clip in clips)
    missing = [n for n in range(len(shards)) if not _rows_path(folder, n).exists()]
    work = functools.partial(_examine, limits=limits, store=store)
    with contextlib.closing(_in_order(work, [clip for n in missing for clip in shards[n]], jobs)) as found:
        for number, shard in enumerate(shards):
            if number in missing:
                _write_shard(folder, number, shard, found, functools.partial(advance, total))
            else:
                for _ in range(sum(len(clip.texts) for clip in shard)):
                    advance(total, 0.0)


def rows(folder: Path) -> Iterator[Kept | Problem]:
    """All rows and problems, in order."""
    for path in sorted((folder / ROWS).iterdir()):
        for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(text)
            yield Problem(**row) if "reason" in row else Kept(**row)


def kept(folder: Path) -> Iterator[Kept]:
    """The rows of utterances that were kept."""
    return (row for row in rows(folder) if isinstance(row, Kept))


def line(row: Kept | Problem) -> str:
    """A row as a JSON line."""
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"


def _examine(clip: Clip, limits: DurationLimits, store: Store) -> Found:
    found = examine(clip.path, clip.candidates, clip.texts, limits)
    return list(found) if store == "copy" else link(clip.path, clip.candidates, found)


def _write_shard(
    folder: Path, number: int, clips: list[Clip], found: Iterator[Found], advance: Callable[[float], None]
) -> None:
    """Write a shard: its audio file, if copied, then its rows, which mark it as done."""
    import soundfile

    name = f"{AUDIO}/{number:06}.wav"
    path = folder / name
    shard: list[Kept | Problem] = []
    written = 0
    try:
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV") as wav:
            for candidate, text, one in _pairs(clips, found):
                source = str(candidate.audio).encode("utf-8", "backslashreplace").decode()
                about = (candidate.id, text, candidate.speaker, candidate.corpus, source)
                if isinstance(one, Problem):
                    shard.append(one)
                elif isinstance(one, Linked):
                    shard.append(Kept(*about, source, *one))
                else:
                    wav.write(one)
                    shard.append(Kept(*about, name, SAMPLE_RATE, 0, written, len(one)))
                    written += len(one)
                row = shard[-1]
                advance(row.samples / row.sample_rate if isinstance(row, Kept) else 0.0)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: cannot be written: is the disk full? ({error})") from None
    if path.stat().st_size != _WAV_HEADER_BYTES + 2 * written:
        raise DataError(f"{path}: could not be written whole: is the disk full?")
    if not written:
        path.unlink()
    # The length of the file is known only now.
    shard = [replace(row, frames=written) if isinstance(row, Kept) and row.audio == name else row for row in shard]
    write_atomically(_rows_path(folder, number), "".join(map(line, shard)))


def _pairs(clips: list[Clip], found: Iterator[Found]) -> Iterator[tuple[Candidate, str, Samples | Linked | Problem]]:
    for clip in clips:
        yield from zip(clip.candidates, clip.texts, next(found), strict=True)


def _rows_path(folder: Path, number: int) -> Path:
    return folder / ROWS / f"{number:06}.jsonl"


def _in_order(function: Callable[[Clip], Found], clips: list[Clip], jobs: int) -> Generator[Found, None, None]:
    """`map` over processes that runs only slightly ahead of its consumer, so that memory stays flat."""
    if jobs == 1:
        yield from map(function, clips)
        return
    pool, remaining = _processes(jobs), iter(clips)
    waiting: deque[tuple[Clip, Future[Found]]] = deque()
    try:
        while True:
            for clip in itertools.islice(remaining, 8 * jobs - len(waiting)):
                waiting.append((clip, submit(pool, function, clip)))
            if not waiting:
                return
            clip, future = waiting.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:  # a process died, because of this clip or of another one in progress
                pool.shutdown(cancel_futures=True)
                found = _alone(function, clip)
                pool = _processes(jobs)
                waiting = deque((c, f if _finished(f) else submit(pool, function, c)) for c, f in waiting)
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _processes(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, initializer=prepare)


def _finished(future: Future[Found]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _alone(function: Callable[[Clip], Found], clip: Clip) -> Found:
    """The result for one clip in a process of its own: if that dies as well, a problem for each utterance."""
    with _processes(1) as pool:
        try:
            return submit(pool, function, clip).result()
        except BrokenProcessPool:
            reason = f"{clip.path}: the process that decoded it died"
            return [Problem(candidate.id, "unreadable audio", reason) for candidate in clip.candidates]
