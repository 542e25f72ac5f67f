"""Corpora → a folder to train from: checked, decoded once, described by lhotse's manifests.

A prepared folder holds `recordings.jsonl.gz`, `supervisions.jsonl.gz` and `cuts.jsonl.gz` (to be read with
`lhotse.CutSet.from_file(...).with_recording_path_prefix(folder)`), `problems.jsonl` with what was left out, and
`corpus.json`. Decoding compressed audio costs more than a small model's training step, so the audio is kept as WAV,
16 kHz mono, five hundred utterances to a file, to be entered at any sample; with the store `link` it stays where it is.

All is made in `FOLDER.part`, a file at a time: a run that was stopped goes on where it was. Once whole
it becomes `FOLDER`.
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
from asr.training.corpus.checks import Limits, check_text
from asr.training.corpus.manifests import write_manifests
from asr.training.corpus.readers import Candidate, Kind, Problem, read
from asr.training.corpus.shards import Clip, Store

__all__ = ["Report", "Settings", "prepare"]

FORMAT = 1
_ABOUT, _PROBLEMS, _LOCK, _PLAN = "corpus.json", "problems.jsonl", "lock", "plan"


@dataclass(frozen=True)
class Settings:
    """How to prepare. `store`: copy the audio, or link to where it is."""

    kind: Kind = Kind.auto
    store: Store = "copy"
    limits: Limits = field(default_factory=Limits)
    jobs: int = 1  # processes that decode


@dataclass(frozen=True)
class Report:
    """What a prepared folder holds, and what was left out of it."""

    utterances: int
    seconds: float
    problems: list[Problem]
    found: bool = False  # it was there already, made of the same corpora in the same way

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(problem.kind for problem in self.problems).most_common())


def prepare(
    sources: Sequence[Path],
    folder: Path,
    settings: Settings,
    advance: Callable[[int, float], None] = lambda total, seconds: None,
) -> Report:
    """Check and decode corpora into `folder`; what it held of an earlier time is replaced once all is done.

    Args:
        sources: what `corpora.read` takes; where ids repeat, the first utterance stays.
        folder: made here, or by an earlier run.
        settings: how.
        advance: called after each utterance with the number in all and its seconds: 0 if left out, or done before.

    Returns:
        What became of it. Where no utterance is left, `folder` is not touched; the problems are in `FOLDER.part`.

    Raises:
        DataError: a source cannot be read, `folder` or `FOLDER.part` holds something else, is being prepared already,
            or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with the message that the same call goes on.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not (folder / _ABOUT).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already and is no prepared corpus: choose another place")
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
        raise KeyboardInterrupt(f"what is done is kept in {part}: the same command resumes the run") from None
    except OSError as error:
        raise DataError(f"{error.filename or part}: cannot be written: {error.strerror or error}") from None


def _describe(part: Path, problems: list[Problem], plan: str, settings: Settings) -> Report:
    """Write all that is not audio."""
    problems = problems + [row for row in shards.rows(part) if isinstance(row, Problem)]
    write_atomically(part / _PROBLEMS, "".join(map(shards.line, problems)))
    lengths = [row.samples / row.sample_rate for row in shards.kept(part)]
    report = Report(len(lengths), round(sum(lengths), 3), problems)
    if lengths:
        write_manifests(part, shards.kept(part))
        about = {"format": FORMAT, "plan": plan, "store": settings.store, "limits": asdict(settings.limits)}
        totals = {"utterances": report.utterances, "seconds": report.seconds, "left_out": report.counts}
        write_atomically(part / _ABOUT, json.dumps({**about, **totals}, indent=2) + "\n")
    return report


def _gather(sources: Sequence[Path], kind: Kind) -> tuple[list[Clip], list[Problem]]:
    """What is worth decoding, neighbours in one file together; and what is not."""
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
        return Problem(found.id, "duplicate id", f"{found.audio}: an utterance of this id came before, and is kept")
    if not all(_is_unicode(name) for name in (found.id, found.speaker or "", found.corpus)):
        return Problem(found.id, "bad line", f"{found.audio}: its id, speaker or corpus is not Unicode")
    text = check_text(found)
    return text if isinstance(text, Problem) else (found, text)


def _is_unicode(name: str) -> bool:
    """Half a surrogate pair, as JSON may hold one, or what stands for it in a file's name, cannot be written."""
    return name.encode("utf-8", "ignore").decode() == name


def _plan(clips: list[Clip], problems: list[Problem], settings: Settings) -> str:
    """A fingerprint of all that the result depends on: what is listed, how, and whether the files have changed."""
    digest = hashlib.sha256(repr((FORMAT, settings.store, settings.limits, problems)).encode("utf-8", "replace"))
    for clip in clips:
        try:
            about = clip.path.stat()
            stamp = (about.st_size, about.st_mtime_ns)
        except (OSError, ValueError):
            stamp = None
        digest.update(repr((clip, stamp)).encode("utf-8", "replace"))
    return digest.hexdigest()


def _earlier(folder: Path, plan: str) -> Report | None:
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["plan"] != plan:
            return None
        lines = (folder / _PROBLEMS).read_text(encoding="utf-8").splitlines()
        return Report(
            about["utterances"], about["seconds"], [Problem(**json.loads(line)) for line in lines], found=True
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever is wrong with it, it is made anew


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other runs out of the folder, which is made if need be. However a run ends, the system gives it free."""
    import fcntl

    part.mkdir(parents=True, exist_ok=True)
    with (part / _LOCK).open("w") as held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by processes that decode
        except (BlockingIOError, PermissionError):
            raise DataError(f"{part}: another run is preparing this corpus: wait for it, or stop it") from None
        except OSError:
            pass  # some file systems of clusters have no locks
        yield


def _begin(part: Path, plan: str) -> None:
    """Go on with what a run of the same plan left, or start afresh."""
    own = part / _PLAN
    if own.is_file() and own.read_text(encoding="utf-8", errors="replace") == plan:
        return
    entries = [entry for entry in part.iterdir() if entry.name not in (_LOCK, _PLAN)]
    if entries and not own.is_file():
        raise DataError(f"{part}: is in the way, and no run of prepare left it: move it, or choose another place")
    write_atomically(own, "")  # killed from here on, there is nothing to go on from
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
