"""The classic kinds of attention behind one interface.

`prepare` projects the encoder output of a batch once; `forward` attends once for each output token. The state, which is
the previous alignment, is passed in and returned, so that a beam search can reorder it. Rows of queries and states are
hypotheses: those of each utterance are consecutive, and share one copy of the encoder output. Either each of the B
utterances has K of them, N = B * K, or `Memory.of` gives the utterance of each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.config import AttentionConfig
from asr.model.fast import location

__all__ = ["Attention", "AttentionState", "Memory", "build_attention"]


@dataclass(frozen=True)
class Memory:
    """Encoder output prepared for attention; computed once, shared by all output tokens."""

    keys: Tensor  # (B, T, size)
    values: Tensor  # (B, T, value_size)
    inside: Tensor  # (B, T) bool: frames that are not padding
    owners: Tensor | None = None  # (N,): the utterance of each hypothesis; None: each utterance has equally many
    places: Tensor | None = None  # (N,): where each hypothesis lies in a grid with equally many for each utterance
    width: int = 0  # hypotheses per utterance in that grid

    def of(self, owners: Tensor) -> Memory:
        """This memory for hypotheses of the utterances `owners` `(N,)`, in ascending order; synchronises with a GPU."""
        counts = owners.bincount(minlength=len(self.keys))
        width = int(counts.max())
        if width * len(self.keys) == len(owners):
            return Memory(self.keys, self.values, self.inside)
        first = counts.cumsum(0) - counts
        places = owners * width + torch.arange(len(owners), device=owners.device) - first[owners]
        return Memory(self.keys, self.values, self.inside, owners, places, width)

    def select(self, utterances: Tensor) -> Memory:
        """The memory of some utterances `(B',)`."""
        return Memory(self.keys[utterances], self.values[utterances], self.inside[utterances])

    def rows(self, x: Tensor) -> Tensor:
        """Hypotheses `(N, ...)` as a grid `(B, K, ...)`, with zeros where an utterance has fewer than K."""
        if self.places is not None:
            x = x.new_zeros(len(self.keys) * self.width, *x.shape[1:]).index_copy_(0, self.places, x)
        grid: Tensor = x.unflatten(0, (len(self.keys), -1))
        return grid

    def flat(self, grid: Tensor) -> Tensor:
        """A grid `(B, K, ...)` as hypotheses `(N, ...)`."""
        x = grid.flatten(0, 1)
        return x if self.places is None else x.index_select(0, self.places)

    def spread(self, x: Tensor, hypotheses: int) -> Tensor:
        """Values of utterances `(B, ...)` repeated for their hypotheses: `(N, ...)`."""
        if self.owners is not None:
            return x.index_select(0, self.owners)
        return x.repeat_interleave(hypotheses // len(x), dim=0)

    def with_keys(self, x: Tensor) -> Tensor:
        """The keys of each hypothesis's utterance plus `x` `(N, T or 1, size)`: `(N, T, size)`; may overwrite `x`."""
        if self.owners is not None:
            return self.keys.index_select(0, self.owners).add_(x)
        rows, keys = self.rows(x), self.keys[:, None]
        # In place: with many beams this is the largest tensor of the search.
        return (rows.add_(keys) if rows.shape[2] == keys.shape[2] else rows + keys).flatten(0, 1)


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
        inside = memory.spread(memory.inside, len(state.alignment))[:, None]
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
        # Projected before the weighted sum, since weights add up to 1: once instead of for each token.
        return encoder_out if self.to_context is None else self.to_context(encoder_out)

    def _context(self, alignment: Tensor, memory: Memory) -> Tensor:
        """Sum of the values, weighted by an alignment `(N, heads, T)`: `(N, context_size)`."""
        return memory.flat(torch.bmm(memory.rows(alignment[:, 0]), memory.values))

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
        return self._scored(memory.with_keys(query[:, None]))

    def _scored(self, x: Tensor) -> Tensor:
        """Scores v · tanh(x) of `(N, T, size)` as `(N, 1, T)`, up to a constant; overwrites `x`.

        tanh(x) is 2 sigmoid(2 x) - 1, and sigmoid is much faster on a CPU. Softmax ignores the -1, which is in every
        score. In half precision, used on GPUs, this would lose accuracy.
        """
        full = x.dtype == torch.float32
        scores: Tensor = 2 * self.to_score(x.mul_(2).sigmoid_()) if full else self.to_score(x.tanh_())
        return scores.transpose(1, 2)


class LocationAwareAttention(AdditiveAttention):
    """Additive attention with a convolution of the previous alignment as location feature: Chorowski et al. 2015."""

    def __init__(self, query_size: int, value_size: int, config: AttentionConfig) -> None:
        super().__init__(query_size, value_size, config)
        self.filters = nn.Conv1d(1, config.location_channels, config.location_width, padding="same", bias=False)
        self.to_location = nn.Linear(config.location_channels, config.size, bias=False)

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        if location.applies(query):
            owners = memory.spread(torch.arange(len(memory.keys)), len(query))
            weights = self.filters.weight, self.to_location.weight, self.to_score.weight
            return location.scores(query, memory.keys, owners, previous[:, 0], *weights)[:, None]
        x = self.to_location(self.filters(previous).transpose(1, 2))
        return self._scored(memory.with_keys(x).add_(query[:, None]))


class DotAttention(Attention):
    """q · k: Luong et al. 2015."""

    scale = 1.0

    def _scores(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        scores = torch.bmm(memory.rows(query * self.scale), memory.keys.transpose(1, 2))
        return memory.flat(scores)[:, None]


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
        return memory.flat(torch.einsum("bkhd,bthd->bkht", query, keys)) / math.sqrt(query.shape[-1])

    def _values(self, encoder_out: Tensor) -> Tensor:
        values: Tensor = self.to_value(encoder_out)
        return values

    def _context(self, alignment: Tensor, memory: Memory) -> Tensor:
        values = memory.values.unflatten(-1, (self.heads, -1))
        attended = torch.einsum("bkht,bthd->bkhd", memory.rows(alignment), values)
        context: Tensor = self.to_context(memory.flat(attended.flatten(2)))
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
