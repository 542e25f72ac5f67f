"""SubRip subtitles beside every recording in a folder; recordings that already have them are skipped.

python recipes/examples/subtitles.py recordings --suffixes .mp4 .mp3
"""

import argparse
from pathlib import Path

import asr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--suffixes", nargs="+", default=[".mp4", ".mkv", ".mp3", ".wav", ".flac"])
options = parser.parse_args()

recogniser = asr.load()
for path in sorted(options.folder.rglob("*")):
    subtitles = path.with_suffix(".srt")
    if path.suffix.lower() not in options.suffixes or subtitles.exists():
        continue
    try:
        recogniser.transcribe(path).save(subtitles)
    except asr.SpellstreamError as error:  # a broken file does not stop the others
        print(error)
    else:
        print(subtitles)
