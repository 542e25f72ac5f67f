"""The experiment: encode once, then train and measure the same small decoder with each attention scorer."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import audio, checkpoint
from asr.archive import manifest
from asr.checkpoint import Checkpoint, write_tensors
from asr.config import AttentionConfig, DecoderConfig, HybridConfig
from asr.errors import AudioError, DataError
from asr.model.features import mask_beyond
from asr.model.las import Encoded, Model
from asr.search import search
from asr.terminal import Progress, say
from asr.text import metrics
from asr.text.normalise import normalise
from asr.text.tokenizer import BLANK
from asr.training.data import Batch
from asr.training.module import joint_loss

__all__ = ["VARIANTS", "Measured", "Settings", "Spoken", "Variant", "alignment", "build", "encode", "measure", "train"]

ENCODE_BATCH = 16


@dataclass(frozen=True)
class Variant:
    """An attention scorer, with or without the hybrid block."""

    attention: AttentionConfig
    hybrid: bool

    @property
    def name(self) -> str:
        return self.attention.scorer + ("+hybrid" if self.hybrid else "")


SIZE = 96
DECODER = DecoderConfig(hidden_size=128, embedding_size=64, dropout=0.1)
VARIANTS = tuple(
    Variant(AttentionConfig(scorer, SIZE, heads=4 if scorer == "multi_head" else 1, location_width=61), hybrid)
    for hybrid in (False, True)
    for scorer in ("additive", "dot", "scaled_dot", "multi_head", "location")
)


@dataclass(frozen=True)
class Settings:
    """Training settings, the same for every variant."""

    steps: int = 1_200
    batch_seconds: float = 30.0  # of audio, padding included
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    seed: int = 1


class Spoken(NamedTuple):
    """An utterance with the output of the frozen pyramid."""

    id: str
    corpus: str
    text: str
    seconds: float
    frames: Tensor  # (T, D) float16


class Measured(NamedTuple):
    """Result of decoding dev once."""

    scored: list[metrics.Scored]
    cpu_seconds: float


@torch.inference_mode()
def encode(start: Checkpoint, path: Path, cache: Path, max_seconds: float | None, device: torch.device) -> list[Spoken]:
    """Pyramid outputs of a trained model for a manifest's utterances, computed once and stored in `cache`.

    Utterances longer than `max_seconds`, or without a text that can be scored, are left out; one that cannot be read is
    named. The pyramid sees whole utterances, without dropout.

    Raises:
        DataError: if the manifest is broken or nothing is left.
    """
    from safetensors.torch import load_file

    wanted = {
        one.id: one
        for one in manifest.read(path)
        if one.text and normalise(one.text) and (max_seconds is None or one.duration_seconds <= max_seconds)
    }
    if not cache.exists():
        ids = sorted(wanted, key=lambda name: wanted[name].duration_seconds)
        found: dict[str, Tensor] = {}
        with Progress(len(ids), show=sys.stderr.isatty(), unit="utterances encoded") as progress:
            for begin in range(0, len(ids), ENCODE_BATCH):
                names = ids[begin : begin + ENCODE_BATCH]
                found |= _encode_batch(start.model, {name: wanted[name].audio for name in names}, device)
                for name in names:
                    progress.advance(wanted[name].duration_seconds)
        write_tensors(cache, found)
    known = load_file(cache)
    spoken = [
        Spoken(name, one.corpus, normalise(one.text or "") or "", one.duration_seconds, known[name])
        for name, one in wanted.items()
        if name in known
    ]
    if not spoken:
        raise DataError(f"{path}: no utterance to use, with text and at most {max_seconds} s long")
    return spoken


def _encode_batch(model: Model, files: dict[str, Path], device: torch.device) -> dict[str, Tensor]:
    waveforms: dict[str, Tensor] = {}
    for name, file in files.items():
        try:
            waveforms[name] = audio.load(file)
        except AudioError as error:
            say(f"{name}: {error}")
    if not waveforms:
        return {}
    samples = torch.tensor([len(waveform) for waveform in waveforms.values()], device=device)
    padded = pad_sequence(list(waveforms.values()), batch_first=True).to(device)
    frames, lengths = model.encode(padded, samples)
    return {name: frames[i, : lengths[i]].half().cpu() for i, name in enumerate(waveforms) if lengths[i] > 0}


def build(start: Checkpoint, variant: Variant, seed: int) -> Model:
    """The variant's model: features, pyramid and CTC head of the trained model, everything else newly initialised."""
    config = start.model.config
    hybrid = HybridConfig(layers=1 if variant.hybrid else 0)
    torch.manual_seed(seed)
    model = Model(
        dataclasses.replace(
            config,
            attention=variant.attention,
            decoder=DECODER,
            encoder=dataclasses.replace(config.encoder, hybrid=hybrid),
        )
    )
    for part in ("features", "encoder.layers", "ctc"):
        model.get_submodule(part).load_state_dict(start.model.get_submodule(part).state_dict())
    model.features.requires_grad_(False)
    model.encoder.layers.requires_grad_(False)
    return model


