"""The encoder's step as an ONNX graph: a module whose state is plain tensors, so that one trace captures all of it.

As in `asr.exporting.graphs`, dynamic sizes are never turned into Python numbers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from asr.exporting.trace import Port
from asr.model.encoder import Encoder, PyramidLayer
from asr.model.front import Front
from asr.model.hybrid import HybridBlock
from asr.model.las import Model

__all__ = ["EncoderStep"]

State = dict[str, Tensor]  # by port name


class EncoderStep(nn.Module):
    """Encoder output of a stream's next chunk, with the state passed in and returned.

    The graph serves both forms of streaming. `Encoder.step`: the features are a chunk and its lookahead; `chunk` and
    `settled` are both the length of the chunk. `Encoder.preview`: the features are all those after the state; `chunk`
    is their number, and `settled` the number of those that will not be passed again.

    The state is bounded: the states of the forward LSTMs; with a convolutional front, the latest settled features in
    its receptive field; with hybrid blocks, the states of their LSTMs and the latest settled frames, to which later
    frames attend.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder: Encoder = model.encoder
        self.config = model.config.encoder
        self.numbers = [Port("chunk", (), "int64"), Port("settled", (), "int64")]
        lstms = ("B", len(self.config.joins), self.config.hidden_size)
        self.state = [Port("hidden", lstms), Port("cell", lstms)]
        if self.encoder.front is not None:
            self.numbers.append(Port("lookahead", (), "int64"))
            self.state.append(Port("past_features", ("B", "K", self.encoder.front.n_mels)))
        if blocks := self.config.hybrid.layers:
            size = self.config.layer_size
            lstms = ("B", blocks, size)
            self.state += [Port("block_hidden", lstms), Port("block_cell", lstms)]
            self.state += [Port("past_frames", ("B", blocks, "P", size)), Port("position", (), "int64")]

    def forward(self, features: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            features: `(B, t, n_mels)`; those after the chunk are lookahead for the front and the lowest layer.
            rest: scalars and state, in the order of `self.numbers` and `self.state`.
                chunk: number of features in the chunk, 1 to t, with a front at least enough for one of its frames;
                whole output frames unless the stream ends here.
                settled: number of features, 0 to `chunk`, before the next state; whole output frames or `chunk`.
                lookahead: nominal number of lookahead features; fewer may be passed at the end of the stream.
                hidden, cell: states of the forward LSTMs, `(B, layers, H)`, initially zero.
                past_features: `(B, K, n_mels)`, initially K = 0.
                block_hidden, block_cell: states of the hybrid blocks' LSTMs, `(B, blocks, size)`, initially zero.
                past_frames: `(B, blocks, P, size)`, initially P = 0.
                position: index of the first past frame in the stream, initially 0.

        Returns:
            encoder_out of the chunk `(B, t', D)`, and the next state.
        """
        given = dict(zip((port.name for port in (*self.numbers, *self.state)), rest, strict=True))
        chunk, settled, x = given["chunk"], given["settled"], features
        after: State = {}
        if self.encoder.front is not None:
            x, after["past_features"] = self._convolved(self.encoder.front, x, given)
            chunk, settled = (count // self.config.front.reduction for count in (chunk, settled))
        x, settled = self._pyramid(x, chunk, settled, given, after)
        if len(self.encoder.hybrid):
            x = self._blocks(x, settled, given, after)
        for dense in self.encoder.dense:
            x = dense(x)
        return x, *(after[port.name] for port in self.state)

    def _convolved(self, front: Front, features: Tensor, given: State) -> tuple[Tensor, Tensor]:
        """The front's frames for the chunk and the lowest layer's lookahead, and the next past features.

        Later frames are left out, since they depend on features that have not arrived yet.
        """
        past, reduction = given["past_features"], self.config.front.reduction
        x = torch.cat([past, features], dim=1)
        frames, _ = front(x, torch.zeros_like(x[:, 0, 0], dtype=torch.int64) + _counted(x))
        done, right = _counted(past) // reduction, given["lookahead"] - front.right_frames
        known = (given["chunk"] // reduction) + torch.div(right.clamp(min=0), reduction, rounding_mode="floor")
        end = done + given["settled"] // reduction
        first = (end - front.edge_frames).clamp(min=0)
        return frames[:, done : done + known], x[:, first * reduction : end * reduction]

    def _pyramid(self, x: Tensor, chunk: Tensor, settled: Tensor, given: State, after: State) -> tuple[Tensor, Tensor]:
        """Output frames of the chunk, and how many of them are settled."""
        states = []
        for number, layer in enumerate(cast("list[PyramidLayer]", self.encoder.layers)):
            x = layer.joined(x)
            chunk, settled = ((count + layer.join - 1) // layer.join for count in (chunk, settled))
            state = (given["hidden"][:, number], given["cell"][:, number])
            own = x[:, :chunk]
            ahead, state = _ahead(layer.forward_lstm, own, state, settled)
            behind = None
            if layer.backward_lstm is not None:
                behind = layer.backward_lstm(x.flip(1))[0].flip(1)[:, :chunk]
            x = layer.finished(own, ahead, behind)
            states.append(state)
        after["hidden"], after["cell"] = _stacked(states)
        return x, settled

    def _blocks(self, x: Tensor, settled: Tensor, given: State, after: State) -> Tensor:
        """Output frames of the hybrid blocks, which attend to all frames passed and to the past frames."""
        past = given["past_frames"]
        done = _counted(past[:, 0])
        release = (done + settled - self.config.hybrid.past_frames).clamp(min=0)
        states, kept = [], []
        for number, block in enumerate(cast("list[HybridBlock]", self.encoder.hybrid)):
            state = (given["block_hidden"][:, number], given["block_cell"][:, number])
            y, state = _ahead(block.lstm, block.lstm_norm(x), state, settled)
            frames = torch.cat([past[:, number], x + y], dim=1)
            everywhere = torch.ones_like(frames[..., 0], dtype=torch.bool)
            attended = block.attend(frames, done, frames.shape[1], given["position"], None, everywhere)
            x = frames[:, done:] + attended
            states.append(state)
            kept.append(frames[:, release : done + settled])
        after["block_hidden"], after["block_cell"] = _stacked(states)
        after["past_frames"], after["position"] = torch.stack(kept, dim=1), given["position"] + release
        return x


def _counted(x: Tensor) -> Tensor:
    """The number of frames in `x` `(B, T, D)`, as a scalar tensor."""
    return torch._shape_as_tensor(x)[1]


def _stacked(states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The hidden and cell states of LSTMs, each `(B, H)`, stacked to `(B, layers, H)`."""
    return torch.stack([h for h, _ in states], dim=1), torch.stack([c for _, c in states], dim=1)


def _ahead(
    lstm: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor], settled: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """LSTM outputs for `x` `(B, t, D)` from a state of two `(B, H)`, and the state after the first `settled` frames.

    The LSTM runs in two parts, split there. Neither part is empty, which onnxruntime would refuse: the first has at
    least one frame, and the second ends in a frame of zeros whose output is dropped.
    """
    begun = (state[0][None], state[1][None])
    least = settled.clamp(min=1)
    first, after = lstm(x[:, :least], begun)
    rest = torch.cat([x[:, least:], torch.zeros_like(x[:, :1])], dim=1)
    second, _ = lstm(rest, after)
    hidden, cell = (torch.where(settled > 0, a[0], b[0]) for a, b in zip(after, begun, strict=True))
    return torch.cat([first, second[:, :-1]], dim=1), (hidden, cell)
