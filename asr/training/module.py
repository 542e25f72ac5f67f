"""The training step: augmentation and features on the device, joint attention and CTC loss, word errors on dev."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from asr.config import Context
from asr.errors import CheckpointError, TrainingError
from asr.model.features import mask_beyond
from asr.model.las import Encoded, Model
from asr.model.mel import hz_to_mel, mel_to_hz
from asr.search import search
from asr.text.metrics import score
from asr.text.tokenizer import BLANK, EOS, SOS, Tokenizer
from asr.training.augment import (
    degrade,
    limit_bandwidth,
    mask_spectrum,
    perturb_waveform,
    reverberate,
    warp_vocal_tract,
)
from asr.training.config import TrainConfig
from asr.training.data import Batch
from asr.training.growth import grow

__all__ = ["LasModule", "Losses", "Pair", "joint_loss"]


class Losses(NamedTuple):
    """Means over tokens, in nats."""

    attention: Tensor  # cross-entropy with smoothed labels
    ctc: Tensor
    cross_entropy: Tensor  # without smoothing: comparable between training and dev
    accuracy: Tensor  # share of tokens right under teacher forcing


class Pair(NamedTuple):
    """Reference and hypothesis of an utterance."""

    reference: str
    hypothesis: str


def joint_loss(model: Model, encoded: Encoded, batch: Batch, label_smoothing: float, sampling_rate: float) -> Losses:
    """Label-smoothed cross-entropy (Szegedy et al. 2016) of the decoder, and the CTC loss of the head on the encoder.

    Args:
        model: in training mode or not.
        encoded: the encoder's output for the batch.
        batch: its tokens are the targets.
        label_smoothing: share of the target distribution that is uniform.
        sampling_rate: share of decoder inputs drawn from its own predictions (scheduled sampling).
    """
    encoder_out, lengths = encoded

    # Decoder inputs begin with sos; targets end with eos and are padded with BLANK.
    rows, steps = batch.tokens.shape
    inputs = torch.cat([batch.tokens.new_full((rows, 1), SOS), batch.tokens], dim=1)
    places = torch.arange(steps + 1, device=inputs.device)
    targets = torch.cat([batch.tokens, batch.tokens.new_full((rows, 1), BLANK)], dim=1)
    targets = targets.masked_fill(places == batch.token_lengths[:, None], EOS)

    logits, _ = model.decoder(inputs, encoder_out, lengths, sampling_rate)
    log_probs, real = logits.float().log_softmax(-1), targets != BLANK
    plain = torch.nn.functional.nll_loss(log_probs.flatten(0, 1), targets.flatten(), ignore_index=BLANK)
    even = -(log_probs.mean(-1) * real).sum() / real.sum()
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

    attention = (1 - label_smoothing) * plain + label_smoothing * even
    return Losses(attention, ctc / batch.token_lengths.sum(), plain.detach(), accuracy)


def _logged(losses: Losses) -> dict[str, Tensor]:
    """Values to log, comparable between training and dev: a gap between the two means memorising."""
    return {"attention": losses.cross_entropy, "ctc": losses.ctc, "accuracy": losses.accuracy}


class LasModule(pl.LightningModule):
    """A model in training.

    Args:
        model: with its feature statistics set.
        tokenizer: the corpora's.
        config: the run's settings.
        noise: `(M,)` background noise at 16 kHz, or None.
        grown_from: `joins` of the previous growth stage's encoder, which a saved run may have; None in the first.
    """

    centres_hz: Tensor

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        config: TrainConfig,
        noise: Tensor | None = None,
        grown_from: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.noise = noise  # not a buffer: buffers are averaged with the weights at every step
        self._grown_from = grown_from
        features = model.config.features
        bins = torch.arange(1, features.n_mels + 1)
        highest, lowest = hz_to_mel(features.f_max), hz_to_mel(features.f_min)
        mels = lowest + (highest - lowest) * bins / (features.n_mels + 1)
        self.register_buffer("centres_hz", mel_to_hz(mels), persistent=False)
        self.skipped = 0  # steps so far without a finite gradient
        self.skipped_in_a_row = 0
        self._errors = torch.zeros(2)  # wrong words and words

    def on_fit_start(self) -> None:
        if self.noise is not None:
            self.noise = self.noise.to(self.device)

    def losses(self, batch: Batch, step: int) -> Losses:
        """Losses of a training batch: augmentation, features, encoder, decoder and CTC head.

        Random numbers depend on the seed, the step and the process alone, so that a resumed run draws the same ones.
        The context is the same in all processes of a run, so that none waits for another.
        """
        config = self.config
        draw = config.seed * 1_000_003 + step
        context = self._context(draw)
        torch.manual_seed(draw + 7_368_787 * self.global_rank)
        waveform = self.model.levelled(batch.waveform, batch.samples)
        waveform = reverberate(waveform, batch.samples, config.augment)
        waveform, samples = perturb_waveform(waveform, batch.samples, self.noise, config.augment)
        waveform = degrade(waveform, samples, config.augment)
        features, lengths = self.model.features(waveform, samples)
        features = warp_vocal_tract(features, self.centres_hz, config.augment)
        floor = (self.model.features.floor - self.model.features.mean) / self.model.features.std
        features = limit_bandwidth(features, self.centres_hz, floor, config.augment)
        if step >= config.augment.start_step:
            features = mask_spectrum(features, lengths, config.augment)
        encoded = Encoded(*self.model.encoder(mask_beyond(features, lengths), lengths, context))
        smoothing = config.label_smoothing if step >= config.label_smoothing_start_step else 0.0
        rate = config.sampling_rate if step >= config.sampling_start_step else 0.0
        return joint_loss(self.model, encoded, batch, smoothing, rate)

    def _context(self, draw: int) -> Context:
        generator = torch.Generator().manual_seed(7_919 * draw)  # independent of the augmentation's
        chunks, lookaheads = self.config.chunk_ms, self.config.lookahead_ms
        chunk = chunks[int(torch.randint(len(chunks), (), generator=generator))]
        lookahead = lookaheads[int(torch.randint(len(lookaheads), (), generator=generator))]
        return Context(chunk, lookahead) if chunk else Context.full()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        step, several = self.global_step, self.trainer.world_size > 1
        losses = self.losses(batch, step)
        weight = self.config.ctc_weight_at(step)
        shares = self._shares(batch) if several else (1.0, 1.0)
        loss = (1 - weight) * shares[0] * losses.attention + weight * shares[1] * losses.ctc
        values: dict[str, Tensor | float] = {"loss": loss, **_logged(losses)}
        values |= {"ctc_weight": weight, "learning_rate": self._learning_rate()}
        self.log_dict({f"train/{k}": v for k, v in values.items()}, batch_size=len(batch.samples), sync_dist=several)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch.samples))
        return loss

    def _shares(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """This process's token count, with and without eos, relative to the mean over all processes.

        Gradients are averaged over processes. With these weights the average equals that of one process with the whole
        batch.
        """
        tokens = batch.token_lengths.sum().float()
        own = torch.stack([tokens + len(batch.token_lengths), tokens])
        mean = self.trainer.strategy.reduce(own.clone(), reduce_op="mean")
        attention, ctc = (own / mean).unbind()
        return attention, ctc

    def _learning_rate(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        self._errors = torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, list[Pair]]:
        """Log the losses and count the word errors of a batch; return its texts."""
        encoded = self.model.encode(batch.waveform, batch.samples)
        losses = joint_loss(self.model, encoded, batch, 0.0, 0.0)
        values = {f"dev/{name}": value for name, value in _logged(losses).items()}
        self.log_dict(values, batch_size=len(batch.samples), sync_dist=self.trainer.world_size > 1)
        settings = dataclasses.replace(self.config.search, beam_size=self.config.validate_beam_size, nbest=1)
        found = search(self.model, encoded, settings)
        pairs = [
            Pair(self.tokenizer.decode(tokens), self.tokenizer.decode(nbest[0].tokens))
            for nbest, tokens in zip(found, self._references(batch), strict=True)
        ]
        words = [score("", "", *pair, duration_seconds=0.0).words for pair in pairs]
        self._errors += self._errors.new_tensor([(one.errors, one.reference_length) for one in words]).sum(0)
        return {"pairs": pairs}

    def _references(self, batch: Batch) -> Iterator[list[int]]:
        return (t[:n].tolist() for t, n in zip(batch.tokens, batch.token_lengths, strict=True))

    def dev_wer(self) -> float:
        """Word error rate of the current validation so far, over all processes."""
        wrong, words = self.trainer.strategy.reduce(self._errors.clone(), reduce_op="sum").tolist()
        return float(wrong / max(1.0, words))

    def on_validation_epoch_end(self) -> None:
        self.log("dev/wer", self.dev_wer(), prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient; skip the step if it is not finite, since one bad batch must not end a run of days."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip_norm)
        if torch.isfinite(norm):
            self.skipped_in_a_row = 0
            self.log("train/gradient_norm", norm)
        else:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            # Weights without a gradient stay as they are; with a gradient of zero, momentum would move them.
            optimizer.zero_grad(set_to_none=True)
            if self.skipped_in_a_row >= self.config.optimiser.max_skipped:
                raise TrainingError(
                    f"step {self.global_step}: the gradient of {self.skipped_in_a_row} steps in a row was not finite "
                    f"(optimiser.max_skipped); try a lower optimiser.learning_rate or optimiser.clip_norm"
                )
        self.log("train/skipped", float(self.skipped))
        if self.skipped:
            self.log("skipped", float(self.skipped), prog_bar=True, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = (self.skipped, self.skipped_in_a_row)
        checkpoint["joins"] = self.model.config.encoder.joins

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume a saved run with this config's learning rates; grow it if it was saved in the previous stage."""
        self.skipped, self.skipped_in_a_row = checkpoint["skipped"]
        joins, own = tuple(checkpoint["joins"]), self.model.config.encoder.joins
        if self._grown_from is not None and joins == tuple(self._grown_from):
            groups = [[name for name, _ in group["params"]] for group in self._groups()]
            grow(checkpoint, joins, own, self.state_dict(), groups)
        self._set_rates(checkpoint)
        expected, found = self.state_dict(), checkpoint["state_dict"]
        for name in sorted(expected.keys() | found.keys()):
            shapes = [tuple(state[name].shape) if name in state else "none" for state in (expected, found)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the run has another model: its {name} has shape {shapes[1]}, but {shapes[0]} in the config"
                )

    def _set_rates(self, checkpoint: dict[str, Any]) -> None:
        """Write this config's rates into the saved optimiser and schedule, which would restore the old ones."""
        settings = self.config.optimiser
        (optimiser,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        rate = settings.learning_rate * settings.scale(schedule["last_epoch"])
        for group, decay in zip(optimiser["param_groups"], (settings.weight_decay, 0.0), strict=True):
            group.update(lr=rate, initial_lr=settings.learning_rate, weight_decay=decay)
        schedule["base_lrs"] = [settings.learning_rate] * len(optimiser["param_groups"])

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups: weight matrices with weight decay, then biases and scales without."""
        named = list(self.named_parameters())
        decayed, others = ([pair for pair in named if (pair[1].dim() > 1) == wanted] for wanted in (True, False))
        decay = self.config.optimiser.weight_decay
        return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]

    def configure_optimizers(self) -> Any:
        settings = self.config.optimiser
        optimizer = torch.optim.AdamW(self._groups(), lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
