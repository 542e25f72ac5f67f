"""Decoder: LSTM or GRU cells with the previous token and context as input, and attention over the encoder output.

After Chan et al. 2016 with the input feeding of Luong et al. 2015. `step` takes the state and returns the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from asr.config import AttentionConfig, DecoderConfig
from asr.model import fast
from asr.model.attention import Attention, AttentionState, LocationAwareAttention, Memory, build_attention
from asr.model.fast.decoder_loop import LoopAttention, LoopCell
from asr.model.recurrent import PARTS, build_cell, run_cell
from asr.text.tokenizer import SOS

__all__ = ["Decoder", "DecoderState"]

_MEAN_PACE = 0.01  # weight of a batch in the running mean of contexts


class DecoderState(NamedTuple):
    """State of the decoder between tokens; the first dimension of every tensor is the hypothesis."""

    hidden: Tensor  # (N, layers, parts, H): each layer's h and, of LSTM cells, c
    context: Tensor  # (N, context_size): last output of attention
    alignment: Tensor  # (N, heads, T): attention weights

    def select(self, rows: Tensor) -> DecoderState:
        """The state of the given rows `(N',)`, for a beam search."""
        return DecoderState(*(x.index_select(0, rows) for x in self))


class _Steps(NamedTuple):
    """The modules of a step, or their fast versions for training."""

    cells: Iterable[nn.Module | LoopCell]
    attention: Attention | LoopAttention


class Decoder(nn.Module):
    """Logits of the next token, given the previous tokens and the encoder output.

    Training keeps a running mean of the contexts, which `InternalLm` uses in place of audio.
    """

    mean_context: Tensor  # (context_size,)

    def __init__(self, vocab_size: int, encoder_size: int, attention: AttentionConfig, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.embedding_size)
        self.attention = build_attention(config.hidden_size, encoder_size, attention)
        context_size = self.attention.context_size
        sizes = [config.embedding_size + context_size] + [config.hidden_size] * (config.layers - 1)
        self.cells = nn.ModuleList(build_cell(config.cell, size, config.hidden_size) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.to_readout = nn.Linear(config.hidden_size + context_size, config.hidden_size)
        self.to_logits = nn.Linear(config.hidden_size, vocab_size)
        self.register_buffer("mean_context", torch.zeros(context_size))

    def prepare(self, encoder_out: Tensor, lengths: Tensor) -> Memory:
        """Prepare an encoder_out `(B, T, D)` with lengths `(B,)` for `step`."""
        return self.attention.prepare(encoder_out, lengths)

    @torch.no_grad()
    def _remember(self, memory: Memory) -> None:
        """Update the running mean context; the first batch sets it, and a batch that is not finite is ignored."""
        mean, seen = self.mean_context, self.attention.mean_context(memory).to(self.mean_context.dtype)
        moved = torch.where(mean.any(), mean.lerp(seen, _MEAN_PACE), seen)
        mean.copy_(torch.where(seen.isfinite().all(), moved, mean))

    def initial_state(self, memory: Memory, beams: int = 1) -> DecoderState:
        """State before the first token, with `beams` hypotheses for each utterance."""
        alignment, zeros = self.attention.initial_state(memory, beams).alignment, memory.keys.new_zeros
        return DecoderState(
            hidden=zeros(len(alignment), self.config.layers, PARTS[self.config.cell], self.config.hidden_size),
            context=zeros(len(alignment), self.attention.context_size),
            alignment=alignment,
        )

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState]:
        """Advance by one token.

        Args:
            tokens: `(N,)`, the previous tokens; N = B * K with K hypotheses for each utterance.
            state: from `initial_state` or the previous step.
            memory: from `prepare`, for the B utterances.

        Returns:
            The readout `(N, hidden_size)`, which `logits` takes, and the next state.
        """
        x, state = self._advance(self.dropout(self.embedding(tokens)), state, memory)
        return self._readout(x, state.context), state

    def _advance(
        self, x: Tensor, state: DecoderState, memory: Memory, deferred: _Steps | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Outputs `(N, hidden_size)` of the cells for embedded tokens `(N, embedding_size)`, and the next state.

        `deferred`: fast versions of the cells and the attention, for training.
        """
        cells, attention = deferred or _Steps(self.cells, self.attention)
        x = torch.cat([x.to(state.context.dtype), state.context], dim=-1)
        hidden = []
        for i, cell in enumerate(cells):
            hidden.append(run_cell(cell, x, state.hidden[:, i]))
            x = self.dropout(hidden[-1][:, 0])
        context, looked = attention(x, memory, AttentionState(state.alignment))
        return x, DecoderState(torch.stack(hidden, dim=1), context, looked.alignment)

    def _deferred(self, memory: Memory) -> _Steps:
        attention = self.attention
        return _Steps(
            [LoopCell(cell) if isinstance(cell, nn.LSTMCell) else cell for cell in self.cells],
            LoopAttention(attention, memory) if isinstance(attention, LocationAwareAttention) else attention,
        )

    def _readout(self, x: Tensor, context: Tensor) -> Tensor:
        """Outputs of the cells `(..., hidden_size)` and contexts `(..., context_size)` to readouts."""
        readout: Tensor = self.to_readout(torch.cat([x, context], dim=-1))
        return readout.tanh() if self.config.readout == "tanh" else readout

    def logits(self, readout: Tensor) -> Tensor:
        """Logits `(..., vocab_size)` of readouts `(..., hidden_size)`; training computes those of all steps at once."""
        logits: Tensor = self.to_logits(self.dropout(readout))
        return logits

    def alignment(self, tokens: Sequence[int], encoder_out: Tensor, lengths: Tensor) -> Tensor:
        """Attention weights while a known text is decoded (teacher forcing).

        Args:
            tokens: the text, without sos and eos.
            encoder_out: `(1, T, D)`.
            lengths: `(1,)`.

        Returns:
            `(U, T)` float32 on the CPU: for each of the U tokens, the mean over the heads.
        """
        if not tokens:
            return torch.zeros(0, encoder_out.shape[1])
        history = torch.tensor([[SOS, *tokens[:-1]]], device=encoder_out.device)
        _, alignments = self(history, encoder_out, lengths)
        return cast(Tensor, alignments[0].mean(dim=1).float().cpu())

    def forward(
        self, tokens: Tensor, encoder_out: Tensor, lengths: Tensor, sampling_rate: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Logits given the reference tokens (teacher forcing), some replaced by the model's own (scheduled sampling).

        Args:
            tokens: `(B, U)`: sos and the tokens, without eos.
            encoder_out: `(B, T, D)`.
            lengths: `(B,)`.
            sampling_rate: probability that an input token is sampled from the model's distribution at the previous step
                (Bengio et al. 2015).

        Returns:
            logits `(B, U, vocab_size)` and alignments `(B, U, heads, T)`.
        """
        memory = self.prepare(encoder_out, lengths)
        if self.training:
            self._remember(memory)
        state = self.initial_state(memory)
        embedded = self.dropout(self.embedding(tokens))

        # On a GPU, PyTorch's fused kernel of a cell is faster.
        deferred = self._deferred(memory) if fast.enabled() and not encoder_out.is_cuda else None
        outputs: list[Tensor] = []
        states: list[DecoderState] = []
        for u in range(tokens.shape[1]):
            x = embedded[:, u]

            if sampling_rate > 0 and u > 0:
                with torch.no_grad():
                    logits = self.logits(self._readout(outputs[-1], state.context)).float()
                    # Gumbel-max sampling; unlike multinomial, it does not fail on NaN.
                    drawn = (logits - torch.rand_like(logits).clamp(min=1e-20).log().neg().log()).argmax(-1)
                chosen = torch.rand(drawn.shape, device=drawn.device) < sampling_rate
                x = torch.where(chosen[:, None], self.dropout(self.embedding(drawn)), x)

            x, state = self._advance(x, state, memory, deferred)
            outputs.append(x)
            states.append(state)

        # The loop does not depend on the readouts, so all are computed at once.
        readouts = self._readout(torch.stack(outputs, dim=1), torch.stack([s.context for s in states], dim=1))
        return self.logits(readouts), torch.stack([s.alignment for s in states], dim=1)
