"""A model of SpeechBrain, trained a little, in SpeechBrain and imported: the same words, and how long each takes.

    python -m recipes.benchmark.imported train.jsonl --folder crdnn --steps 800 --utterances 40

The model learns the utterances by heart, so that it says words; what is measured is that both systems say the same
ones, and their speed in batches on one thread. `imported.yaml` beside this file is its recipe.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import audio, checkpoint
from asr.importing.speechbrain import read
from asr.recogniser import Recogniser
from asr.text import metrics

__all__ = ["main"]

RECIPE = Path(__file__).with_suffix(".yaml")
CTC_WEIGHT, LEARNING_RATE, CLIP_NORM = 0.3, 2e-3, 5.0


class Clip(NamedTuple):
    """A recording and what is said in it."""

    waveform: Tensor
    text: str


def main(argv: Sequence[str] | None = None) -> int:
    """Train if need be, decode with both systems, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines with audio and text")
    parser.add_argument("--folder", type=Path, required=True, help="of SpeechBrain's model; trained if it is not there")
    parser.add_argument(
        "--utterances", type=int, default=40, help="the shortest of the first thousand that last two seconds"
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of decoding; the fastest counts")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    clips = load(options.manifest, options.utterances)
    if not (options.folder / "asr.ckpt").exists():
        train(clips, options.folder, options.steps, options.batch_size)
    groups = [clips[start : start + options.batch_size] for start in range(0, len(clips), options.batch_size)]
    systems = {"SpeechBrain": theirs(options.folder), "Spellstream": ours(options.folder)}
    seconds = dict.fromkeys(systems, float("inf"))
    texts: dict[str, list[str]] = {}
    for _ in range(options.rounds):  # in turns, so that whatever else the machine does meets both alike
        for name, decode in systems.items():
            start = time.perf_counter()
            texts[name] = [text for group in groups for text in decode([clip.waveform for clip in group])]
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    show(clips, texts, seconds)
    return 0


def load(manifest: Path, count: int) -> list[Clip]:
    """The shortest utterances of a manifest that last two seconds, shortest first."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()[:1_000]]
    rows = [row for row in rows if row.get("text") and row["duration"] >= 2]
    rows.sort(key=lambda row: row["duration"])
    return [Clip(audio.load(manifest.parent / row["audio"]), row["text"]) for row in rows[:count]]


def show(clips: Sequence[Clip], texts: dict[str, list[str]], seconds: dict[str, float]) -> None:
    length = sum(len(clip.waveform) for clip in clips) / audio.SAMPLE_RATE
    same = sum(a == b for a, b in zip(*texts.values(), strict=True))
    print(f"{len(clips)} utterances, {length:.0f} s; the same text in {same}")
    for name, found in texts.items():
        scored = [
            metrics.score(str(i), name, clip.text, text, len(clip.waveform) / audio.SAMPLE_RATE)
            for i, (clip, text) in enumerate(zip(clips, found, strict=True))
        ]
        wer = metrics.summarise(scored)[-1].words.rate
        print(f"{name}: WER {100 * wer:.2f} %, {seconds[name]:.2f} s, {length / seconds[name]:.1f} times real time")
    print(f"ratio: {seconds['SpeechBrain'] / seconds['Spellstream']:.2f}")


# --- SpeechBrain ------------------------------------------------------------------------------------------------------


def tokenizer(texts: Sequence[str], vocab: int) -> bytes:
    import sentencepiece

    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=sink,
        vocab_size=vocab,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    return sink.getvalue()


def train(clips: Sequence[Clip], folder: Path, steps: int, batch_size: int) -> None:
    """Train the modules of the recipe on the clips, and write the folder that SpeechBrain's pretrainer reads."""
    from hyperpyyaml import load_hyperpyyaml

    text = RECIPE.read_text()
    parts = load_hyperpyyaml(text)
    pieces = tokenizer([clip.text.upper() for clip in clips], parts["output_neurons"])
    parts["tokenizer"].LoadFromSerializedProto(pieces)
    tokens = [torch.tensor(parts["tokenizer"].encode_as_ids(clip.text.upper())) for clip in clips]

    optimiser = torch.optim.Adam(parts["asr_model"].parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    parts["normalize"].train()
    for clip in clips:
        parts["normalize"](parts["compute_features"](clip.waveform[None]), torch.ones(1))
    parts["normalize"].eval()
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randperm(len(clips), generator=chance)[:batch_size].tolist()
        loss = joint_loss(parts, [clips[row].waveform for row in rows], [tokens[row] for row in rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts["asr_model"].parameters(), CLIP_NORM)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", file=sys.stderr)

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(parts["asr_model"].state_dict(), folder / "asr.ckpt")
    parts["normalize"]._save(folder / "normalizer.ckpt")
    (folder / "tokenizer.ckpt").write_bytes(pieces)
    (folder / "hyperparams.yaml").write_text(text)


def joint_loss(parts: dict[str, Any], waveforms: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
    """CTC and attention loss of a batch."""
    lengths = torch.tensor([len(w) for w in waveforms]).float()
    lengths = lengths / lengths.max()
    with torch.no_grad():
        features = parts["normalize"](
            parts["compute_features"](pad_sequence(list(waveforms), batch_first=True)), lengths
        )
    encoded = parts["enc"](features)
    begun = pad_sequence([torch.cat([torch.zeros(1, dtype=torch.long), t]) for t in tokens], batch_first=True)
    ended = pad_sequence(
        [torch.cat([t, torch.zeros(1, dtype=torch.long)]) for t in tokens], batch_first=True, padding_value=-1
    )
    out, _ = parts["dec"](parts["emb"](begun), encoded, lengths)
    attention = torch.nn.functional.cross_entropy(
        parts["seq_lin"](out).flatten(0, 1), ended.flatten(), ignore_index=-1, label_smoothing=0.1
    )
    ctc = torch.nn.functional.ctc_loss(
        parts["ctc_lin"](encoded).log_softmax(-1).transpose(0, 1),
        torch.cat(list(tokens)),
        (lengths * encoded.shape[1]).round().long(),
        torch.tensor([len(t) for t in tokens]),
        zero_infinity=True,
    )
    return CTC_WEIGHT * ctc + (1 - CTC_WEIGHT) * attention


def theirs(folder: Path) -> Callable[[list[Tensor]], list[str]]:
    from speechbrain.inference.ASR import EncoderDecoderASR

    model: Any = EncoderDecoderASR.from_hparams(source=str(folder.resolve()), savedir=str(folder / "loaded"))

    def decode(waveforms: list[Tensor]) -> list[str]:
        lengths = torch.tensor([len(w) for w in waveforms]).float()
        words, _ = model.transcribe_batch(pad_sequence(waveforms, batch_first=True), lengths / lengths.max())
        return [" ".join(text.lower().split()) for text in words]

    return decode


# --- Spellstream ------------------------------------------------------------------------------------------------------


def ours(folder: Path) -> Callable[[list[Tensor]], list[str]]:
    """The imported model, as a folder of ours is loaded."""
    imported, output = read(folder), folder / "imported"
    checkpoint.save(output, imported.model, imported.tokenizer)
    recogniser = Recogniser.load(output, device="cpu")
    search = recogniser.model.config.search

    def decode(waveforms: list[Tensor]) -> list[str]:
        return [segment.text for segment in recogniser.decode(waveforms, search, word_timestamps=False)]

    return decode


if __name__ == "__main__":
    sys.exit(main())
