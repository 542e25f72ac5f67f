"""Scoring of our transcripts, or of another system's texts, against the references in a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from asr.archive.manifest import Utterance, scan
from asr.errors import DataError
from asr.terminal import Progress, say
from asr.text import metrics
from asr.text.marks import WrittenScore, read_marks, score_written
from asr.text.normalise import fold, normalise

if TYPE_CHECKING:
    from asr.archive.hypotheses import Hypotheses
    from asr.audio.tracks import Track
    from asr.config import SearchConfig
    from asr.processes import Processes
    from asr.recogniser import Recogniser

__all__ = ["ErrorRates", "Evaluation", "Selection", "score_hypotheses", "select", "transcribe"]


@dataclass(frozen=True)
class Selection:
    """Utterances with a reference text.

    Args:
        utterances: in the manifest's order.
        skipped: number of utterances without a usable reference text.
        errors: rows of the manifest that cannot be used.
    """

    utterances: tuple[Utterance, ...]
    skipped: int
    errors: tuple[DataError, ...]


@dataclass
class ErrorRates:
    """Word and character errors of each utterance, under the chosen normaliser and under the plain one.

    Args:
        normaliser: for both sides, see `asr.text.normalise.normaliser`.
        marks: also score marks and capitals, if the reference has any.
    """

    normaliser: Callable[[str], str]
    marks: bool = False
    scored: dict[str, metrics.Scored] = field(default_factory=dict)
    plain: dict[str, metrics.Scored] = field(default_factory=dict)
    written: dict[str, WrittenScore] = field(default_factory=dict)

    def add(self, utterance: Utterance, text: str, seconds: float, written: str | None = None) -> None:
        """Score one text; the plain normaliser is skipped if the reference has digits or other scripts.

        Args:
            utterance: the reference.
            text: text as recognised.
            seconds: length of the audio.
            written: text in written form; None: same as `text`.
        """
        reference = utterance.text or ""
        sides = self.normaliser(reference), self.normaliser(text)
        self.scored[utterance.id] = metrics.score(utterance.id, utterance.corpus, *sides, seconds)
        if self.normaliser is not fold and is_plain(reference):
            sides = fold(reference), fold(text)
            self.plain[utterance.id] = metrics.score(utterance.id, utterance.corpus, *sides, seconds)
        if self.marks and _is_written(reference):
            self.written[utterance.id] = score_written(reference, text if written is None else written)


@dataclass(frozen=True)
class Evaluation:
    """The scores of every utterance that has a hypothesis, in the manifest's order.

    Args:
        scored: under the chosen normaliser.
        plain: under the plain normaliser, if another was chosen, without utterances that it cannot score.
        failed: utterances without a hypothesis, and rows of the manifest or of hypotheses that cannot be used.
        skipped: number of utterances without a usable reference text.
        wall_seconds: time for reading and recognition; None if nothing was recognised.
        written: scores of marks and capitals, one for each utterance whose reference has any; empty unless requested.
    """

    scored: tuple[metrics.Scored, ...]
    plain: tuple[metrics.Scored, ...]
    failed: int
    skipped: int
    wall_seconds: float | None
    written: tuple[WrittenScore, ...] = ()

    @property
    def audio_seconds(self) -> float:
        return sum(one.duration_seconds for one in self.scored)

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of audio, including reading."""
        return None if self.wall_seconds is None else self.wall_seconds / max(self.audio_seconds, 1e-9)


def select(path: Path, corpora: Sequence[str] = (), limit: int | None = None, *, plain: bool = True) -> Selection:
    """Read a manifest and select the utterances that can be scored.

    Args:
        path: the manifest, see `asr.archive.manifest`.
        corpora: keep only these; all when empty.
        limit: keep at most this many utterances from the start of the manifest.
        plain: leave out references with digits or other scripts, which the plain normaliser cannot compare.

    Raises:
        DataError: the manifest cannot be read, has no such corpus, or has no utterance with a text.
    """
    utterances: dict[str, Utterance] = {}
    errors: list[DataError] = []
    for place, found in scan(path):
        if isinstance(found, DataError):
            errors.append(found)
        elif found.id in utterances:
            errors.append(DataError(f"{place}: id {found.id!r} was used before"))
        else:
            utterances[found.id] = found

    known = dict.fromkeys(one.corpus for one in utterances.values())
    for name in corpora:
        if name not in known:
            raise DataError(f"{path}: no corpus {name!r}; there are {', '.join(known)}")

    chosen = [one for one in utterances.values() if not corpora or one.corpus in corpora]
    kept = [one for one in chosen if one.text is not None and (not plain or is_plain(one.text))]
    if not kept and not errors:
        raise DataError(f"{path}: none of {len(chosen)} utterances has a text to compare with")
    return Selection(tuple(kept[:limit]), len(chosen) - len(kept), tuple(errors))


def is_plain(text: str) -> bool:
    """Whether `normalise` keeps all of a reference. An empty text means that nothing was said."""
    return not text.strip() or normalise(text) is not None


def _is_written(reference: str) -> bool:
    """Whether a reference has marks and capitals; text all in one case does not count."""
    mixed = reference != reference.lower() and reference != reference.upper()
    return mixed or any(word.mark for word in read_marks(reference))


def transcribe(
    recogniser: Recogniser,
    selection: Selection,
    rates: ErrorRates,
    progress: Progress,
    *,
    search: SearchConfig,
    batch_size: int,
    track: Track = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Transcribe and score; each utterance that fails is reported in one line on standard error."""
    by_audio: dict[str, list[Utterance]] = {}
    for utterance in selection.utterances:
        by_audio.setdefault(str(utterance.audio), []).append(utterance)

    started = time.perf_counter()
    outcomes = recogniser.transcribe_many(
        by_audio,
        search=search,
        word_timestamps=rates.marks,  # marks depend on the pauses between words
        batch_size=batch_size,
        track=track,
        style="written" if rates.marks else "spoken",
        processes=processes,
    )
    for source, transcript, error in outcomes:
        for utterance in by_audio[source]:
            if transcript is None:
                say(f"{utterance.id}: {error}")
                progress.advance()
            else:
                rates.add(utterance, transcript.spoken, transcript.duration_seconds, transcript.text)
                progress.advance(transcript.duration_seconds)
    return _evaluation(selection, rates, time.perf_counter() - started)


def score_hypotheses(hypotheses: Hypotheses, selection: Selection, rates: ErrorRates) -> Evaluation:
    """Score texts of another system; each utterance without one is reported in one line on standard error.

    The audio is opened only if the manifest has no duration, and need not exist otherwise.
    """
    from asr.audio.decode import duration_seconds

    for utterance in selection.utterances:
        text = hypotheses.of(utterance)
        if text is None:
            say(f"{utterance.id}: no hypothesis")
            continue
        seconds = utterance.duration_seconds or duration_seconds(utterance.audio) or 0.0
        rates.add(utterance, text, seconds)
    return _evaluation(selection, rates, None, len(hypotheses.errors))


def _evaluation(selection: Selection, rates: ErrorRates, wall_seconds: float | None, unreadable: int = 0) -> Evaluation:
    # In the manifest's order, since the interval depends on it and transcripts arrive in any order.
    names = [one.id for one in selection.utterances]
    return Evaluation(
        scored=tuple(rates.scored[name] for name in names if name in rates.scored),
        plain=tuple(rates.plain[name] for name in names if name in rates.plain),
        failed=len(names) - len(rates.scored) + len(selection.errors) + unreadable,
        skipped=selection.skipped,
        wall_seconds=wall_seconds,
        written=tuple(rates.written[name] for name in names if name in rates.written),
    )
