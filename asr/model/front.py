"""Convolutional front: blocks of 2-D convolutions and max pooling, as in VGG-BLSTM and CRDNN.

At both ends of an utterance, and of the bins, convolutions see the frames mirrored. Every other output frame depends on
a bounded stretch of input, so a stream keeps the latest frames and recomputes the few outputs at its edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from asr.config import EncoderConfig
from asr.model.dense import Dense, activation
from asr.model.states import State

__all__ = ["Front", "FrontState"]

_CONVOLUTIONS = 2  # in each block


@dataclass(frozen=True)
class FrontState(State):
    """State of the front from chunk to chunk."""

    kept: Tensor  # (B, n, n_mels): latest input frames, from a whole output frame on
    done: int  # output frames of `kept` already returned, or wrong because earlier frames are missing


class Front(nn.Module):
    """Features `(B, T, n_mels)` to `(B, T // reduction, output_size)`."""

    def __init__(self, config: EncoderConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config.front
        self.n_mels = n_mels
        blocks, channels, bins = [], 1, n_mels
        for block, count in enumerate(self.config.channels):
            blocks.append(_Block(channels, bins, block, config))
            channels, bins = count, bins // self.config.frequency_pools[block]
        self.blocks = nn.ModuleList(blocks)
        self.output_size = channels * bins
        self.projection: Dense | None = None
        if size := self.config.projection_size:
            self.projection = Dense(self.output_size, size, self.config.normalisation, config.activation)
            self.output_size = size

        # A block's convolutions reach `half` frames of its own rate to each side, so `edge_frames` outputs depend on
        # what lies beyond an edge.
        half, frames, self.right_frames, self.edge_frames = self.config.time_width // 2 * _CONVOLUTIONS, 1, 0, 0
        for pool in self.config.time_pools:
            self.right_frames += half * frames
            self.edge_frames = -(-(self.edge_frames + half) // pool)
            frames *= pool

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve a padded batch; returns the frames, undefined beyond their lengths, and the lengths `(B,)`."""
        if features.shape[1] < self.config.reduction:
            return self._nothing(features), lengths // self.config.reduction
        x = features[..., None]
        for block in self.blocks:
            x, lengths = block(x, lengths)
        x = x.flatten(2)
        return (x if self.projection is None else self.projection(x)), lengths

    def step(self, features: Tensor, state: FrontState, final: bool) -> tuple[Tensor, FrontState]:
        """Output frames that become complete with `features` `(B, t, n_mels)`; with `final`, all remaining ones."""
        x = torch.cat([state.kept, features], dim=1)
        ready = x.shape[1] // self.config.reduction if final else self._complete(x.shape[1])
        if ready <= state.done:
            return self._nothing(x), FrontState(x, state.done)
        out = self._whole(x)[:, state.done : ready]
        return out, self._after(x, ready, x.shape[1])

    def preview(self, features: Tensor, state: FrontState, settled: int) -> tuple[Tensor, FrontState]:
        """Output frames of all of `features` as if the audio ended there, and the state after the first `settled`.

        The next call must repeat the features after the settled frames.
        """
        x = torch.cat([state.kept, features], dim=1)
        settled += state.done
        return self._whole(x)[:, state.done :], self._after(x, settled, settled * self.config.reduction)

    def initial_state(self, batch_size: int) -> FrontState:
        return FrontState(next(self.parameters()).new_zeros(batch_size, 0, self.n_mels), 0)

    def _whole(self, x: Tensor) -> Tensor:
        out, _ = self(x, torch.full((len(x),), x.shape[1], device=x.device))
        return cast(Tensor, out)

    def _after(self, x: Tensor, done: int, end: int) -> FrontState:
        """The state with the first `done` output frames of `x` returned, and its frames up to `end` kept."""
        first = max(0, done - self.edge_frames)
        return FrontState(x[:, first * self.config.reduction : end].clone(), done - first)

    def _complete(self, frames: int) -> int:
        """Number of output frames that do not depend on input after the first `frames`."""
        for pool in self.config.time_pools:
            frames = max(0, frames - self.config.time_width // 2 * _CONVOLUTIONS) // pool
        return frames

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 0, self.output_size)


class _Block(nn.Module):
    """Two convolutions with normalisation and activation, then max pooling: `(B, T, F, C)` to `(B, T', F', C')`."""

    def __init__(self, channels: int, bins: int, block: int, config: EncoderConfig) -> None:
        super().__init__()
        front, count = config.front, config.front.channels[block]
        self.reach = (front.time_width // 2, front.frequency_width // 2)
        self.pools = (front.time_pools[block], front.frequency_pools[block])
        width = (front.time_width, front.frequency_width)
        self.convolutions = nn.ModuleList(nn.Conv2d(c, count, width) for c in (channels, count))
        norms = (nn.LayerNorm((bins, count)) if front.normalisation == "layer" else nn.Identity() for _ in range(2))
        self.norms = nn.ModuleList(norms)
        self.activation = activation(config.activation)
        self.dropout = nn.Dropout2d(config.dropout)  # of whole channels

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # Channels last in memory, so that the layout between (T, F, C) and (C, T, F) is only a view.
            y = convolution(self._mirrored(x, lengths).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = self.activation(norm(y))
        x = nn.functional.max_pool2d(x.permute(0, 3, 1, 2), self.pools)
        return self.dropout(x).permute(0, 2, 3, 1), lengths // self.pools[0]

    def _mirrored(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Bins and frames with their mirror image at both ends; each row is mirrored at its own length."""
        batch, frames, bins, _ = x.shape
        time, frequency = self.reach
        at = torch.arange(-frequency, bins + frequency, device=x.device).abs()
        x = x.index_select(2, torch.minimum(at, 2 * (bins - 1) - at).clamp(min=0))
        at = torch.arange(-time, frames + time, device=x.device).abs()
        at = torch.minimum(at, 2 * (lengths[:, None] - 1) - at).clamp(0, frames - 1)
        rows = torch.arange(batch, device=x.device)[:, None] * frames
        mirrored = x.flatten(0, 1).index_select(0, (rows + at).flatten())
        return mirrored.view(batch, -1, *x.shape[2:])  # not `unflatten`, which a trace would not see
