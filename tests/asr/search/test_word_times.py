"""Word times of the shipped model, against a speech synthesiser's word boundaries."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

import asr

SENTENCES = (
    "the old man stood at the window, and watched the boats come home before the storm",
    "she had never seen such a large garden, with so many red and yellow flowers",
    "we will meet again in the morning, when the children have gone to school",
    "he put the letter on the table, and left the house without another word",
)
SCRIPT = """
(Parameter.set 'Audio_Method nil)
(voice_kal_diphone)
(define (speak text wav)
  (let ((utterance (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave utterance wav 'riff)
    (mapcar (lambda (word) (format t "%s %f %f\\n" (car word) (car (cdr word)) (car (cdr (cdr word)))))
      (utt.features utterance 'Word '(name R:SylStructure.daughter1.daughter1.segment_start
                                           R:SylStructure.daughtern.daughtern.segment_end)))))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("festival") is None, reason="festival is not installed")
def test_words_begin_and_end_where_a_synthesiser_says(tmp_path: Path) -> None:
    """The median word lasted 40 ms: its end was that of its last token, 60 ms too early in the median."""
    recogniser = asr.load(device="cpu")
    starts, ends = [], []
    for i, sentence in enumerate(SENTENCES):
        script, wav = tmp_path / f"{i}.scm", tmp_path / f"{i}.wav"
        script.write_text(f'{SCRIPT}\n(speak "{sentence}" "{wav}")\n')
        done = subprocess.run(["festival", "-b", script], capture_output=True, text=True, check=True)
        spoken = [line.split() for line in done.stdout.splitlines() if len(line.split()) == 3]
        found = list(recogniser.transcribe(str(wav), style="spoken").words)
        for text, start, end in spoken:  # the words that were recognised, in order
            place = next((i for i, word in enumerate(found) if word.text == text), None)
            if place is None:
                continue
            starts.append(abs(found[place].start_seconds - float(start)))
            ends.append(abs(found[place].end_seconds - float(end)))
            found = found[place + 1 :]
    assert len(starts) > 20
    assert statistics.median(starts) <= 0.04
    assert statistics.median(ends) <= 0.06
