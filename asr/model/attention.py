"""The classic kinds of attention behind one interface.

`prepare` projects the encoder output of a batch once; `forward` attends once for each output token. The state, which is
the previous alignment, is passed in and returned, so that a beam search can reorder it. Rows of queries and states are
hypotheses, N = B * K: the K beams of each utterance are consecutive, and share one copy of the encoder output.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.config import AttentionConfig

__all__ = ["Attention", "AttentionState", "Memory", "build_attention"]


@dataclass(frozen=True)
class Memory:
    """Encoder output prepared for attention; computed once, shared by all output tokens."""

    keys: Tensor  # (B, T, size)
    values: Tensor  # (B, T, value_size)
    inside: Tensor  # (B, T) bool: frames that are not padding

    def rows(self, x: Tensor) -> Tensor:
        """Hypotheses `(N, ...)` as `(B, K, ...)`."""
        rows: Tensor = x.unflatten(0, (len(self.keys), -1))
        return rows


class AttentionState(NamedTuple):
    """State of attention between tokens."""

    alignment: Tensor  # (N, heads, T): the previous weights; zero before the first step


class Attention(nn.Module, ABC):
    """Base class; a subclass defines the scores of a query and the keys."""

    heads = 1

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.context_size = config.context_size or value_size
        self.to_context = nn.Linear(value_size, config.context_size) if config.context_size else None
        self.to_query = nn.Linear(query_size, config.size)
        self.to_key = nn.Linear(value_size, config.size, bias=False)

    def prepare(self, encoder_out: Tensor, lengths: Tensor) -> Memory:
        """Project an encoder_out `(B, T, D)` with lengths `(B,)` once, before the first token."""
        inside = torch.arange(encoder_out.shape[1], device=encoder_out.device) < lengths[:, None]
        return Memory(self.to_key(encoder_out), self._values(encoder_out), inside)

    def initial_state(self, memory: Memory, beams: int = 1) -> AttentionState:
        batch, frames = memory.inside.shape
        if self.config.start == "uniform":
            even = self._even(memory)[:, None].expand(-1, self.heads, -1)
            return AttentionState(even.repeat_interleave(beams, dim=0))
        return AttentionState(memory.keys.new_zeros(batch * beams, self.heads, frames))

    def forward(self, query: Tensor, memory: Memory, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Attend once: query `(N, query_size)` to context `(N, context_size)` and the next state."""
        scores = self._scores(self.to_query(query), memory, state.alignment)  # (N, heads, T)
        allowed = self.allowed(memory, state)
        # The lowest finite value instead of -inf: an utterance without frames then gives uniform weights, not NaN.
        scores = scores.float().masked_fill(~allowed, torch.finfo(torch.float32).min)
        alignment = scores.softmax(dim=-1).to(memory.values.dtype)
        return self._context(alignment, memory), AttentionState(alignment)

    def allowed(self, memory: Memory, state: AttentionState) -> Tensor:
        """`(N, 1, T)`: frames that may be attended to."""
        beams = len(state.alignment) // len(memory.inside)
        inside = memory.inside.repeat_interleave(beams, dim=0)[:, None]
        width = self.config.window_frames
        return inside if width is None else inside & self._window(state.alignment, width)

    def mean_context(self, memory: Memory) -> Tensor:
        """`(context_size,)`: context of uniform attention to all frames, padding excluded, averaged over the batch."""
        alignment = self._even(memory)[:, None].expand(-1, self.heads, -1)
        return self._context(alignment, memory).mean(dim=0)

    @abstractmethod
    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """Scores `(N, heads, T)` of a projected query `(N, size)`; `previous` is `(N, heads, T)`."""

    def _values(self, encoder_out: Tensor) -> Tensor:
        # Projected here and not after the sum: the same, since weights add up to 1, but once and not for each token.
        return encoder_out if self.to_context is None else self.to_context(encoder_out)

    def _context(self, alignment: Tensor, memory: Memory) -> Tensor:
        """Sum of the values, weighted by an alignment `(N, heads, T)`: `(N, context_size)`."""
        return torch.bmm(memory.rows(alignment[:, 0]), memory.values).flatten(0, 1)

    @staticmethod
    def _even(memory: Memory) -> Tensor:
        """`(B, T)`: equal weights of all frames that are not padding."""
        even = memory.inside / memory.inside.sum(dim=1, keepdim=True).clamp(min=1)
        return even.to(memory.values.dtype)

    @staticmethod
    def _window(previous: Tensor, width: int) -> Tensor:
        """`(N, 1, T)`: within `width` frames of the previous peak, which is frame 0 before the first token."""
        peak = previous.mean(dim=1).argmax(dim=-1)
        distance = torch.arange(previous.shape[-1], device=previous.device) - peak[:, None]
        return (distance.abs() <= width)[:, None]


