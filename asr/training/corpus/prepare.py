"""Corpora → a prepared folder for training: checked, decoded once, described by lhotse manifests.

A prepared folder holds `recordings.jsonl.gz`, `supervisions.jsonl.gz` and `cuts.jsonl.gz` (read them with
`lhotse.CutSet.from_file(...).with_recording_path_prefix(folder)`), `problems.jsonl` with the utterances left out, and
`corpus.json`. Decoding compressed audio costs more than a small model's training step, so the audio is stored as 16 kHz
mono WAV, five hundred utterances per file, with random access; the store `link` leaves it where it is.

Everything is written to `FOLDER.part` file by file, so that a stopped run can resume; at the end it is renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from asr.errors import DataError
from asr.files import write_atomically
from asr.training.corpus import shards
from asr.training.corpus.checks import DurationLimits, check_text
from asr.training.corpus.manifests import write_manifests
from asr.training.corpus.readers import Candidate, Kind, Problem, read
from asr.training.corpus.shards import Clip, Store

__all__ = ["Prepared", "Settings", "prepare"]

FORMAT = 1
_ABOUT, _PROBLEMS, _LOCK, _PLAN = "corpus.json", "problems.jsonl", "lock", "plan"


@dataclass(frozen=True)
class Settings:
    """Options of `prepare`. `store`: copy the audio, or refer to the original files."""

    kind: Kind = Kind.auto
    store: Store = "copy"
    limits: DurationLimits = field(default_factory=DurationLimits)
    jobs: int = 1  # decoding processes


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`: size of the folder, and the utterances left out."""

    utterances: int
    seconds: float
    problems: list[Problem]
    found: bool = False  # the folder already held these corpora with these settings

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(problem.kind for problem in self.problems).most_common())


