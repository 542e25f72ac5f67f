"""A folder with the layout of LibriSpeech and a few real utterances."""

from __future__ import annotations

from pathlib import Path

import soundfile

from asr import audio
from asr.archive import manifest

# Part, source manifest, number of utterances: training and test data of the recipe's tiny config.
PARTS = (("dev-clean", "core.jsonl", 24), ("dev-other", "dev.jsonl", 4))


def make_librispeech(speech: Path, corpus: Path) -> None:
    """Write LibriSpeech/part/speaker/chapter/*.flac and *.trans.txt below `corpus`, in capitals like the original."""
    for part, source, count in PARTS:
        short = [u for u in manifest.read(speech / source) if u.corpus == "dev-clean" and u.duration_seconds < 5]
        for one in short[:: len(short) // count][:count]:
            speaker, chapter, _ = one.id.split("-")
            folder = corpus / "LibriSpeech" / part / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{one.id}.flac", audio.load(one.audio).numpy(), audio.SAMPLE_RATE)
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as transcripts:
                transcripts.write(f"{one.id} {(one.text or '').upper()}\n")