class AdditiveAttention(Attention):
    """v · tanh(W q + U k): Bahdanau et al. 2015, also called concat attention."""

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__(query_size, value_size, config)
        self.to_score = nn.Linear(config.size, 1, bias=False)

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        return self._scored(memory.keys[:, None] + memory.rows(query)[:, :, None])

    def _scored(self, x: Tensor) -> Tensor:
        """Scores v · tanh(x) of `(B, K, T, size)` as `(N, 1, T)`, up to a constant; overwrites `x`.

        tanh(x) is 2 sigmoid(2 x) - 1, and sigmoid is much faster on a CPU. Softmax ignores the -1, which is in every
        score. In half precision, used on GPUs, this would lose accuracy.
        """
        full = x.dtype == torch.float32
        scores: Tensor = 2 * self.to_score(x.mul_(2).sigmoid_()) if full else self.to_score(x.tanh_())
        return scores.flatten(0, 1).transpose(1, 2)


class LocationAwareAttention(AdditiveAttention):
    """Additive attention with a convolution of the previous alignment as location feature: Chorowski et al. 2015."""

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__(query_size, value_size, config)
        self.filters = nn.Conv1d(1, config.location_channels, config.location_width, padding="same", bias=False)
        self.to_location = nn.Linear(config.location_channels, config.size, bias=False)

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        x = self.to_location(memory.rows(self.filters(previous).transpose(1, 2)))
        # In place: with many beams this is the largest tensor of the search.
        return self._scored(x.add_(memory.keys[:, None]).add_(memory.rows(query)[:, :, None]))


class DotAttention(Attention):
    """q · k: Luong et al. 2015."""

    scale = 1.0

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        scores = torch.bmm(memory.rows(query * self.scale), memory.keys.transpose(1, 2))
        return scores.flatten(0, 1)[:, None]


class ScaledDotAttention(DotAttention):
    """q · k / sqrt(size): Vaswani et al. 2017."""

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__(query_size, value_size, config)
        self.scale = 1 / math.sqrt(config.size)


class MultiHeadAttention(Attention):
    """Scaled dot products in several subspaces, each with its own values: Vaswani et al. 2017."""

    to_context: nn.Linear

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__(query_size, value_size, config)
        self.heads = config.heads
        self.to_value = nn.Linear(value_size, config.size)
        self.to_context = nn.Linear(config.size, value_size)

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        query = memory.rows(query).unflatten(-1, (self.heads, -1))
        keys = memory.keys.unflatten(-1, (self.heads, -1))
        return torch.einsum("bkhd,bthd->bkht", query, keys).flatten(0, 1) / math.sqrt(query.shape[-1])

    def _values(self, encoder_out: Tensor) -> Tensor:
        values: Tensor = self.to_value(encoder_out)
        return values

    def _context(self, alignment: Tensor, memory: Memory) -> Tensor:
        values = memory.values.unflatten(-1, (self.heads, -1))
        attended = torch.einsum("bkht,bthd->bkhd", memory.rows(alignment), values)
        context: Tensor = self.to_context(attended.flatten(2).flatten(0, 1))
        return context


_SCORERS: dict[str, type[Attention]] = {
    "location": LocationAwareAttention,
    "additive": AdditiveAttention,
    "dot": DotAttention,
    "scaled_dot": ScaledDotAttention,
    "multi_head": MultiHeadAttention,
}


def build_attention(query_size: int, value_size: int, config: AttentionConfig) -> Attention:
    """The scorer that the config names."""
    return _SCORERS[config.scorer](query_size, value_size, config)
