"""A teacher's transcripts of unlabelled speech, checked by our own model.

    pip install -e '.[teacher]'
    python -m recipes.default_model.teacher label untold.jsonl --teacher whisper-base --output heard.jsonl
    python -m recipes.default_model.teacher accept untold.jsonl heard.jsonl --holdout dev.jsonl --output told.jsonl

The teacher is Whisper, a CTranslate2 model in a folder. It writes numbers as words, since tokens with digits are
suppressed. Clips are joined, with silence between them, to windows of its 30 s, and our CTC head gives each word to its
clip.

A label is accepted by its *gap*: the log-probability of our model's best CTC path minus that of the label's path, in
nats per token. If both models agree, the gap is small; a hallucinated text has a large one. To choose the largest gap
to accept, label recordings whose texts are known, and see how many words are wrong at each:

    python -m recipes.default_model.teacher label dev.jsonl --all --teacher whisper-base --output heard-dev.jsonl
    python -m recipes.default_model.teacher gaps dev.jsonl heard-dev.jsonl

`label` resumes where it was stopped. Recordings longer than a window must first be cut, with `cut`.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

import asr
from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.audio import SAMPLE_RATE, blocks
from asr.audio.segment import split
from asr.errors import AudioError, ConfigError, DataError, DependencyError
from asr.search.alignment import align
from asr.text import metrics
from asr.text.normalise import normalise
from recipes.status import status

if TYPE_CHECKING:
    from asr.recogniser import Recogniser
    from asr.text.tokenizer import Tokenizer

__all__ = ["Label", "Limits", "Window", "gap_of", "give_words", "joined", "main", "refusal", "windows"]

WINDOW_SECONDS = 28.5  # of Whisper's 30, so that the last word is not at the edge
SILENCE_SECONDS = 0.9  # between clips; less lets the teacher join sentences
LOUDNESS = 0.1  # root mean square of the louder quarter of each clip, so that no clip in a window is drowned out
SIGNS = "0123456789%$£€&"
GAPS = (0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Label:
    """The teacher's transcript of one utterance.

    Attributes:
        id: of the utterance.
        text: normalised; empty if the teacher recognised nothing.
        gap: nats per token by which the best CTC path beats the path of `text`.
        log_prob: mean log-probability of the teacher's tokens, of the whole window.
        compression: size of the window's text over its size compressed; a text that repeats itself has a high one.
        language: detected by the teacher in the window.
    """

    id: str
    text: str
    gap: float
    log_prob: float
    compression: float
    language: str


@dataclass(frozen=True)
class Limits:
    """Limits for accepted labels. The defaults were measured on dev, see LOG.md."""

    gap: float = 2.0
    log_prob: float = -0.8
    compression: float = 2.4
    letters_per_second: tuple[float, float] = (4.0, 26.0)
    words: int = 2  # shorter texts are made up too often


class Teacher(NamedTuple):
    """Whisper, and its tokens for digits and for signs that are spoken as words."""

    whisper: Any  # faster_whisper.WhisperModel
    digits: list[int]
    beam_size: int


class Window(NamedTuple):
    """Clips in one window of the teacher."""

    utterances: list[Utterance]
    waveforms: list[Tensor]  # (samples,) each


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.default_model.teacher", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)

    cut = commands.add_parser("cut", help="cut long recordings at their pauses")
    cut.add_argument("manifest", type=Path)
    cut.add_argument("--output", type=Path, required=True, help="folder for the pieces and their manifest pieces.jsonl")
    cut.set_defaults(run=_cut)

    label = commands.add_parser("label", help="let the teacher transcribe the utterances without a text")
    label.add_argument("manifest", type=Path)
    label.add_argument("--teacher", required=True, help="folder of a Whisper model for faster-whisper")
    label.add_argument("--model", default="default", help="our model, which checks; default: the shipped one")
    label.add_argument("--beam-size", type=int, default=1, help="the teacher's; default 1")
    label.add_argument("--all", action="store_true", help="label utterances with a text too")
    label.add_argument("--output", type=Path, required=True, help="labels, as JSON lines")
    label.set_defaults(run=_label)

    accept = commands.add_parser("accept", help="write a manifest of the utterances whose labels can be trusted")
    accept.add_argument("manifest", type=Path)
    accept.add_argument("labels", type=Path)
    accept.add_argument("--gap", type=float, default=Limits.gap, help=f"largest gap; default {Limits.gap}")
    accept.add_argument("--holdout", type=Path, action="append", default=[], help="leave out this manifest's sentences")
    accept.add_argument("--output", type=Path, required=True, help="the manifest")
    accept.set_defaults(run=_accept)

    gaps = commands.add_parser("gaps", help="error rate and share of the time that is left at several largest gaps")
    gaps.add_argument("manifest", type=Path)
    gaps.add_argument("labels", type=Path)
    gaps.set_defaults(run=_gaps)

    options = parser.parse_args(arguments)
    return status("teacher", lambda: options.run(options))


def windows(utterances: Iterable[Utterance], seconds: float = WINDOW_SECONDS) -> Iterator[Window]:
    """Clips in their order, as many together as fit into a window.

    Clips that cannot be read, or are longer than a window, are left out with a line on standard error.
    """
    window, filled = Window([], []), 0.0
    for utterance in utterances:
        try:
            waveform = torch.cat([torch.zeros(0), *blocks(utterance.audio)])
        except AudioError as error:
            print(error, file=sys.stderr)
            continue
        length = len(waveform) / SAMPLE_RATE
        if length > seconds:
            print(f"{utterance.audio}: {length:.0f} s are too long for a window: cut it first", file=sys.stderr)
            continue
        if window.utterances and filled + length > seconds:
            yield window
            window, filled = Window([], []), 0.0
        window.utterances.append(utterance)
        window.waveforms.append(waveform)
        filled += length + SILENCE_SECONDS
    if window.utterances:
        yield window


def joined(waveforms: Sequence[Tensor]) -> Tensor:
    """The clips in a row `(samples,)`, equally loud, with silence between them."""
    silence = torch.zeros(int(SILENCE_SECONDS * SAMPLE_RATE))
    parts = []
    for waveform in waveforms:
        centred = waveform - waveform.mean()
        loud = centred.square().sort().values[-max(1, len(centred) // 4) :].mean().sqrt()
        parts += [(centred * (LOUDNESS / max(float(loud), LOUDNESS / 50))).clamp(-1, 1), silence]
    return torch.cat(parts[:-1])


def gap_of(log_probs: Tensor, tokens: Sequence[int], spans: Sequence[tuple[int, int]]) -> float:
    """Nats for each token by which the best CTC path beats the aligned one.

    Args:
        log_probs: `(T, V)`.
        tokens: of the text.
        spans: frames of each token, as `asr.search.alignment.align` gives them; blanks lie between them.
    """
    path = torch.zeros(len(log_probs), dtype=torch.long)
    for token, (first, after) in zip(tokens, spans, strict=True):
        path[first:after] = token
    aligned = log_probs.gather(1, path[:, None]).sum()
    return float(log_probs.max(dim=1).values.sum() - aligned) / max(1, len(tokens))


def give_words(tokenizer: Tokenizer, log_probs: Sequence[Tensor], text: str) -> list[tuple[str, float]]:
    """Text and gap of each clip, given its CTC log-probabilities `(T, V)` and the text of all of them in a row."""
    ends = torch.tensor([len(p) for p in log_probs]).cumsum(0)
    tokens = tokenizer.encode(text)
    spans = align(torch.cat(list(log_probs)), tokens)
    if spans is None:  # more tokens than frames: a hallucination
        return [("", 0.0) for _ in log_probs]

    words: list[list[str]] = [[] for _ in log_probs]
    kept: list[list[int]] = [[] for _ in log_probs]  # places of tokens
    for word, first, after in tokenizer.words(tokens):
        clip = int(torch.searchsorted(ends, spans[first][0], right=True))
        words[clip].append(word)
        kept[clip] += range(first, after)

    found = []
    for clip, (own, places) in enumerate(zip(words, kept, strict=True)):
        frames = len(log_probs[clip])
        start = int(ends[clip]) - frames
        inside = [(max(0, spans[i][0] - start), min(frames, spans[i][1] - start)) for i in places]
        found.append((" ".join(own), gap_of(log_probs[clip], [tokens[i] for i in places], inside)))
    return found


def refusal(label: Label, seconds: float, limits: Limits, heldout: frozenset[str] = frozenset()) -> str | None:
    """The reason to reject the label of an utterance of this length; None if it is accepted."""
    slowest, fastest = limits.letters_per_second
    reasons = {
        "nothing heard": not label.text,
        "not English": label.language != "en",
        "a short text": len(label.text.split()) < limits.words,
        "a large gap": label.gap > limits.gap,
        "an unsure teacher": label.log_prob < limits.log_prob,
        "a text that repeats itself": label.compression > limits.compression,
        "too much or too little text": not slowest <= len(label.text) / seconds <= fastest,
        "a sentence held out": label.text in heldout,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _cut(options: argparse.Namespace) -> None:
    import soundfile

    options.output.mkdir(parents=True, exist_ok=True)
    pieces = []
    for utterance in manifest.read(options.manifest):
        for number, span in enumerate(split(blocks(utterance.audio))):
            name = f"{utterance.id.replace('/', '_')}-{number:04d}"
            audio = options.output / f"{name}.flac"
            soundfile.write(audio, span.waveform.numpy(), SAMPLE_RATE)
            seconds = len(span.waveform) / SAMPLE_RATE
            pieces.append(replace(utterance, id=name, audio=audio, duration_seconds=seconds, text=None))
    manifest.write(options.output / "pieces.jsonl", pieces)
    print(f"{options.output / 'pieces.jsonl'}: {len(pieces)} pieces")


def _label(options: argparse.Namespace) -> None:
    utterances = [u for u in manifest.read(options.manifest) if options.all or u.text is None]
    done = {label.id for label in _read_labels(options.output)} if options.output.exists() else set()
    left = [u for u in utterances if u.id not in done]
    teacher, recogniser = _teacher(options.teacher, options.beam_size), asr.load(options.model)
    with options.output.open("a", encoding="utf-8") as output, Progress() as progress:
        task = progress.add_task("label", total=len(utterances), completed=len(utterances) - len(left))
        for window in windows(left):
            for label in _labels(window, teacher, recogniser):
                output.write(json.dumps(asdict(label)) + "\n")
            output.flush()
            progress.advance(task, len(window.utterances))


def _teacher(folder: str, beam_size: int) -> Teacher:
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise DependencyError("the teacher needs faster-whisper: pip install 'spellstream[teacher]'") from error
    if not (Path(folder) / "model.bin").is_file():
        raise DataError(f"{folder}: no model.bin, so it is not a CTranslate2 model")
    whisper = WhisperModel(folder, compute_type="float16" if torch.cuda.is_available() else "int8")
    vocabulary = whisper.hf_tokenizer
    texts = (vocabulary.decode([token]) for token in range(vocabulary.get_vocab_size()))
    return Teacher(whisper, [i for i, text in enumerate(texts) if any(sign in SIGNS for sign in text)], beam_size)


@torch.inference_mode()
def _labels(window: Window, teacher: Teacher, recogniser: Recogniser) -> list[Label]:
    """The labels of a window's clips."""
    segments, info = teacher.whisper.transcribe(
        joined(window.waveforms).numpy(),
        beam_size=teacher.beam_size,
        condition_on_previous_text=False,
        suppress_tokens=[-1, *teacher.digits],  # -1: Whisper's own list
    )
    heard = list(segments)
    written = " ".join(segment.text for segment in heard)
    log_prob = sum(segment.avg_logprob for segment in heard) / max(1, len(heard))
    size = len(written.encode())
    compression = size / len(zlib.compress(written.encode())) if size else 0.0

    model, log_probs = recogniser.model, []
    for waveform in window.waveforms:
        lengths = torch.tensor([len(waveform)], device=recogniser.device)
        encoded = model.encode(waveform[None].to(recogniser.device), lengths)
        log_probs.append(model.ctc_log_probs(encoded.encoder_out)[0, : encoded.encoder_out_lengths[0]].float().cpu())
    texts = give_words(recogniser.tokenizer, log_probs, normalise(written) or "")
    return [
        Label(utterance.id, text, gap, log_prob, compression, info.language)
        for utterance, (text, gap) in zip(window.utterances, texts, strict=True)
    ]


