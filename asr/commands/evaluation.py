"""A manifest transcribed and scored: which utterances, how many errors, how fast; and the report of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import __version__
from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.config import to_dict
from asr.errors import DataError
from asr.terminal import Progress, say
from asr.text import metrics
from asr.text.normalise import normalise

if TYPE_CHECKING:
    from asr.config import SearchConfig
    from asr.recogniser import Recogniser

__all__ = ["Evaluation", "Selection", "report", "run", "select", "settings", "to_json"]


@dataclass(frozen=True)
class Selection:
    """Utterances with their normalised texts, and how many were left out for want of a text to compare with."""

    rows: tuple[tuple[Utterance, str], ...]
    skipped: int


@dataclass(frozen=True)
class Evaluation:
    """Every utterance that could be read, scored, in the manifest's order; `wall_seconds` is what it all took."""

    scored: tuple[metrics.Scored, ...]
    failed: int
    skipped: int
    wall_seconds: float

    @property
    def audio_seconds(self) -> float:
        return sum(one.duration_seconds for one in self.scored)

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for each second of audio, reading included."""
        return self.wall_seconds / max(self.audio_seconds, 1e-9)


def select(path: Path, corpora: Sequence[str] = (), limit: int | None = None) -> Selection:
    """Read a manifest and keep what can be scored.

    Args:
        path: the manifest.
        corpora: only these; all when empty.
        limit: only so many, the first.

    Raises:
        DataError: the manifest is broken, has no such corpus, or nothing is left.
    """
    utterances = manifest.read(path)
    known = dict.fromkeys(one.corpus for one in utterances)
    for name in corpora:
        if name not in known:
            raise DataError(f"{path}: no corpus {name!r}; there are {', '.join(known)}")
    chosen = [one for one in utterances if not corpora or one.corpus in corpora]
    pairs = [(one, _reference(one.text)) for one in chosen]
    kept = [(one, reference) for one, reference in pairs if reference is not None]
    if not kept:
        raise DataError(f"{path}: none of {len(chosen)} utterances has a text to compare with")
    return Selection(tuple(kept[:limit]), len(pairs) - len(kept))


def _reference(text: str | None) -> str | None:
    """The text normalised; None where there is none or it cannot be. An empty text says that nothing was said."""
    return normalise(text) if text and text.strip() else text and ""


def run(
    recogniser: Recogniser,
    selection: Selection,
    progress: Progress,
    *,
    search: SearchConfig,
    batch_size: int,
) -> Evaluation:
    """Transcribe and score; each utterance that fails is named in one line."""
    rows_of: dict[str, list[int]] = {}
    for row, (utterance, _) in enumerate(selection.rows):
        rows_of.setdefault(str(utterance.audio), []).append(row)
    scored: dict[int, metrics.Scored] = {}
    started = time.perf_counter()
    outcomes = recogniser.transcribe_many(rows_of, search=search, word_timestamps=False, batch_size=batch_size)
    for source, transcript, error in outcomes:
        for row in rows_of[source]:
            utterance, reference = selection.rows[row]
            if transcript is None:
                say(f"{utterance.id}: {error}")
                progress.advance()
                continue
            hypothesis = normalise(transcript.text) or transcript.text
            seconds = transcript.duration_seconds
            scored[row] = metrics.score(utterance.id, utterance.corpus, reference, hypothesis, seconds)
            progress.advance(seconds)
    wall_seconds = time.perf_counter() - started
    # In the manifest's order, for the interval depends on it and outcomes come in any.
    in_order = tuple(scored[row] for row in sorted(scored))
    return Evaluation(in_order, len(selection.rows) - len(scored), selection.skipped, wall_seconds)


def settings(recogniser: Recogniser, search: SearchConfig, batch_size: int) -> dict[str, Any]:
    """What the scores depend on, beside the model and the manifest."""
    import torch

    return {
        "spellstream": __version__,
        "device": recogniser.device.type,
        "dtype": recogniser.dtype,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "search": to_dict(search),
    }


def to_json(evaluation: Evaluation, settings: dict[str, Any]) -> dict[str, Any]:
    """All of it as plain values for `json.dumps`; rates are fractions."""
    return {
        "settings": settings,
        "failed": evaluation.failed,
        "skipped": evaluation.skipped,
        "wall_seconds": round(evaluation.wall_seconds, 3),
        "audio_seconds": round(evaluation.audio_seconds, 3),
        "real_time_factor": evaluation.real_time_factor,
        **metrics.to_json(metrics.summarise(evaluation.scored), evaluation.scored),
    }


def report(evaluation: Evaluation, settings: dict[str, Any], *, title: str, worst: int, confusions: int) -> None:
    """Print the table, the speed, the settings, the worst utterances and the most frequent errors."""
    from rich.console import Console

    # In a file or pipe, lines are as long as they need be.
    console = Console() if sys.stdout.isatty() else Console(width=200)

    def line(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    console.print(metrics.table(metrics.summarise(evaluation.scored), title))
    factor = evaluation.real_time_factor
    line(f"{evaluation.audio_seconds:.1f} s of audio in {evaluation.wall_seconds:.1f} s: real-time factor {factor:.4f}")
    line(" · ".join(f"{name} {value}" for name, value in _flat(settings)))
    if evaluation.skipped:
        line(f"{evaluation.skipped} utterances were left out: no text, or digits or another script in it")
    for one in metrics.worst(evaluation.scored, worst):
        words = one.words
        line(f"\n{one.id} ({one.corpus}): {words.errors} errors in {words.reference_length} words")
        line(metrics.align_text(one.reference, one.hypothesis))
    if found := metrics.confusions(evaluation.scored, confusions) if confusions else []:
        line("\nmost frequent errors:")
    for confusion in found:
        pair = f"{confusion.reference or '***'} → {confusion.hypothesis or '***'}"
        line(f"{confusion.occurrences:6d}  {confusion.kind:12}  {pair}")


def _flat(settings: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value
