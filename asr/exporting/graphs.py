"""The graphs of a model: modules that take and return plain tensors, so that a trace of them is a whole graph.

Sizes that differ from call to call are never turned into Python numbers here, since a trace would keep those of the
example. The first dimension is always the batch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from asr.model.attention import Memory
from asr.model.decoder import DecoderState
from asr.model.encoder import PyramidLayer
from asr.model.features import DecibelMel, LogMel
from asr.model.las import Model
from asr.model.lm import LanguageModel, LmState

__all__ = ["CtcHead", "DecoderStep", "EncoderStep", "Features", "LmStep", "MemoryOf", "WholeEncoder"]


class _ByConvolution(LogMel):
    """Features whose Fourier transform is a convolution: ONNX has no complex numbers."""

    waves: Tensor  # (2 * (n_fft // 2 + 1), 1, n_fft): windowed cosines, then sines

    def wave(self) -> None:
        """Compute the filters."""
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


class _LogMel(_ByConvolution):
    pass


class _DecibelMel(DecibelMel, _ByConvolution):
    _power = _ByConvolution._power


class Features(nn.Module):
    """`(B, N)` waveforms and `(B,)` samples to `(B, T, n_mels)` normalised features and `(B,)` lengths."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        own = model.features
        kind = _DecibelMel if isinstance(own, DecibelMel) else _LogMel
        self.features = kind(own.config)
        self.features.load_state_dict(own.state_dict())
        self.features.wave()

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        features, lengths = self.features(waveform, samples)
        return features, lengths


class WholeEncoder(nn.Module):
    """Padded features `(B, T, n_mels)` and `(B,)` to encoder output `(B, T', D)` and lengths, with full context."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder_out, lengths = self.encoder(features, lengths)
        return encoder_out, lengths


class EncoderStep(nn.Module):
    """A stream's next chunk to its encoder output, with the state of the forward LSTMs passed in and returned.

    Both forms of streaming are this graph. `Encoder.step`: the features are a chunk and its lookahead; chunk and
    settled are the features of the chunk. `Encoder.preview`: the features are all since the state; chunk is their
    number, and settled the number of those that will not be given again.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.layers = model.encoder.layers
        self.dense = model.encoder.dense

    def forward(
        self, features: Tensor, chunk: Tensor, settled: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            features: `(B, t, n_mels)`; those after the chunk are lookahead of the lowest layer.
            chunk: features of the chunk, 1 to t, as a scalar; whole output frames unless the stream ends here.
            settled: features, 0 to `chunk`, after which the next state is taken; whole output frames or `chunk`.
            hidden: `(B, layers, H)`, zero at first.
            cell: `(B, layers, H)`, zero at first.

        Returns:
            encoder_out of the chunk `(B, t', D)`, and the next hidden and cell.
        """
        x, states = features, []
        for number, layer in enumerate(cast("list[PyramidLayer]", self.layers)):
            x = layer.joined(x)
            chunk, settled = ((count + layer.join - 1) // layer.join for count in (chunk, settled))
            state = (hidden[:, number], cell[:, number])
            own = x[:, :chunk]
            ahead, state = _ahead(layer.forward_lstm, own, state, settled)
            behind = None
            if layer.backward_lstm is not None:
                behind = layer.backward_lstm(x.flip(1))[0].flip(1)[:, :chunk]
            x = layer.finished(own, ahead, behind)
            states.append(state)
        for dense in self.dense:
            x = dense(x)
        return x, torch.stack([h for h, _ in states], dim=1), torch.stack([c for _, c in states], dim=1)


def _ahead(
    lstm: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor], settled: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Outputs of `x` `(B, t, D)` from a state, parts `(B, H)`, and the state after `settled` of its frames.

    The LSTM runs up to there, and on. It never runs over nothing, which onnxruntime refuses: the first part has at
    least a frame, and the second ends in a frame of zeros whose output is dropped.
    """
    begun = (state[0][None], state[1][None])
    least = settled.clamp(min=1)
    first, after = lstm(x[:, :least], begun)
    rest = torch.cat([x[:, least:], torch.zeros_like(x[:, :1])], dim=1)
    second, _ = lstm(rest, after)
    hidden, cell = (torch.where(settled > 0, a[0], b[0]) for a, b in zip(after, begun, strict=True))
    return torch.cat([first, second[:, :-1]], dim=1), (hidden, cell)


class CtcHead(nn.Module):
    """Encoder output `(B, T, D)` to log-probabilities `(B, T, V)` of tokens and the blank."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.ctc = model.ctc

    def forward(self, encoder_out: Tensor) -> Tensor:
        logits: Tensor = self.ctc(encoder_out)
        return logits.log_softmax(dim=-1)


class MemoryOf(nn.Module):
    """Encoder output `(B, T, D)` and lengths `(B,)` to what each step of the decoder attends to.

    Returns keys `(B, T, size)`, values `(B, T, value_size)`, inside `(B, T)` and the first alignment `(B, heads, T)`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention = model.decoder.attention

    def forward(self, encoder_out: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        memory = self.attention.prepare(encoder_out, lengths)
        alignment = self.attention.initial_state(memory).alignment
        # Where keys or values are the encoder output itself, an output of the graph still has to be computed.
        return memory.keys, memory.values + 0, memory.inside, alignment


class _OwnMemory(Memory):
    """One row for each hypothesis, so that nothing depends on how many share one."""

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
            tokens: `(N,)`, sos at first.
            hidden: `(N, layers, parts, H)`, zero at first.
            context: `(N, context_size)`, zero at first.
            alignment: `(N, heads, T)`, from the memory at first.
            keys: `(N, T, size)` from the memory, as are the next two.
            values: `(N, T, value_size)`.
            inside: `(N, T)`.

        Returns:
            log-probabilities `(N, V)`, and the next hidden, context and alignment.
        """
        memory = _OwnMemory(keys, values, inside)
        readout, state = self.decoder.step(tokens, DecoderState(hidden, context, alignment), memory)
        return self.decoder.logits(readout).log_softmax(dim=-1), *state


class LmStep(nn.Module):
    """The last token of N texts to log-probabilities `(N, V)` of the next, with the state `(N, layers, H)` twice."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, state = self.lm.step(tokens, LmState(hidden, cell))
        return log_probs, *state