def train(model: Model, spoken: Sequence[Spoken], start: Checkpoint, settings: Settings) -> tuple[float, float]:
    """Train the weights that are not frozen; returns seconds of CPU and of audio."""
    device = next(model.parameters()).device
    tokens = [torch.tensor(start.tokenizer.encode(one.text)) for one in spoken]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    drawn = _batches([len(one.frames) for one in spoken], model.config.frame_seconds, settings)
    torch.manual_seed(settings.seed)
    model.train()
    seconds, began = 0.0, time.process_time()
    for step, rows in zip(range(settings.steps), drawn, strict=False):
        scale = min((step + 1) / settings.warmup_steps, 2 * (1 - step / settings.steps), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * scale
        batch = Batch(
            torch.empty(0),
            torch.empty(0),
            pad_sequence([tokens[row] for row in rows], batch_first=True, padding_value=BLANK).to(device),
            torch.tensor([len(tokens[row]) for row in rows], device=device),
        )
        encoded = _top(model, [spoken[row] for row in rows], device)
        losses = joint_loss(model, encoded, batch, settings.label_smoothing, 0.0)
        loss = (1 - settings.ctc_weight) * losses.attention + settings.ctc_weight * losses.ctc
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
        optimizer.step()
        seconds += sum(spoken[row].seconds for row in rows)
        if (step + 1) % 100 == 0:
            say(f"step {step + 1}: attention {losses.attention:.3f}, ctc {losses.ctc:.3f}")
    return time.process_time() - began, seconds


def _batches(lengths: Sequence[int], frame_seconds: float, settings: Settings) -> Iterator[list[int]]:
    """Endless batches of similar length: the first pass from short to long, later ones in random order."""
    generator = torch.Generator().manual_seed(settings.seed)
    limit = settings.batch_seconds / frame_seconds
    sizes = torch.tensor(lengths, dtype=torch.float32)
    first = True
    while True:
        order = (sizes * (0.9 + 0.2 * torch.rand(len(sizes), generator=generator))).argsort().tolist()
        batches: list[list[int]] = [[]]
        for row in order:
            if batches[-1] and max(lengths[other] for other in [*batches[-1], row]) * (len(batches[-1]) + 1) > limit:
                batches.append([])
            batches[-1].append(row)
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        yield from batches if first else (batches[i] for i in shuffled)
        first = False


def _top(model: Model, rows: Sequence[Spoken], device: torch.device) -> Encoded:
    """A padded batch of stored frames, passed through the blocks above the pyramid."""
    lengths = torch.tensor([len(one.frames) for one in rows], device=device)
    x = pad_sequence([one.frames for one in rows], batch_first=True).to(device).float()
    for block in model.encoder.hybrid:
        x = block(x, lengths, None)
    return Encoded(mask_beyond(x, lengths), lengths)


@torch.inference_mode()
def measure(model: Model, spoken: Sequence[Spoken], start: Checkpoint, ctc_weight: float, beam_size: int) -> Measured:
    """Beam search with attention alone or with CTC; CPU seconds exclude the pyramid."""
    device = next(model.parameters()).device
    settings = dataclasses.replace(model.config.search, beam_size=beam_size, ctc_weight=ctc_weight)
    model.eval()
    scored, cpu_seconds = [], 0.0
    order = sorted(spoken, key=lambda one: len(one.frames))
    for begin in range(0, len(order), ENCODE_BATCH):
        rows = order[begin : begin + ENCODE_BATCH]
        began = time.process_time()
        found = search(model, _top(model, rows, device), settings)
        cpu_seconds += time.process_time() - began
        for one, (best, *_) in zip(rows, found, strict=True):
            text = start.tokenizer.decode(best.tokens)
            scored.append(metrics.score(one.id, one.corpus, one.text, text, one.seconds))
    return Measured(scored, cpu_seconds)


@torch.inference_mode()
def alignment(model: Model, one: Spoken, start: Checkpoint) -> tuple[Tensor, list[str]]:
    """Attention under teacher forcing, averaged over heads `(tokens, frames)`, and the tokens."""
    device = next(model.parameters()).device
    model.eval()
    encoder_out, lengths = _top(model, [one], device)
    tokens = start.tokenizer.encode(one.text)
    return model.decoder.alignment(tokens, encoder_out, lengths), [start.tokenizer.label(token) for token in tokens]


def save(folder: Path, model: Model, start: Checkpoint) -> None:
    """Save a variant's model as a checkpoint for `spellstream transcribe --model`."""
    checkpoint.save(folder, model, start.tokenizer, torch.float16)
