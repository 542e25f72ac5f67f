"""A SpeechBrain model in SpeechBrain and imported: agreement of the texts, and CPU time in batches on one thread.

    python -m recipes.benchmark.imported_training train.jsonl --corpus an4 --output crdnn
    python -m recipes.benchmark.imported test.jsonl --corpus an4 --folder crdnn

SpeechBrain is used in its standard way: `transcribe_batch` with the beam and scorers of the model's own recipe. Ours
runs with the same search in float32 and in float16, and with the margins of the beam that `--margins` gives.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import audio, checkpoint
from asr.importing.speechbrain import read
from asr.recogniser import Recogniser
from asr.text import metrics
from recipes.benchmark.imported_clips import Clip, load

__all__ = ["main"]

THEIRS = "SpeechBrain"
Decode = Callable[[list[Tensor]], list[str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Decode with all systems, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines with audio and text")
    parser.add_argument("--folder", type=Path, required=True, help="of SpeechBrain's model")
    parser.add_argument("--corpus", help="only the utterances of this corpus")
    parser.add_argument("--least-seconds", type=float, default=0.0, help="leave out shorter utterances")
    parser.add_argument("--utterances", type=int, help="only the shortest of them")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--margins", type=float, nargs="*", default=[], help="also with these margins of the beam")
    parser.add_argument("--rounds", type=int, default=3, help="of decoding; the fastest counts")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    clips = load(options.manifest, options.corpus, options.least_seconds)[: options.utterances]
    systems = {THEIRS: theirs(options.folder)}
    systems["Spellstream, float32, no margin"] = ours(options.folder, torch.float32, 0.0)
    for margin in [0.0, *options.margins]:
        systems[f"Spellstream, float16, margin {margin:g}"] = ours(options.folder, torch.float16, margin)
    groups = [clips[start : start + options.batch_size] for start in range(0, len(clips), options.batch_size)]
    seconds = dict.fromkeys(systems, float("inf"))
    texts: dict[str, list[str]] = {}
    for _ in range(options.rounds):  # in turns, so that other load on the machine affects all equally
        for name, decode in systems.items():
            start = time.process_time()
            texts[name] = [text for group in groups for text in decode([clip.waveform for clip in group])]
            seconds[name] = min(seconds[name], time.process_time() - start)
    show(clips, texts, seconds)
    return 0


def show(clips: Sequence[Clip], texts: dict[str, list[str]], seconds: dict[str, float]) -> None:
    length = sum(len(clip.waveform) for clip in clips) / audio.SAMPLE_RATE
    print(f"{len(clips)} utterances, {length:.0f} s\n")
    print("| system | WER | texts as SpeechBrain's | CPU s | CPU s for a second of audio | ratio |")
    print("|---|---|---|---|---|---|")
    for name, found in texts.items():
        scored = [
            metrics.score(str(i), name, clip.text, text, len(clip.waveform) / audio.SAMPLE_RATE)
            for i, (clip, text) in enumerate(zip(clips, found, strict=True))
        ]
        wer = metrics.summarise(scored)[-1].words.rate
        same = sum(a == b for a, b in zip(texts[THEIRS], found, strict=True))
        each = f"{seconds[name]:.2f} | {seconds[name] / length:.4f} | {seconds[THEIRS] / seconds[name]:.2f}"
        print(f"| {name} | {100 * wer:.2f} % | {same} | {each} |")


def theirs(folder: Path) -> Decode:
    from speechbrain.inference.ASR import EncoderDecoderASR

    model: Any = EncoderDecoderASR.from_hparams(source=str(folder.resolve()), savedir=str(folder / "loaded"))

    def decode(waveforms: list[Tensor]) -> list[str]:
        lengths = torch.tensor([len(w) for w in waveforms]).float()
        words, _ = model.transcribe_batch(pad_sequence(waveforms, batch_first=True), lengths / lengths.max())
        return [" ".join(text.lower().split()) for text in words]

    return decode


def ours(folder: Path, dtype: torch.dtype, margin: float) -> Decode:
    """The imported model, loaded from its folder."""
    imported, output = read(folder), folder / f"imported-{str(dtype).removeprefix('torch.')}"
    if imported.lm is not None:
        checkpoint.save_lm(output, imported.lm, imported.tokenizer, dtype)
    checkpoint.save(output, imported.model, imported.tokenizer, dtype)
    recogniser = Recogniser.load(output, device="cpu")
    search = replace(recogniser.model.config.search, beam_margin=margin)

    def decode(waveforms: list[Tensor]) -> list[str]:
        return [segment.text for segment in recogniser.decode(waveforms, search, word_timestamps=False)]

    return decode


if __name__ == "__main__":
    sys.exit(main())
