#!/usr/bin/env bash
# Fine-tunes the shipped model on your own recordings and measures it before and after.
#
#   recipes/examples/finetune.sh FOLDER WORK [SETTING ...]
#
# FOLDER holds audio files with a NAME.txt beside each, in lower case without digits; ten minutes are a start, an hour is
# better. Every tenth file is held out. WORK gets all output; the new model is WORK/run/best. SETTINGs override those of
# the fine-tuning, such as optimiser.max_steps=400. Needs the extra `train`.
set -euo pipefail

folder=$(cd "${1:?usage: finetune.sh FOLDER WORK [SETTING ...]}" && pwd)
work=${2:?usage: finetune.sh FOLDER WORK [SETTING ...]}
shift 2
mkdir -p "$work"

# A manifest line for each recording.
python - "$folder" "$work" <<'PYTHON'
import json
import sys
from pathlib import Path

folder, work = map(Path, sys.argv[1:])
texts = sorted(folder.glob("*.txt"))
for part, held_out in (("train", False), ("dev", True)):
    with (work / f"{part}.jsonl").open("w") as manifest:
        for number, text in enumerate(texts):
            audio = next(path for path in sorted(folder.glob(f"{text.stem}.*")) if path.suffix != ".txt")
            if (number % 10 == 9) == held_out:
                manifest.write(json.dumps({"id": text.stem, "audio": str(audio), "text": text.read_text().strip()}) + "\n")
PYTHON

settings=()
for setting in "$@"; do settings+=(--set "$setting"); done
for part in train dev; do
    python -m asr prepare "$work/$part.jsonl" --output "$work/$part"
done
python -m asr finetune --data "$work/train" --dev "$work/dev" --output "$work/run" "${settings[@]}"
python -m asr evaluate "$work/dev.jsonl"
python -m asr evaluate "$work/dev.jsonl" --model "$work/run/best"
