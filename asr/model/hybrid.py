"""Hybrid block of an LSTM for the distant past and self-attention for near frames.

Both are residual, with layer normalisation of their input (pre-norm). A frame attends to at most `past_frames` earlier
frames and, in a bounded context, to later frames of its own chunk only. A stream therefore needs bounded memory and
gives the same output as the whole utterance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import HybridConfig
from asr.model.recurrent import run_lstm_from
from asr.model.states import State

__all__ = ["HybridBlock", "HybridState", "rotary", "sinusoidal"]


def sinusoidal(positions: Tensor, size: int) -> Tensor:
    """Sinusoidal position encodings (Vaswani et al. 2017): `(T,)` to `(T, size)`."""
    # In float64: after hours of a stream, float32 cannot resolve neighbouring positions.
    rates = 10_000.0 ** (-torch.arange(0, size, 2, device=positions.device, dtype=torch.float64) / size)
    angles = positions.to(torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :size].float()


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position encoding (Su et al. 2021): pairs of `x` `(B, heads, T, d)` rotated by their `positions` `(T,)`.

    Scores between rotated queries and keys depend only on the difference of their positions.
    """
    codes = sinusoidal(positions, x.shape[-1]).to(x.dtype)
    sine, cosine = codes[:, 0::2], codes[:, 1::2]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


@dataclass(frozen=True)
class HybridState(State):
    """State of one block between chunks."""

    hidden: tuple[Tensor, Tensor]  # the LSTM's (B, size) twice
    kept: Tensor  # (B, n, size): LSTM outputs that attention still needs, as keys or as queries
    done: int  # number of kept frames whose output has been returned
    first: int  # position in the stream of the first kept frame


class HybridBlock(nn.Module):
    """`(B, T, size)` to the same shape."""

    def __init__(self, size: int, config: HybridConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.lstm_norm, self.attention_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.to_query_key_value = nn.Linear(size, 3 * size)
        self.to_output = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor, chunk: int | None) -> Tensor:
        """Encode a padded batch; frames attend up to the end of their chunk, or to all later if `chunk` is None."""
        y: Tensor = x + self.dropout(self.lstm(self.lstm_norm(x))[0])
        frames = torch.arange(y.shape[1], device=y.device)
        return y + self.attend(y, 0, y.shape[1], 0, chunk, frames < lengths[:, None])

    def step(self, x: Tensor, state: HybridState, chunk: int, final: bool) -> tuple[Tensor, HybridState]:
        """Outputs of the chunks that become complete with `x` `(B, t, size)`; with `final`, of all remaining frames."""
        hidden, kept = state.hidden, state.kept
        if x.shape[1]:
            y, hidden = run_lstm_from(self.lstm, self.lstm_norm(x), hidden)
            kept = torch.cat([kept, x + y], dim=1)

        end = state.first + kept.shape[1]
        ready = (end if final else end // chunk * chunk) - state.first
        if ready == state.done:
            return x[:, :0], HybridState(hidden, kept, state.done, state.first)

        out = self._attended(kept, state, ready, chunk)
        release = max(0, ready - self.config.past_frames)
        return out, HybridState(hidden, kept[:, release:].clone(), ready - release, state.first + release)

    def preview(self, x: Tensor, state: HybridState, settled: int) -> tuple[Tensor, HybridState]:
        """Outputs of `x` `(B, t, size)`, t > 0, without chunks, and the state after its first `settled` frames."""
        y, hidden = run_lstm_from(self.lstm, self.lstm_norm(x), state.hidden, settled)
        kept = torch.cat([state.kept, x + y], dim=1)
        out, done = self._attended(kept, state, kept.shape[1], None), state.done + settled
        release = max(0, done - self.config.past_frames)
        return out, HybridState(hidden, kept[:, release:done].clone(), done - release, state.first + release)

    def initial_state(self, batch_size: int) -> HybridState:
        size = self.lstm.hidden_size
        zeros = self.to_output.weight.new_zeros(batch_size, size)
        return HybridState((zeros, zeros), zeros.new_zeros(batch_size, 0, size), 0, 0)

    def _attended(self, kept: Tensor, state: HybridState, ready: int, chunk: int | None) -> Tensor:
        """Outputs of the frames from `state.done` to `ready`; a stream has no padding."""
        everywhere = torch.ones(kept.shape[:2], dtype=torch.bool, device=kept.device)
        return kept[:, state.done : ready] + self.attend(kept, state.done, ready, state.first, chunk, everywhere)

    def attend(
        self, y: Tensor, start: int | Tensor, stop: int, first: int | Tensor, chunk: int | None, valid: Tensor
    ) -> Tensor:
        """Self-attention of frames `start` to `stop` of `y` `(B, T, size)`, whose first frame has position `first`.

        Keys are the frames of `y` that are `valid` `(B, T)` and within the limits of past and chunk.
        """
        (batch, frames, size), heads = y.shape, self.config.heads
        z = self.attention_norm(y)
        positions = torch.arange(frames, device=y.device)
        if self.config.positions == "sinusoidal":
            z = z + sinusoidal(positions + first, size).to(z.dtype)
        query, key, value = self.to_query_key_value(z).view(batch, frames, 3, heads, -1).permute(2, 0, 3, 1, 4)
        if self.config.positions == "rotary":
            query, key = rotary(query, positions), rotary(key, positions)

        # The frames that each query may attend to.
        distance = positions - positions[start:stop, None]  # of the key from the query
        near = distance >= -self.config.past_frames
        if chunk is not None:
            chunks = (positions + first) // chunk
            near = near & (chunks <= chunks[start:stop, None])
        # A query in the padding attends to itself: a row without any key would give NaN.
        mask = (near & valid[:, None, :]) | (distance == 0)

        attended = nn.functional.scaled_dot_product_attention(query[:, :, start:stop], key, value, mask[:, None])
        output: Tensor = self.dropout(self.to_output(attended.transpose(1, 2).flatten(2)))
        return output