def prepare(
    sources: Sequence[Path],
    folder: Path,
    settings: Settings,
    advance: Callable[[int, float], None] = lambda total, seconds: None,
) -> Prepared:
    """Check and decode corpora into `folder`. Its earlier content is replaced once everything is done.

    Args:
        sources: as for `readers.read`; of utterances with the same id the first is kept.
        folder: a new folder, or one from an earlier run.
        settings: options.
        advance: called after each utterance with the total number and its seconds (0 if left out or done before).

    Returns:
        The result. If no utterance is left, `folder` is unchanged and the problems are in `FOLDER.part`.

    Raises:
        DataError: if a source cannot be read, or `folder` or `FOLDER.part` holds something else, is in use by another
            run, or cannot be written.
        KeyboardInterrupt: after Ctrl-C; the same call resumes.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not (folder / _ABOUT).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not a prepared corpus: choose another folder")
    clips, problems = _gather(sources, settings.kind)
    plan = _plan(clips, problems, settings)
    if (earlier := _earlier(folder, plan)) is not None:
        return earlier
    part = folder.with_name(folder.name + ".part")
    try:
        with _alone(part):
            _begin(part, plan)
            shards.write(part, clips, settings.limits, settings.store, settings.jobs, advance)
            report = _describe(part, problems, plan, settings)
            if report.utterances:
                _put_in_place(part, folder)
            return report
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished work is kept in {part}: the same command resumes the run") from None
    except OSError as error:
        raise DataError(f"{error.filename or part}: cannot be written: {error.strerror or error}") from None


def _describe(part: Path, problems: list[Problem], plan: str, settings: Settings) -> Prepared:
    """Write everything but the audio."""
    problems = problems + [row for row in shards.rows(part) if isinstance(row, Problem)]
    write_atomically(part / _PROBLEMS, "".join(map(shards.line, problems)))
    lengths = [row.samples / row.sample_rate for row in shards.kept(part)]
    report = Prepared(len(lengths), round(sum(lengths), 3), problems)
    if lengths:
        write_manifests(part, shards.kept(part))
        about = {"format": FORMAT, "plan": plan, "store": settings.store, "limits": asdict(settings.limits)}
        totals = {"utterances": report.utterances, "seconds": report.seconds, "left_out": report.counts}
        write_atomically(part / _ABOUT, json.dumps({**about, **totals}, indent=2) + "\n")
    return report


def _gather(sources: Sequence[Path], kind: Kind) -> tuple[list[Clip], list[Problem]]:
    """Utterances to decode, grouped by file, and problems found before decoding."""
    problems: list[Problem] = []
    clips: list[Clip] = []
    seen: set[str] = set()
    for source in sources:
        for found in read(source, kind):
            judged = _judge(found, seen)
            if isinstance(judged, Problem):
                problems.append(judged)
                continue
            candidate, text = judged
            seen.add(candidate.id)
            full = bool(clips) and len(clips[-1].texts) == shards.MAX_UTTERANCES
            if candidate.start_seconds is None or not clips or clips[-1].path != candidate.audio or full:
                clips.append(Clip(candidate.audio, [], []))
            clips[-1].candidates.append(candidate)
            clips[-1].texts.append(text)
    return clips, problems


def _judge(found: Candidate | Problem, seen: set[str]) -> tuple[Candidate, str] | Problem:
    if isinstance(found, Problem):
        return found
    if found.id in seen:
        return Problem(found.id, "duplicate id", f"{found.audio}: an earlier utterance has this id and is kept")
    if not all(_is_unicode(name) for name in (found.id, found.speaker or "", found.corpus)):
        return Problem(found.id, "bad line", f"{found.audio}: its id, speaker or corpus is not Unicode")
    text = check_text(found)
    return text if isinstance(text, Problem) else (found, text)


def _is_unicode(name: str) -> bool:
    """False for lone surrogates, which JSON and file names can hold but UTF-8 cannot encode."""
    return name.encode("utf-8", "ignore").decode() == name


def _plan(clips: list[Clip], problems: list[Problem], settings: Settings) -> str:
    """Fingerprint of everything the result depends on: the utterances, the settings, size and time of the files."""
    digest = hashlib.sha256(repr((FORMAT, settings.store, settings.limits, problems)).encode("utf-8", "replace"))
    for clip in clips:
        try:
            about = clip.path.stat()
            stamp = (about.st_size, about.st_mtime_ns)
        except (OSError, ValueError):
            stamp = None
        digest.update(repr((clip, stamp)).encode("utf-8", "replace"))
    return digest.hexdigest()


def _earlier(folder: Path, plan: str) -> Prepared | None:
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["plan"] != plan:
            return None
        lines = (folder / _PROBLEMS).read_text(encoding="utf-8").splitlines()
        return Prepared(
            about["utterances"], about["seconds"], [Problem(**json.loads(line)) for line in lines], found=True
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged in any way: prepare it again


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Make the folder and lock it against other runs. The system releases the lock however the run ends."""
    import fcntl

    part.mkdir(parents=True, exist_ok=True)
    with (part / _LOCK).open("w") as held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by decoding processes
        except (BlockingIOError, PermissionError):
            raise DataError(f"{part}: in use by another run of prepare: wait for it, or stop it") from None
        except OSError:
            pass  # some cluster file systems have no locks
        yield


def _begin(part: Path, plan: str) -> None:
    """Keep the work of an earlier run with the same plan; otherwise clear the folder."""
    own = part / _PLAN
    if own.is_file() and own.read_text(encoding="utf-8", errors="replace") == plan:
        return
    entries = [entry for entry in part.iterdir() if entry.name not in (_LOCK, _PLAN)]
    if entries and not own.is_file():
        raise DataError(f"{part}: was not made by prepare: move it, or choose another folder")
    write_atomically(own, "")  # if killed from here on, nothing is resumed
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for name in (shards.AUDIO, shards.ROWS):
        (part / name).mkdir()
    write_atomically(own, plan)


def _put_in_place(part: Path, folder: Path) -> None:
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        folder.rename(old / folder.name)
    part.rename(folder)
    shutil.rmtree(folder / shards.ROWS)
    for name in (_PLAN, _LOCK):
        (folder / name).unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
