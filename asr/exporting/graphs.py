"""The graphs of a model: modules that take and return plain tensors, so that one trace captures all of each.

Dynamic sizes are never turned into Python numbers here, since a trace would fix them to those of the example. The
first dimension is always the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.model.attention import Memory
from asr.model.decoder import DecoderState
from asr.model.features import DecibelMel, LogMel
from asr.model.las import Model
from asr.model.lm import LanguageModel, LmState

__all__ = ["AttentionMemory", "CtcHead", "DecoderStep", "Features", "LmStep", "WholeEncoder"]


class _MelByConvolution(LogMel):
    """Features whose Fourier transform is a convolution: ONNX has no complex numbers."""

    waves: Tensor  # (2 * (n_fft // 2 + 1), 1, n_fft): windowed cosines, then sines

    def compute_filters(self) -> None:
        """Compute the windowed cosines and sines."""
        n_fft, before = self.config.n_fft, (self.config.n_fft - self.config.win_length) // 2
        window = torch.zeros(n_fft, dtype=torch.float64)
        window[before : before + self.config.win_length] = self.window.double()
        bins, samples = torch.arange(n_fft // 2 + 1)[:, None], torch.arange(n_fft)
        angles = 2 * torch.pi * (bins * samples % n_fft).double() / n_fft
        waves = torch.cat([angles.cos(), angles.sin()]) * window
        self.register_buffer("waves", waves.float()[:, None], persistent=False)

    def _power(self, waveform: Tensor) -> Tensor:
        parts = nn.functional.conv1d(waveform[:, None], self.waves, stride=self.config.hop_length)
        cosine, sine = parts.square().chunk(2, dim=1)
        return (cosine + sine).transpose(1, 2) @ self.filters


class _DecibelMel(DecibelMel, _MelByConvolution):
    """`DecibelMel` with the Fourier transform of `_MelByConvolution`."""


class Features(nn.Module):
    """Waveforms `(B, N)` and lengths `(B,)` in samples to normalised features `(B, T, n_mels)` and lengths `(B,)`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        own = model.features
        kind = _DecibelMel if isinstance(own, DecibelMel) else _MelByConvolution
        self.features = kind(own.config)
        self.features.load_state_dict(own.state_dict())
        self.features.compute_filters()

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        features, lengths = self.features(waveform, samples)
        return features, lengths


class WholeEncoder(nn.Module):
    """Padded features `(B, T, n_mels)` and lengths `(B,)` to encoder output `(B, T', D)` and lengths; full context."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder_out, lengths = self.encoder(features, lengths)
        return encoder_out, lengths


class CtcHead(nn.Module):
    """Encoder output `(B, T, D)` to log-probabilities `(B, T, V)` of tokens and the blank."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.ctc = model.ctc

    def forward(self, encoder_out: Tensor) -> Tensor:
        logits: Tensor = self.ctc(encoder_out)
        return logits.log_softmax(dim=-1)


class AttentionMemory(nn.Module):
    """Encoder output `(B, T, D)` and lengths `(B,)` to the memory that each decoder step attends to.

    Returns keys `(B, T, size)`, values `(B, T, value_size)`, mask `(B, T)` and initial alignment `(B, heads, T)`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention = model.decoder.attention

    def forward(self, encoder_out: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        memory = self.attention.prepare(encoder_out, lengths)
        alignment = self.attention.initial_state(memory).alignment
        # A graph's output must be computed, but keys or values may be the encoder output itself.
        return memory.keys, memory.values + 0, memory.inside, alignment


class _MemoryPerHypothesis(Memory):
    """Memory with one row per hypothesis, rather than one per utterance shared by its hypotheses."""

    def rows(self, x: Tensor) -> Tensor:
        return x[:, None]

    def flat(self, grid: Tensor) -> Tensor:
        return grid[:, 0]

    def spread(self, x: Tensor, hypotheses: int) -> Tensor:
        return x

    def with_keys(self, x: Tensor) -> Tensor:
        return self.keys + x


class DecoderStep(nn.Module):
    """The last token of N hypotheses to log-probabilities of the next, with the state passed in and returned."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        tokens: Tensor,
        hidden: Tensor,
        context: Tensor,
        alignment: Tensor,
        keys: Tensor,
        values: Tensor,
        inside: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step.

        Args:
            tokens: `(N,)`, initially sos.
            hidden: `(N, layers, parts, H)`, initially zero.
            context: `(N, context_size)`, initially zero.
            alignment: `(N, heads, T)`, initially from the memory.
            keys: `(N, T, size)`, from the memory.
            values: `(N, T, value_size)`, from the memory.
            inside: mask `(N, T)`, from the memory.

        Returns:
            log-probabilities `(N, V)`, and the next hidden, context and alignment.
        """
        memory = _MemoryPerHypothesis(keys, values, inside)
        readout, state = self.decoder.step(tokens, DecoderState(hidden, context, alignment), memory)
        return self.decoder.logits(readout).log_softmax(dim=-1), *state


class LmStep(nn.Module):
    """The last token of N texts to log-probabilities `(N, V)` of the next, with hidden and cell `(N, layers, H)`."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, state = self.lm.step(tokens, LmState(hidden, cell))
        return log_probs, state.hidden, state.cell
