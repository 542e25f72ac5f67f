"""The training step: features and augmentation on the device, joint attention and CTC loss, word errors on dev."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from asr.config import Context
from asr.errors import CheckpointError
from asr.features import mask_beyond
from asr.model import Encoded, Model
from asr.search import search
from asr.tokenizer import BLANK, EOS, SOS, Tokenizer
from asr.training.augment import limit_bandwidth, mask_spectrum, perturb_waveform
from asr.training.config import TrainConfig
from asr.training.data import Batch

__all__ = ["LasModule", "Losses", "joint_loss"]


class Losses(NamedTuple):
    """Means over tokens, in nats."""

    attention: Tensor
    ctc: Tensor
    accuracy: Tensor  # share of tokens that the speller, given the true history, would get right


def joint_loss(model: Model, encoded: Encoded, batch: Batch, label_smoothing: float, sampling_rate: float) -> Losses:
    """Label-smoothed cross-entropy (Szegedy et al. 2016) of the speller, and CTC of the head on the encoder."""
    encoder_out, lengths = encoded
    rows, steps = batch.tokens.shape
    inputs = torch.cat([batch.tokens.new_full((rows, 1), SOS), batch.tokens], dim=1)
    places = torch.arange(steps + 1, device=inputs.device)
    targets = torch.cat([batch.tokens, batch.tokens.new_full((rows, 1), BLANK)], dim=1)
    targets = targets.masked_fill(places == batch.token_lengths[:, None], EOS)
    logits, _ = model.decoder(inputs, encoder_out, lengths, sampling_rate)
    attention = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=BLANK, label_smoothing=label_smoothing
    )
    real = targets != BLANK
    accuracy = ((logits.argmax(-1) == targets) & real).sum() / real.sum()
    ctc = torch.nn.functional.ctc_loss(
        model.ctc_log_probs(encoder_out).transpose(0, 1),
        batch.tokens,
        lengths,
        batch.token_lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return Losses(attention, ctc / batch.token_lengths.sum(), accuracy)


class LasModule(pl.LightningModule):
    """A model in training.

    Args:
        model: with its feature statistics set.
        tokenizer: that of the corpora.
        config: the run's settings.
        noise: `(M,)` background noise at 16 kHz, or None.
    """

    centres_hz: Tensor

    def __init__(self, model: Model, tokenizer: Tokenizer, config: TrainConfig, noise: Tensor | None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.noise = noise  # no buffer: those are averaged with the weights at every step
        features = model.config.features
        bins = torch.arange(1, features.n_mels + 1)
        highest, lowest = hertz_to_mel(features.f_max), hertz_to_mel(features.f_min)
        mels = lowest + (highest - lowest) * bins / (features.n_mels + 1)
        self.register_buffer("centres_hz", mel_to_hertz(mels), persistent=False)
        self.skipped = 0  # steps in all that were left out, because their gradient was not finite
        self._errors: list[tuple[int, int]] = []

    def on_fit_start(self) -> None:
        if self.noise is not None:
            self.noise = self.noise.to(self.device)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        config, step = self.config, self.global_step
        # All that is drawn in a step depends on the seed and the step alone, so that a resumed run draws the same.
        torch.manual_seed(config.seed * 1_000_003 + step)
        waveform, samples = perturb_waveform(batch.waveform, batch.samples, self.noise, config.augment)
        features, lengths = self.model.features(waveform, samples)
        floor = (self.model.features.floor - self.model.features.mean) / self.model.features.std
        features = limit_bandwidth(features, self.centres_hz, floor, config.augment)
        if step >= config.augment.start_step:
            features = mask_spectrum(features, lengths, config.augment)
        encoded = Encoded(*self.model.encoder(mask_beyond(features, lengths), lengths, self._context()))
        rate = config.sampling_rate if step >= config.sampling_start_step else 0.0
        losses = joint_loss(self.model, encoded, batch, config.label_smoothing, rate)
        loss = (1 - config.ctc_weight) * losses.attention + config.ctc_weight * losses.ctc
        values = {"loss": loss, "attention": losses.attention, "ctc": losses.ctc, "accuracy": losses.accuracy}
        self.log_dict({f"train/{k}": v for k, v in values.items()}, batch_size=len(samples))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(samples))
        return loss

    def _context(self) -> Context:
        chunks, lookaheads = self.config.chunk_ms, self.config.lookahead_ms
        chunk = chunks[int(torch.randint(len(chunks), ()))]
        return Context(chunk, lookaheads[int(torch.randint(len(lookaheads), ()))]) if chunk else Context.full()

    def on_validation_epoch_start(self) -> None:
        self._errors = []

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        encoded = self.model.encode(batch.waveform, batch.samples)
        losses = joint_loss(self.model, encoded, batch, 0.0, 0.0)
        values = {"dev/attention": losses.attention, "dev/ctc": losses.ctc, "dev/accuracy": losses.accuracy}
        self.log_dict(values, batch_size=len(batch.samples))
        settings = dataclasses.replace(self.config.search, beam_size=self.config.validate_beam_size, nbest=1)
        found = search(self.model, encoded, settings)
        for (hypothesis, *_), tokens in zip(found, self._references(batch), strict=True):
            reference = self.tokenizer.decode(tokens)
            self._errors.append(word_errors(reference, self.tokenizer.decode(hypothesis.tokens)))

    def _references(self, batch: Batch) -> Iterator[list[int]]:
        return (t[:n].tolist() for t, n in zip(batch.tokens, batch.token_lengths, strict=True))

    def dev_wer(self) -> float:
        """Word error rate over the utterances measured since the last validation began."""
        return sum(wrong for wrong, _ in self._errors) / max(1, sum(words for _, words in self._errors))

    def on_validation_epoch_end(self) -> None:
        self.log("dev/wer", self.dev_wer(), prog_bar=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip_norm)
        if torch.isfinite(norm):
            self.log("train/gradient_norm", norm)
        else:  # one bad batch must not end a run of days
            self.skipped += 1
            # Without a gradient the optimiser leaves a weight as it is; with one of zeros, momentum would move it on.
            optimizer.zero_grad(set_to_none=True)
        self.log("train/skipped", float(self.skipped))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = self.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = checkpoint.get("skipped", 0)
        expected, found = self.state_dict(), checkpoint["state_dict"]
        for name in sorted(expected.keys() | found.keys()):
            shapes = [tuple(state[name].shape) if name in state else "none" for state in (expected, found)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the run to resume is of another model: its {name} has shape {shapes[1]}, "
                    f"where the config makes it {shapes[0]}"
                )

    def configure_optimizers(self) -> Any:
        settings = self.config.optimiser
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Wrong words of a hypothesis, and words of the reference."""
    import jiwer

    words = len(reference.split())
    if not words:
        return len(hypothesis.split()), 0
    return round(float(jiwer.wer(reference, hypothesis)) * words), words


def hertz_to_mel(hertz: float) -> float:
    from librosa import hz_to_mel

    return float(hz_to_mel(hertz))


def mel_to_hertz(mels: Tensor) -> Tensor:
    from librosa import mel_to_hz

    return torch.from_numpy(mel_to_hz(mels.numpy())).float()
