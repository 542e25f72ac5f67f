"""Train a SpeechBrain model by SpeechBrain's own code, as its recipes for LibriSpeech do, and write its folder.

    python -m recipes.benchmark.imported_training train.jsonl --corpus an4 --epochs 25 --output crdnn

`imported.yaml` beside this file is the recipe: a CRDNN encoder with location-aware attention, a CTC head and a
recurrent language model, which learns from the same texts. The folder has the form that SpeechBrain's pretrainer reads.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from recipes.benchmark.imported_clips import Clip, load

__all__ = ["RECIPE", "main"]

RECIPE = Path(__file__).with_name("imported.yaml")
LM_EPOCHS, LM_BATCH_SIZE = 10, 16


class Batch(NamedTuple):
    """Padded waveforms and tokens; lengths are fractions of the longest, as in SpeechBrain."""

    waveforms: Tensor  # (B, N)
    waveform_lengths: Tensor  # (B,)
    tokens: Tensor  # (B, U)
    token_lengths: Tensor  # (B,)
    begun: Tensor  # (B, U + 1): bos and the tokens
    ended: Tensor  # (B, U + 1): the tokens and eos
    ended_lengths: Tensor  # (B,)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a model on the utterances of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines with audio and text")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--corpus", help="only the utterances of this corpus")
    parser.add_argument("--least-seconds", type=float, default=0.0, help="leave out shorter utterances")
    parser.add_argument("--utterances", type=int, help="only the shortest of them")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")

    clips = load(options.manifest, options.corpus, options.least_seconds)[: options.utterances]
    train(clips, options.output, options.epochs, options.batch_size)
    return 0


def train(clips: Sequence[Clip], folder: Path, epochs: int, batch_size: int) -> None:
    """Train the recogniser and the language model of the recipe, and write the folder."""
    from hyperpyyaml import load_hyperpyyaml

    text = RECIPE.read_text()
    parts = load_hyperpyyaml(text)
    pieces = train_tokenizer([clip.text.upper() for clip in clips], parts["output_neurons"])
    parts["tokenizer"].LoadFromSerializedProto(pieces)

    def batches(size: int) -> list[Batch]:
        return [batch(parts, clips[start : start + size]) for start in range(0, len(clips), size)]

    lm_batches = batches(LM_BATCH_SIZE)
    fit(lm_brain(parts, LM_EPOCHS * len(lm_batches)), lm_batches, LM_EPOCHS)
    asr_batches = batches(batch_size)
    fit(asr_brain(parts, epochs * len(asr_batches)), asr_batches, epochs)

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(parts["asr_model"].state_dict(), folder / "asr.ckpt")
    torch.save(parts["lm_model"].state_dict(), folder / "lm.ckpt")
    parts["normalize"]._save(folder / "normalizer.ckpt")
    (folder / "tokenizer.ckpt").write_bytes(pieces)
    (folder / "hyperparams.yaml").write_text(text)


def train_tokenizer(texts: Iterable[str], vocab: int) -> bytes:
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


def batch(parts: dict[str, Any], clips: Sequence[Clip]) -> Batch:
    tokens = [torch.tensor(parts["tokenizer"].encode_as_ids(clip.text.upper())) for clip in clips]
    bos, eos = torch.tensor([parts["bos_index"]]), torch.tensor([parts["eos_index"]])
    waveforms, waveform_lengths = padded([clip.waveform for clip in clips])
    begun, _ = padded([torch.cat([bos, t]) for t in tokens])
    return Batch(waveforms, waveform_lengths, *padded(tokens), begun, *padded([torch.cat([t, eos]) for t in tokens]))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows]).float()
    return pad_sequence(list(rows), batch_first=True), lengths / lengths.max()


def fit(brain: Any, batches: Sequence[Batch], epochs: int) -> None:
    chance = torch.Generator().manual_seed(0)
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, shuffle=True, generator=chance)  # type: ignore[arg-type]
    brain.fit(range(1, epochs + 1), loader)


def asr_brain(parts: dict[str, Any], steps: int) -> Any:
    """The recogniser's training, as in `recipes/LibriSpeech/ASR/seq2seq/train.py` of SpeechBrain."""
    import speechbrain
    from speechbrain.nnet.losses import ctc_loss, nll_loss

    class Asr(_scheduled(speechbrain.Brain, parts["lr"], steps)):  # type: ignore[misc]
        def compute_forward(self, batch: Batch, stage: Any) -> tuple[Tensor, Tensor]:
            features = self.hparams.compute_features(batch.waveforms)
            features = self.modules.normalize(features, batch.waveform_lengths)
            encoded = self.modules.enc(features.detach())
            out, _ = self.modules.dec(self.modules.emb(batch.begun), encoded, batch.waveform_lengths)
            return self.modules.seq_lin(out).log_softmax(-1), self.modules.ctc_lin(encoded).log_softmax(-1)

        def compute_objectives(self, predictions: tuple[Tensor, Tensor], batch: Batch, stage: Any) -> Tensor:
            seq, ctc = predictions
            attention = nll_loss(seq, batch.ended, batch.ended_lengths, self.hparams.label_smoothing)
            lengths = batch.waveform_lengths, batch.token_lengths
            heard = ctc_loss(ctc, batch.tokens, *lengths, self.hparams.blank_index)
            return self.hparams.ctc_weight * heard + (1 - self.hparams.ctc_weight) * attention

    names = ("normalize", "enc", "emb", "dec", "ctc_lin", "seq_lin")
    return Asr({name: parts[name] for name in names}, torch.optim.Adam, parts)


def lm_brain(parts: dict[str, Any], steps: int) -> Any:
    """The language model's training, as in `recipes/LibriSpeech/LM/train.py` of SpeechBrain."""
    import speechbrain
    from speechbrain.nnet.losses import nll_loss

    class Lm(_scheduled(speechbrain.Brain, parts["lr"], steps)):  # type: ignore[misc]
        def compute_forward(self, batch: Batch, stage: Any) -> Tensor:
            logits, _ = self.modules.lm(batch.begun)
            return logits.log_softmax(-1)

        def compute_objectives(self, predictions: Tensor, batch: Batch, stage: Any) -> Tensor:
            return nll_loss(predictions, batch.ended, batch.ended_lengths)

    return Lm({"lm": parts["lm_model"]}, torch.optim.Adam, parts)


def _scheduled(brain: Any, rate: float, steps: int) -> Any:
    """A Brain whose learning rate rises and falls over a given number of steps."""

    class Scheduled(brain):
        def init_optimizers(self) -> None:
            super().init_optimizers()
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, steps)

        def on_fit_batch_end(self, batch: Batch, outputs: Any, loss: Tensor, should_step: bool) -> None:
            self.schedule.step()

        def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
            print(f"{type(self).__name__} epoch {epoch}: loss {stage_loss:.3f}", file=sys.stderr, flush=True)

    return Scheduled


if __name__ == "__main__":
    sys.exit(main())
