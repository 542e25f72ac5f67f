"""Synthetic labelled speech: espeak-ng, flite and festival read sentences in many voices, rates and pitches.

    python -m recipes.default_model.synthesise books.txt synthetic --hours 10

The text has one sentence a line, in the alphabet of the training transcripts. OUTPUT gets `synthetic.jsonl` and a
folder `synthetic` of 16 kHz Opus files with varying compression. Rooms, noise and bandwidth are left to the trainer's
augmentation, which varies them in every pass. Sentence n sounds the same in every run, so a stopped run can resume.
Needs Debian's espeak-ng, flite, festival and festvox-us-slt-hts; the diphone voices of festvox-kallpc16k and
festvox-kdlpc16k are used where they are installed.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import soundfile
import soxr
from rich.progress import Progress

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 0.6, 17.0
MIN_WORDS, MAX_WORDS = 2, 32
ENGINES = {"espeak": 0.35, "flite": 0.45, "festival": 0.2}  # the share of each; flite has the most natural voices

ESPEAK_ACCENTS = (
    "en-us",
    "en-us",
    "en-gb",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
ESPEAK_VARIANTS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Alex", "Alicia", "Andy", "Annie", "Denis", "Gene", "Jacky", "Lee", "Marco", "Mike", "adam", "anika", "belinda"),
    *("boris", "caleb", "david", "ed", "grandma", "grandpa", "john", "klatt2", "klatt4", "linda", "max", "michael"),
    *("paul", "quincy", "rob", "robert", "shelby", "steph", "travis", "victor", "zac"),
)
FLITE_VOICES = {"kal16": 105, "awb": 120, "rms": 105, "slt": 180}  # with each voice's natural pitch in Hz
FESTIVAL_VOICES = ("cmu_us_slt_arctic_hts", "kal_diphone", "ked_diphone")


@dataclass(frozen=True)
class Reading:
    """Settings for reading one sentence."""

    id: str
    text: str
    speaker: str
    command: tuple[str, ...]  # writes a WAV file to standard output
    stretch: float  # factor of the WAV's rate: shifts pitch and rate together
    compression: float  # 0 to 1, Opus


def espeak(draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """A voice and its command."""
    voice = f"{draw.choice(ESPEAK_ACCENTS)}+{draw.choice(ESPEAK_VARIANTS)}"
    rate, pitch = draw.randint(120, 210), draw.randint(20, 80)
    return voice, ("espeak-ng", "-v", voice, "-s", str(rate), "-p", str(pitch), "--stdout")


def flite(draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """A voice and its command."""
    voice = draw.choice([*FLITE_VOICES])
    pitch, stretch = FLITE_VOICES[voice] * draw.uniform(0.8, 1.25), draw.uniform(0.75, 1.15)
    settings = ("--setf", f"int_f0_target_mean={pitch:.0f}", "--setf", f"duration_stretch={stretch:.2f}")
    return f"flite-{voice}", ("flite", "-voice", voice, *settings, "-o", "/dev/stdout", "-t")


def festival(draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """A voice and its command."""
    voice = draw.choice(festival_voices())
    setting = f"(Parameter.set 'Duration_Stretch {draw.uniform(0.8, 1.15):.2f})"
    return f"festival-{voice}", ("text2wave", "-eval", f"(begin (voice_{voice}) {setting})")


@cache
def festival_voices() -> tuple[str, ...]:
    """The installed voices of `FESTIVAL_VOICES`."""
    listed = subprocess.run(["festival", "-b", "(print (voice.list))"], capture_output=True, text=True, check=True)
    return tuple(voice for voice in FESTIVAL_VOICES if re.search(rf"\b{voice}\b", listed.stdout))


def readings(sentences: list[str], seed: int) -> Iterator[Reading]:
    """Endless readings; number n depends only on the seed and n."""
    number = 0
    while True:
        draw = random.Random(f"{seed}-{number}")
        text = draw.choice(sentences)
        engine = draw.choices([*ENGINES], [*ENGINES.values()])[0]
        speaker, command = {"espeak": espeak, "flite": flite, "festival": festival}[engine](draw)
        stretch, compression = draw.uniform(0.92, 1.1), draw.uniform(0.3, 0.97)
        yield Reading(f"synthetic-{seed}-{number:06d}", text, speaker, command, stretch, compression)
        number += 1


def read_aloud(reading: Reading, folder: Path) -> float | None:
    """Write the Opus file; returns its seconds, or None if the engine failed."""
    target = folder / f"{reading.id}.opus"
    if not target.exists():
        # text2wave reads standard input, flite takes the text as its last argument, espeak-ng either.
        takes_argument = reading.command[0] != "text2wave"
        command = (*reading.command, reading.text) if takes_argument else reading.command
        given = b"" if takes_argument else reading.text.encode()
        try:
            said = subprocess.run(command, input=given, capture_output=True, timeout=30)
            waveform, rate = soundfile.read(io.BytesIO(_sized(said.stdout)), dtype="float32")
        except (soundfile.LibsndfileError, subprocess.TimeoutExpired):
            return None
        waveform = soxr.resample(waveform, rate * reading.stretch, SAMPLE_RATE)
        if not MIN_SECONDS <= len(waveform) / SAMPLE_RATE <= MAX_SECONDS:
            return None
        part = target.with_suffix(".part")
        soundfile.write(
            part, waveform, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=reading.compression
        )
        part.replace(target)
    return round(soundfile.info(target).duration, 3)


def _sized(wav: bytes) -> bytes:
    """Correct the sizes in a WAV header; a program that writes to a pipe cannot know them."""
    at = wav.find(b"data") + 4
    return (
        wav[:4]
        + (len(wav) - 8).to_bytes(4, "little")
        + wav[8:at]
        + (len(wav) - at - 4).to_bytes(4, "little")
        + wav[at + 4 :]
    )


def usable_sentences(path: Path, lines: int) -> list[str]:
    """Sentences of suitable length from evenly spread lines of the file."""
    with path.open("rb") as file:
        size = path.stat().st_size
        kept = []
        for i in range(lines):
            file.seek(size * i // lines)
            file.readline()  # the rest of a line
            text = file.readline().decode("utf-8", "replace").strip()
            if MIN_WORDS <= len(text.split()) <= MAX_WORDS and re.fullmatch(r"[a-z' ]+", text):
                kept.append(text)
    return list(dict.fromkeys(kept))


def main() -> None:
    """Synthesise until there are enough hours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="one sentence a line")
    parser.add_argument("output", type=Path, help="folder for the manifest and the audio")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other speech")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if missing := [tool for tool in ("espeak-ng", "flite", "festival", "text2wave") if not shutil.which(tool)]:
        sys.exit(f"not installed: {', '.join(missing)}")
    sentences = usable_sentences(arguments.text, lines=200_000)
    if not sentences:
        sys.exit(f"{arguments.text}: no sentence of {MIN_WORDS} to {MAX_WORDS} words in a-z, apostrophe and space")
    folder = arguments.output / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    seconds, rows = 0.0, []
    supply = readings(sentences, arguments.seed)
    with ThreadPoolExecutor(arguments.jobs) as pool, Progress() as progress:
        task = progress.add_task("hours", total=arguments.hours)
        while seconds < arguments.hours * 3600:
            batch = [next(supply) for _ in range(8 * arguments.jobs)]
            for reading, length in zip(batch, pool.map(lambda r: read_aloud(r, folder), batch), strict=True):
                if length is not None:
                    seconds += length
                    row = {"id": reading.id, "corpus": "synthetic", "speaker": reading.speaker}
                    audio = f"synthetic/{reading.id}.opus"
                    rows.append({**row, "audio": audio, "duration": length, "text": reading.text})
            progress.update(task, completed=seconds / 3600)
    (arguments.output / "synthetic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
