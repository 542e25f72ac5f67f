"""Pyramidal LSTM encoder: each layer joins neighbouring frames, which reduces the frame rate.

After Chan et al. 2016, "Listen, Attend and Spell". Every layer has a forward and a backward LSTM. The `Context`, chosen
at run time, sets how much future audio the backward LSTM sees: the whole utterance, a chunk with a few frames of
lookahead (latency-controlled BLSTM, Zhang et al. 2016), or a single frame. The weights are the same for all contexts.
A convolutional front may come before the pyramid; it adds a lookahead of its own. Dense layers may come after it.

`forward` encodes a padded batch; the windows of the backward LSTM form one batch. `step` encodes a stream in chunks,
with its state passed in and returned, and gives the same output. `preview` encodes all features since a state with full
context, as if the audio ended there; it can be repeated when more features arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from asr.config import Context, EncoderConfig
from asr.errors import ConfigError
from asr.model.dense import Dense
from asr.model.fast import bf16, int8
from asr.model.fast.bf16 import Bidirectional16, Lstm16
from asr.model.fast.int8 import Bidirectional8
from asr.model.features import mask_beyond
from asr.model.front import Front, FrontState
from asr.model.hybrid import HybridBlock, HybridState
from asr.model.normalisation import Normalisation
from asr.model.recurrent import run_lstm, run_lstm_from
from asr.model.states import State

__all__ = ["Encoder", "EncoderState", "LayerState", "PyramidLayer"]


@dataclass(frozen=True)
class LayerState(State):
    """State of one pyramid layer from chunk to chunk."""

    unjoined: Tensor  # (B, n, D), n < join: leftover frames, not joined yet
    pending: Tensor  # (B, m, join * D): joined frames that need more right context
    hidden: tuple[Tensor, Tensor]  # the forward LSTM's (B, H) twice


@dataclass(frozen=True)
class EncoderState(State):
    """State of all layers; made by `Encoder.initial_state`."""

    layers: tuple[LayerState, ...]
    hybrid: tuple[HybridState, ...] = field(default=())
    front: FrontState | None = None


class Window(NamedTuple):
    """Window of the backward LSTM in frames: a chunk, and the lookahead to its right."""

    chunk: int
    right: int


class PyramidLayer(nn.Module):
    """Join, LSTM in one or two directions, projection, normalisation, dropout; projection and residual are optional."""

    def __init__(self, input_size: int, join: int, frame_ms: float, config: EncoderConfig) -> None:
        super().__init__()
        self.join = join
        self.frame_ms = frame_ms  # of this layer's output
        size = input_size * join
        self.forward_lstm = nn.LSTM(size, config.hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(size, config.hidden_size, batch_first=True) if config.bidirectional else None
        both = config.hidden_size * (2 if config.bidirectional else 1)
        self.projection = nn.Linear(both, config.projection_size) if config.projection_size else None
        self.normalisation = Normalisation(config.normalisation, config.layer_size)
        self.dropout = nn.Dropout(config.dropout)
        self.residual = config.residual and size == config.layer_size
        self.quick: Bidirectional8 | Bidirectional16 | None = None  # what `preview` uses in place of the LSTMs

    def forward(self, x: Tensor, lengths: Tensor, window: Window | None) -> tuple[Tensor, Tensor]:
        """`(B, T, D)` and `(B,)` to `(B, ceil(T / join), output_size)` and the new lengths; zero beyond them."""
        x = self.joined(x)
        lengths = (lengths + self.join - 1) // self.join
        ahead = run_lstm(self.forward_lstm, x)
        behind = self._backward(x, lengths, x.shape[1], window or Window(x.shape[1], 0))
        y = self.finished(x, ahead, behind, lengths)
        return mask_beyond(y, lengths), lengths

    def step(self, x: Tensor, state: LayerState, window: Window, final: bool) -> tuple[Tensor, LayerState]:
        """Output frames that become complete with `x` `(B, t, D)`; with `final`, all remaining ones."""
        x = torch.cat([state.unjoined, x], dim=1)
        whole = x.shape[1] if final else x.shape[1] // self.join * self.join
        pending = torch.cat([state.pending, self.joined(x[:, :whole])], dim=1)

        ready = pending.shape[1]
        chunk, right = window if self.backward_lstm is not None else Window(1, 0)
        if not final:
            ready = max(0, (ready - right) // chunk * chunk)
        unjoined, hidden = x[:, whole:].clone(), state.hidden
        if ready == 0:
            empty = x.new_zeros(x.shape[0], 0, self.normalisation.size)
            return empty, LayerState(unjoined, pending, hidden)

        seen = pending[:, : ready + right]
        lengths = torch.full((x.shape[0],), seen.shape[1], device=x.device)
        ahead, hidden = run_lstm_from(self.forward_lstm, seen[:, :ready], hidden)
        y = self.finished(seen[:, :ready], ahead, self._backward(seen, lengths, ready, Window(chunk, right)), None)
        return y, LayerState(unjoined, pending[:, ready:].clone(), hidden)

    def preview(
        self, x: Tensor, state: LayerState, settled: int | Tensor, lengths: Tensor
    ) -> tuple[Tensor, LayerState, Tensor]:
        """Output frames of all of `x` `(B, t, D)`, t > 0, with lengths `(B,)`, zero beyond the new lengths.

        Returns:
            The frames, the state after the first `settled` of them, and the new lengths.
        """
        x, lengths = self.joined(x), (lengths + self.join - 1) // self.join
        behind: Tensor | None
        if self.quick is not None:
            ahead, behind, hidden = self.quick.run(x, lengths, state.hidden, settled)
        else:
            ahead, hidden = run_lstm_from(self.forward_lstm, x, state.hidden, int(settled))
            behind = self._backward(x, lengths, x.shape[1], Window(x.shape[1], 0))
        y = mask_beyond(self.finished(x, ahead, behind, None), lengths)
        return y, LayerState(state.unjoined, state.pending, hidden), lengths

    def initial_state(self, batch_size: int) -> LayerState:
        lstm, weight = self.forward_lstm, next(self.forward_lstm.parameters())
        empty = weight.new_zeros(batch_size, 0, lstm.input_size)
        zeros = weight.new_zeros(batch_size, lstm.hidden_size)
        return LayerState(empty[..., : lstm.input_size // self.join], empty, (zeros, zeros))

    def joined(self, x: Tensor) -> Tensor:
        """Frames `(B, T, D)` joined: `(B, ceil(T / join), join * D)`, with zeros after the last."""
        batch, frames, size = x.shape
        x = nn.functional.pad(x, (0, 0, 0, -frames % self.join))
        return x.reshape(batch, -1, self.join * size)

    def _backward(self, x: Tensor, lengths: Tensor, frames: int, window: Window) -> Tensor | None:
        """Run the backward LSTM over windows of a chunk and its right context, for the first `frames` frames of `x`.

        Only the valid part of each window is reversed, so that padding never affects the state. The windows of all rows
        form one batch.
        """
        if self.backward_lstm is None:
            return None
        (batch, total, _), device = x.shape, x.device
        chunk, width, windows = window.chunk, window.chunk + window.right, -(-frames // window.chunk)

        # Index of the source frame for each position in each window, reversed within the valid part.
        starts = torch.arange(windows, device=device) * chunk
        valid = (lengths[:, None, None] - starts[:, None]).clamp(0, width)  # (B, windows, 1)
        offsets = torch.arange(width, device=device)
        turned = torch.where(offsets < valid, valid - 1 - offsets, offsets)  # (B, windows, width), its own inverse
        rows = torch.arange(batch, device=device)[:, None, None] * total
        source = (rows + (starts[:, None] + turned).clamp(max=total - 1)).reshape(-1)
        reversed_x = x.reshape(batch * total, -1).index_select(0, source).view(batch * windows, width, -1)

        y = run_lstm(self.backward_lstm, reversed_x)
        base = torch.arange(batch * windows, device=device).view(batch, windows, 1) * width
        back = (base + turned[..., :chunk]).reshape(-1)
        y = y.reshape(batch * windows * width, -1).index_select(0, back)
        return y.view(batch, windows * chunk, -1)[:, :frames]

    def finished(self, x: Tensor, ahead: Tensor, behind: Tensor | None, lengths: Tensor | None = None) -> Tensor:
        """Output frames from joined frames `(B, T, join * D)` and the outputs `(B, T, H)` of each LSTM for them."""
        y: Tensor = ahead if behind is None else torch.cat([ahead, behind], dim=-1)
        y = y if self.projection is None else self.projection(y)
        y = self.dropout(self.normalisation(y, lengths))
        return x + y if self.residual else y


class Encoder(nn.Module):
    """Features `(B, T, n_mels)` to encoder_out `(B, frames(T), output_size)`."""

    def __init__(self, config: EncoderConfig, input_size: int, hop_ms: float) -> None:
        super().__init__()
        self.config = config
        self.front = Front(config, input_size) if config.front.channels else None
        self.front_ms = hop_ms * self.front.right_frames if self.front else 0.0  # lookahead of the front
        layers, frame_ms = [], hop_ms * config.front.reduction
        for i, join in enumerate(config.joins):
            frame_ms *= join
            below = config.layer_size if i else self.front.output_size if self.front else input_size
            layers.append(PyramidLayer(below, join, frame_ms, config))
        self.layers = nn.ModuleList(layers)
        self.frame_ms = frame_ms
        blocks = [HybridBlock(config.layer_size, config.hybrid, config.dropout) for _ in range(config.hybrid.layers)]
        self.hybrid = nn.ModuleList(blocks)
        sizes = [config.layer_size] + [config.dense_size] * config.dense_layers
        dense = (Dense(below, size, "batch", config.activation, config.dropout) for below, size in pairwise(sizes))
        self.dense = nn.ModuleList(dense)

    def forward(self, features: Tensor, lengths: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            features: `(B, T, n_mels)`, zero beyond each row's length.
            lengths: `(B,)`.
            context: amount of future audio seen; the whole utterance if None.

        Returns:
            encoder_out `(B, T', output_size)`, zero beyond its lengths, and encoder_out_lengths `(B,)`.
        """
        context = context or Context.full()
        x = features
        if self.front is not None:
            x, lengths = self.front(x, lengths)
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], 0, self.config.output_size), lengths
        windows = [None] * len(self.layers) if context.chunk_ms is None else self._windows(context)

        for layer, window in zip(self.layers, windows, strict=True):
            x, lengths = layer(x, lengths, window)
        for block in self.hybrid:
            x = block(x, lengths, window.chunk if window else None)
        for dense in self.dense:
            x = dense(x, lengths)
        return (mask_beyond(x, lengths) if len(self.hybrid) or len(self.dense) else x), lengths

    def step(
        self, features: Tensor, state: EncoderState, context: Context, final: bool = False
    ) -> tuple[Tensor, EncoderState]:
        """Encode the next features of a stream.

        Args:
            features: `(B, t, n_mels)`, t >= 0.
            state: from `initial_state` or the previous step.
            context: bounded, and the same in every step of a stream.
            final: whether the stream ends here; all buffered frames are then returned.

        Returns:
            The encoder_out frames `(B, t', output_size)` that became final, and the next state.

        Raises:
            ConfigError: if the context is not bounded.
        """
        windows = self._windows(context)
        x, front, layer_states, hybrid_states = features, state.front, [], []
        if self.front is not None and front is not None:
            x, front = self.front.step(x, front, final)
        for layer, layer_state, window in zip(self._pyramid(), state.layers, windows, strict=True):
            x, layer_state = layer.step(x, layer_state, window, final)
            layer_states.append(layer_state)
        for block, block_state in zip(self._blocks(), state.hybrid, strict=True):
            x, block_state = block.step(x, block_state, windows[-1].chunk, final)
            hybrid_states.append(block_state)
        return self._densely(x), EncoderState(tuple(layer_states), tuple(hybrid_states), front)

    def preview(
        self, features: Tensor, state: EncoderState, settled: int | Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Encode all features since a state with full context, as if the audio ended there.

        Args:
            features: `(B, t, n_mels)`, all features since the state, t >= 0; zero beyond each row's length.
            state: from `initial_state` or an earlier preview.
            settled: number of output frames that the next state includes, fewer than all; `(B,)`, where `mixes`, or one
                number for all rows.
            lengths: `(B,)`, where `pads`; None: all are t.

        Returns:
            The encoder_out frames `(B, frames(t), output_size)`, and the state after the settled frames, from which the
            next preview encodes the features that follow them.
        """
        if self.frames(features.shape[1]) == 0:
            return features.new_zeros(features.shape[0], 0, self.config.output_size), state
        x, front, layer_states, hybrid_states = features, state.front, [], []
        if lengths is not None and not self.pads:
            raise ValueError("this kind of encoder previews rows of equal length only")
        if isinstance(settled, Tensor) and not self.mixes:
            raise ValueError("this encoder previews rows with equally many settled frames only")
        if self.front is not None and front is not None:
            x, front = self.front.preview(x, front, int(settled) * math.prod(self.config.joins))
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        for layer, layer_state in zip(self._pyramid(), state.layers, strict=True):
            frames = settled * round(self.frame_ms / layer.frame_ms)
            x, layer_state, lengths = layer.preview(x, layer_state, frames, lengths)
            layer_states.append(layer_state)
        for block, block_state in zip(self._blocks(), state.hybrid, strict=True):
            x, block_state = block.preview(x, block_state, int(settled))
            hybrid_states.append(block_state)
        return self._densely(x), EncoderState(tuple(layer_states), tuple(hybrid_states), front)

    @property
    def pads(self) -> bool:
        """Whether rows of several lengths can be one batch of `preview`."""
        return self.front is None and not len(self.hybrid)

    @property
    def mixes(self) -> bool:
        """Whether rows with several numbers of settled frames can be one batch of `preview`."""
        return self.pads and all(layer.quick is not None for layer in self._pyramid())

    def quicken(self) -> None:
        """Run the LSTMs in bfloat16 where possible; else `preview`, which encodes frames several times, in int8."""
        bf16.pack(self)
        for layer in self._pyramid():
            forward, backward = layer.forward_lstm, layer.backward_lstm
            if isinstance(forward, Lstm16) and isinstance(backward, Lstm16):
                layer.quick = Bidirectional16(forward, backward)
            elif backward is not None and int8.available() and int8.vnni() and int8.fits(next(forward.parameters())):
                layer.quick = Bidirectional8(forward, backward)

    def initial_state(self, batch_size: int) -> EncoderState:
        return EncoderState(
            tuple(layer.initial_state(batch_size) for layer in self._pyramid()),
            tuple(block.initial_state(batch_size) for block in self._blocks()),
            self.front.initial_state(batch_size) if self.front is not None else None,
        )

    def frames(self, features: int) -> int:
        """Number of output frames for a number of features; the front drops features that do not fill a frame."""
        return -(-(features // self.config.front.reduction) // math.prod(self.config.joins))

    def lookahead_ms(self, context: Context) -> float:
        """Lookahead of an output frame beyond the end of its chunk."""
        if context.chunk_ms is None or not self.config.bidirectional:
            return self.front_ms
        return self._windows(context)[0].right * next(self._pyramid()).frame_ms + self.front_ms

    def chunk_ms(self, context: Context) -> float:
        """Length of the chunk of a bounded context, rounded up to whole output frames."""
        return self._windows(context)[-1].chunk * self.frame_ms

    def _windows(self, context: Context) -> list[Window]:
        """The window of each layer. Chunks of all layers end at the same time; only the lowest layer has lookahead.

        A higher layer would have to wait for the next whole chunk of the layer below: even the shortest lookahead there
        would add the latency of a chunk.
        """
        if context.chunk_ms is None:
            raise ConfigError("context.chunk_ms is null: only a bounded context can be run in steps")
        layers = list(self._pyramid())
        # The small term keeps 60 ms / 59.999999 ms from becoming two frames.
        chunk = max(1, math.ceil(context.chunk_ms / self.frame_ms - 1e-6))
        right = math.ceil(context.lookahead_ms / layers[0].frame_ms - 1e-6)
        sizes = [chunk * round(self.frame_ms / layer.frame_ms) for layer in layers]
        return [Window(size, right if i == 0 else 0) for i, size in enumerate(sizes)]

    def _densely(self, x: Tensor) -> Tensor:
        for dense in self.dense:
            x = dense(x)
        return x

    def _pyramid(self) -> Iterator[PyramidLayer]:
        return (cast(PyramidLayer, layer) for layer in self.layers)

    def _blocks(self) -> Iterator[HybridBlock]:
        return (cast(HybridBlock, block) for block in self.hybrid)
