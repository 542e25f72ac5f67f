"""Word times against synthesisers' word boundaries, and on real speech against PocketSphinx's forced alignment.

    python -m recipes.benchmark.word_times [--manifest dev.jsonl] [--limit 40]

It prints the absolute differences of starts and ends over the words that were recognised. Real speech has no exact word
boundaries to compare with: both methods err, and the second table shows their agreement.
"""

from __future__ import annotations

import argparse
import difflib
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import asr
from asr.archive.manifest import Utterance, read
from asr.audio import SAMPLE_RATE, load
from asr.errors import DependencyError
from asr.recogniser import Recogniser
from recipes.benchmark.synthetic_words import VOICES, SpokenWord, Voice

SENTENCES = (
    "the old man stood at the window, and watched the boats come home before the storm",
    "she had never seen such a large garden, with so many red and yellow flowers",
    "we will meet again in the morning, when the children have gone to school",
    "he put the letter on the table, and left the house without another word",
    "the king was pleased with the young soldier, and gave him a horse and a sword",
    "there was no light in the street, but they could hear the sound of the river",
    "my father bought this farm many years ago, when land was cheap",
    "in the spring the snow melts, and the water runs down from the mountains",
    "you may ask me anything you like, but i shall not tell you where the money is",
    "they walked all night through the forest, and came to a small town at dawn",
)
_FRAME_SECONDS = 0.01  # of PocketSphinx
_COLUMNS = "words | start, median / p90 | end, median / p90 |\n|---|---|---|---|"


class Difference(NamedTuple):
    """Absolute differences of one word's times."""

    start_seconds: float
    end_seconds: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="real speech with texts; without it, only synthetic voices")
    parser.add_argument("--limit", type=int, default=40, help="utterances of real speech, spread over the manifest")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = asr.load(device="cpu")

    print(f"| voice | {_COLUMNS}")
    for voice in VOICES:
        used = "fitted on" if voice.fitted else "held out"
        print(row(f"{voice.name} ({used})", against_voice(recogniser, voice)), flush=True)

    if args.manifest is not None:
        utterances = [one for one in read(args.manifest) if one.text]
        chosen = utterances[:: max(1, len(utterances) // args.limit)][: args.limit]
        print(f"\n| real speech, against PocketSphinx | {_COLUMNS}")
        compared, found = against_pocketsphinx(recogniser, chosen)
        print(row(f"{compared} of {len(chosen)} utterances of {args.manifest.name}", found))


def row(name: str, differences: Sequence[Difference]) -> str:
    """A row of a table, in milliseconds."""
    cells = [
        f"{1000 * statistics.median(values):.0f} / {1000 * statistics.quantiles(values, n=10)[-1]:.0f} ms"
        for values in zip(*differences, strict=True)
    ]
    return f"| {name} | {len(differences)} | {' | '.join(cells)} |"


def against_voice(recogniser: Recogniser, voice: Voice) -> list[Difference]:
    """Differences from a synthesiser's word boundaries."""
    found: list[Difference] = []
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        for sentence in SENTENCES:
            spoken = voice.speak(sentence, wav)
            found += differences(spoken, recogniser.transcribe(str(wav), style="spoken").words)
    return found


def against_pocketsphinx(recogniser: Recogniser, utterances: Iterable[Utterance]) -> tuple[int, list[Difference]]:
    """Number of utterances compared, and differences from PocketSphinx's forced alignment of their references.

    Utterances that PocketSphinx cannot align, or with words missing from its dictionary, are left out.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise DependencyError("PocketSphinx is not installed: pip install 'spellstream[benchmark]'") from None
    decoder = Decoder(loglevel="FATAL", lm=None)

    compared, found = 0, []
    for utterance in utterances:
        text = (utterance.text or "").lower()
        if any(decoder.lookup_word(word) is None for word in text.split()):
            continue
        waveform = load(str(utterance.audio))
        pcm = (waveform.clamp(-1, 1) * 32767).to(torch.int16).numpy()

        decoder.set_align_text(text)
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        segments = [one for one in decoder.seg() or () if one.word[0] not in "<["]  # without silence and noise
        if not segments:
            continue

        aligned = [
            # A pronunciation other than the first is written as word(2).
            SpokenWord(
                one.word.partition("(")[0], one.start_frame * _FRAME_SECONDS, (one.end_frame + 1) * _FRAME_SECONDS
            )
            for one in segments
        ]
        compared += 1
        found += differences(aligned, recogniser.transcribe(waveform, sample_rate=SAMPLE_RATE, style="spoken").words)
    return compared, found


def differences(reference: Sequence[SpokenWord], words: Sequence[asr.Word]) -> list[Difference]:
    """Differences of the words that both sides have, in order."""
    texts = [word.text for word in reference], [word.text for word in words]
    matcher = difflib.SequenceMatcher(None, *texts, autojunk=False)
    return [
        Difference(abs(ours.start_seconds - theirs.start_seconds), abs(ours.end_seconds - theirs.end_seconds))
        for a, b, size in matcher.get_matching_blocks()
        for theirs, ours in zip(reference[a : a + size], words[b : b + size], strict=True)
    ]


if __name__ == "__main__":
    main()
