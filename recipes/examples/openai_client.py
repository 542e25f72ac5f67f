"""Transcribe a file with OpenAI's own client, on your own server.

spellstream serve &
python recipes/examples/openai_client.py talk.mp3        (pip install openai)
"""

import sys
from pathlib import Path

from openai import OpenAI

path, *rest = sys.argv[1:]
client = OpenAI(base_url=rest[0] if rest else "http://localhost:2700/v1", api_key="not needed without a key")
with Path(path).open("rb") as file:
    answer = client.audio.transcriptions.create(
        file=file, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word"]
    )
for word in answer.words or []:
    print(f"{word.start:7.2f} {word.end:7.2f} {word.word}")
