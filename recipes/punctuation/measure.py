"""Error rates and pauses of the recogniser, as settings for `spellstream train-punctuation --config`.

    python -m recipes.punctuation.measure MANIFEST...

Manifest: JSON lines with `audio` (relative to the manifest) and `written`. The shipped model recognises the recordings;
the correct words are aligned to the written ones, and the pause after each is sorted by its mark. TOML goes
to standard output.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.output.timed import Word
from asr.text.marks import read_marks
from asr.text.normalise import plain
from asr.training.punctuation.config import SHORTEST_PAUSE_SECONDS
from recipes.punctuation.evaluate import recognised

_KINDS = {"": "plain", ",": "comma", ":": "comma", ".": "end", "?": "end", "!": "end"}


@dataclass
class Found:
    """Counts of aligned words, and seconds of pause by kind."""

    words: Counter[str] = field(default_factory=Counter)  # substitute, delete, insert and all
    pauses: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in set(_KINDS.values())})

    def add(self, written: str, words: list[Word]) -> None:
        """Align a recording's words to what was written."""
        import jiwer

        wanted = read_marks(written)
        if not wanted or not words:
            return
        # A placeholder for words that `plain` makes empty: jiwer would drop them and shift the rest.
        keys = " ".join(plain(word.text).replace(" ", "") or "X" for word in wanted)
        for chunk in jiwer.process_words(keys, " ".join(word.text for word in words)).alignments[0]:
            ours = range(chunk.ref_start_idx, chunk.ref_end_idx)
            theirs = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
            self.words[chunk.type] += max(len(ours), len(theirs))
            self.words["all"] += len(ours)
            if chunk.type != "equal":
                continue
            for i, j in zip(ours, theirs, strict=True):
                if i + 1 < len(wanted) and j + 1 < len(words):
                    pause = max(0.0, words[j + 1].start_seconds - words[j].end_seconds)
                    self.pauses[_KINDS[wanted[i].mark]].append(pause)

    def toml(self) -> Iterator[str]:
        """The settings as lines of TOML."""
        words = self.words
        yield f"[errors]  # of {words['all']} words"
        for name, kind in (("substituted", "substitute"), ("deleted", "delete"), ("inserted", "insert")):
            yield f"{name} = {words[kind] / max(1, words['all']):.3f}"
        yield "\n[pauses]  # median in seconds, spread in log units, share of words"
        for kind in ("plain", "comma", "end"):
            seconds = np.array(self.pauses[kind])
            heard = seconds[seconds >= SHORTEST_PAUSE_SECONDS]
            if len(heard) > 1:
                share = len(heard) / len(seconds)
                spread = np.log(heard).std()
                yield f"{kind} = [{np.median(heard):.2f}, {spread:.2f}, {share:.2f}]  # of {len(seconds)}"


def main() -> None:
    """See the module's docstring."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    found = Found()
    for path in map(Path, sys.argv[1:]):
        for segments, written in recognised(path):
            found.add(written, [word for segment in segments for word in segment.words])
    print("\n".join(found.toml()))


if __name__ == "__main__":
    main()