def _read_labels(path: Path) -> list[Label]:
    try:
        return [Label(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected the lines that `label` writes: {error}") from None


def _accept(options: argparse.Namespace) -> None:
    if not options.gap > 0:
        raise ConfigError(f"--gap {options.gap}: expected a number above 0")
    heldout = frozenset(normalise(u.text) for path in options.holdout for u in manifest.read(path) if u.text)
    limits, counts = Limits(gap=options.gap), Counter[str]()
    accepted = []
    for utterance, label in _with_labels(options.manifest, options.labels):
        reason = refusal(label, utterance.duration_seconds or 1.0, limits, heldout)
        counts[reason or "accepted"] += 1
        if reason is None:
            accepted.append(replace(utterance, text=label.text))
    manifest.write(options.output, accepted)
    hours = sum(u.duration_seconds or 0.0 for u in accepted) / 3600
    print(f"{options.output}: {hours:.2f} h;", ", ".join(f"{count} {reason}" for reason, count in counts.most_common()))


def _gaps(options: argparse.Namespace) -> None:
    told = [
        (u, text, label)
        for u, label in _with_labels(options.manifest, options.labels)
        if label.text and (text := normalise(u.text or ""))
    ]
    total = sum(u.duration_seconds or 0.0 for u in manifest.read(options.manifest))
    for most in GAPS:
        kept = [(u, text, label) for u, text, label in told if label.gap <= most]
        scores = [metrics.score(u.id, u.corpus, text, label.text, u.duration_seconds) for u, text, label in kept]
        if scores:
            rate = sum((one.words for one in scores[1:]), scores[0].words).rate
            share = sum(u.duration_seconds or 0.0 for u, _, _ in kept) / total
            print(f"gap up to {most:3.1f}: {share:4.0%} of the time, WER {100 * rate:5.1f} %")


def _with_labels(source: Path, labels: Path) -> list[tuple[Utterance, Label]]:
    found = {label.id: label for label in _read_labels(labels)}
    return [(u, found[u.id]) for u in manifest.read(source) if u.id in found]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
