"""Encoding of open segments chunk by chunk, the latest chunks again with each new one, many segments as one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.audio import SAMPLE_RATE
from asr.config import Context
from asr.model import fast
from asr.model.encoder import EncoderState
from asr.model.fast.graphs import Graphs
from asr.model.features import FeatureState
from asr.model.las import Model
from asr.model.states import Layout, Row, Rows, Slots, State, Vectors, join, layout_of, select
from streaming.open_segment import OpenSegment

__all__ = ["Carried", "ChunkEncoder"]


@dataclass(frozen=True)
class Carried(State):
    """State of a segment's encoder between chunks."""

    features: FeatureState
    encoder: EncoderState  # after the settled frames
    recent: Tensor  # (B, t, n_mels), the features after that state


class _Heard(NamedTuple):
    """The features of the next samples of some segments."""

    ended: bool
    levels: Tensor  # (B, t), of the new features
    carried: Carried  # the recent features with the new ones, and the encoder's state before them


class _Encoded(NamedTuple):
    """Encoder output for the features of a `_Heard`."""

    out: Tensor  # (B, t, D), the frames after the ones settled earlier
    levels: Tensor
    carried: Carried
    settled: int  # frames of `out` that this step settles


class ChunkEncoder:
    """Brings segments from samples to encoder output.

    Args:
        model: the model, on its device.
        context: the chunk and the lookahead of its encoder.
        overlap_ms: audio before a new chunk that is encoded again with it, rounded up to whole chunks.

    Raises:
        ConfigError: the context is not bounded.
    """

    def __init__(self, model: Model, context: Context, overlap_ms: int) -> None:
        self.model, self.context = model, context
        self.device = next(model.parameters()).device
        on_gpu = self.device.type != "cpu" and fast.enabled()
        self.rows: Rows = Slots(self.device) if on_gpu else Vectors()
        # The state of hybrid blocks counts frames, so no layout occurs twice.
        graphs = on_gpu and not model.config.encoder.hybrid.layers
        self._fixed = Graphs(self._step) if graphs else None
        encoder, settings = model.encoder, model.config

        chunk_ms, lookahead_ms = encoder.chunk_ms(context), encoder.lookahead_ms(context)
        frontend_ms = 1000 * settings.features.lookahead_samples / SAMPLE_RATE
        self.latency_ms = chunk_ms + lookahead_ms + frontend_ms

        # The first chunk waits for all the audio that it depends on, so that every chunk yields its own frames.
        # Otherwise a few missing samples would delay them by a chunk.
        self.chunk_samples, self.first_samples = (round(ms * SAMPLE_RATE / 1000) for ms in (chunk_ms, self.latency_ms))

        # If no frame depends on later ones, encoding again would change nothing.
        looks_ahead = settings.encoder.bidirectional or settings.encoder.hybrid.layers > 0
        chunks = math.ceil(overlap_ms / chunk_ms) if looks_ahead else 0
        self.overlap_frames = round(chunks * chunk_ms / encoder.frame_ms)
        self.lookahead_frames = math.ceil(lookahead_ms / encoder.frame_ms)

    def start(self) -> Row:
        """The state before the first chunk of a segment."""
        features, encoder = self.model.features.initial_state(1), self.model.encoder.initial_state(1)
        recent = torch.zeros(1, 0, self.model.config.features.n_mels, device=self.device, dtype=self.model.dtype)
        return self.rows.keep(Carried(features, encoder, recent))[0]

    def due(self, segment: OpenSegment | None) -> int | None:
        """Samples of a segment to encode now; None if it has to wait for more."""
        if segment is None or segment.ended:
            return None if segment is None else len(segment.unencoded)
        beyond = -self.missing(segment)
        return None if beyond < 0 else len(segment.unencoded) - beyond % self.chunk_samples

    def missing(self, segment: OpenSegment | None) -> int:
        """Samples missing before an open segment is due, negative if it has more; for None, those of a first chunk."""
        if segment is None:
            return self.first_samples
        return (self.chunk_samples if segment.begun else self.first_samples) - len(segment.unencoded)

    def encode(self, segments: Sequence[OpenSegment]) -> tuple[list[OpenSegment], list[bool]]:
        """Encode the segments with a complete chunk, and those that have ended.

        Returns:
            All segments, in order, and for each whether its encoder output changed.
        """
        after, grown = list(segments), [False] * len(segments)

        # Only segments with equally many samples can be one batch for the features.
        groups: dict[tuple[bool, int, Layout], list[int]] = {}
        for row, segment in enumerate(segments):
            if (samples := self.due(segment)) is not None:
                groups.setdefault((segment.ended, samples, segment.carried.layout), []).append(row)

        batches: dict[tuple[Layout, ...], list[tuple[list[int], int, _Heard]]] = {}
        encoded: list[tuple[list[int], int, _Encoded]] = []
        for (ended, samples, _), rows in groups.items():
            waveform = self.on_device(torch.stack([segments[row].unencoded[:samples] for row in rows]))
            carried = self.rows.batch([segments[row].carried for row in rows])
            if self._fixed and not ended and samples in (self.first_samples, self.chunk_samples):
                encoded.append((rows, samples, self._fixed(waveform, carried, ended)))
            else:
                heard = self._hear(waveform, carried, ended)
                batches.setdefault(self._kind(heard), []).append((rows, samples, heard))
        for batch in batches.values():
            found = self._encode_batch([heard for *_, heard in batch])
            encoded += [(rows, samples, one) for (rows, samples, _), one in zip(batch, found, strict=True)]

        for rows, samples, (out, levels, carried, settled) in encoded:
            parts = zip(rows, self.rows.keep(carried), out, levels.cpu(), strict=True)
            for row, kept, frames, level in parts:
                after[row] = self._after(segments[row], samples, kept, level, frames, settled)
                grown[row] = bool(len(frames))
        return after, grown

    def _step(self, waveform: Tensor, carried: Carried, ended: bool) -> _Encoded:
        """Encode the next samples `(B, n)` of segments that can be one batch."""
        (encoded,) = self._encode_batch([self._hear(waveform, carried, ended)])
        return encoded

    def _hear(self, waveform: Tensor, carried: Carried, ended: bool) -> _Heard:
        """The features of the next samples `(B, n)`."""
        features, state = self.model.features.step(waveform, carried.features, final=ended)
        recent = torch.cat([carried.recent, features.to(self.model.dtype)], dim=1)
        return _Heard(ended, self.model.features.level(features), Carried(state, carried.encoder, recent))

    def _kind(self, heard: _Heard) -> tuple[Layout, ...]:
        """A key that is equal for all segments of a batch."""
        frames, layout = heard.carried.recent.shape[1], layout_of(heard.carried.encoder)
        if not self.overlap_frames:
            return heard.ended, frames, layout
        encoder = self.model.encoder
        return None if encoder.mixes else self._settled(heard), layout, None if encoder.pads else frames

    def _known(self, heard: _Heard) -> int:
        """Number of output frames whose lookahead is in the recent features; all frames if the segment has ended."""
        frames = self.model.encoder.frames(heard.carried.recent.shape[1])
        return frames if heard.ended else max(0, frames - self.lookahead_frames)

    def _settled(self, heard: _Heard) -> int:
        """Number of output frames before the next state; 0 if the segment has ended, since it needs no state."""
        return 0 if heard.ended else max(0, self._known(heard) - self.overlap_frames)

    def _encode_batch(self, batch: Sequence[_Heard]) -> list[_Encoded]:
        """Encode features of one kind (`_kind`) as one batch."""
        encoder, recents = self.model.encoder, [heard.carried.recent for heard in batch]
        longest = max(recent.shape[1] for recent in recents)
        features = torch.cat([pad(recent, (0, 0, 0, longest - recent.shape[1])) for recent in recents])
        state = join([heard.carried.encoder for heard in batch])
        if self.overlap_frames:
            counts, frames = [self._settled(heard) for heard in batch], [recent.shape[1] for recent in recents]
            settled = counts[0] if len(set(counts)) == 1 else self._by_row(counts, recents)
            lengths = None if len(set(frames)) == 1 else self._by_row(frames, recents)
            out, state = encoder.preview(features, state, settled, lengths)
            read = [count * encoder.config.reduction for count in counts]
        else:
            out, state = encoder.step(features, state, self.context, batch[0].ended)
            counts, read = [out.shape[1]] * len(batch), [longest] * len(batch)

        encoded, first = [], 0
        for heard, recent, count, after in zip(batch, recents, counts, read, strict=True):
            rows = slice(first, first := first + len(recent))
            known = self._known(heard) if self.overlap_frames else count
            left = recent[:, :0] if heard.ended else recent[:, after:]
            carried = Carried(heard.carried.features, select(state, rows), left)
            encoded.append(_Encoded(out[rows, :known], heard.levels, carried, known if heard.ended else count))
        return encoded

    def _by_row(self, values: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
        """The value of each part, repeated for its rows: `(B,)`."""
        return torch.tensor(
            [value for value, part in zip(values, parts, strict=True) for _ in part], device=self.device
        )

    @staticmethod
    def _after(
        segment: OpenSegment, samples: int, carried: Row, level: Tensor, frames: Tensor, settled: int
    ) -> OpenSegment:
        """The segment with its next samples encoded; `frames` `(t, D)` follow the settled frames."""
        ahead = segment.settled - segment.released  # negative if frames were released before they settled
        return replace(
            segment,
            begun=True,
            unencoded=segment.unencoded[samples:].clone(),
            carried=carried,
            level=torch.cat([segment.level, level]),
            encoder_out=torch.cat([segment.encoder_out[: max(0, ahead)], frames[max(0, -ahead) :]]),
            settled=segment.settled + settled,
        )

    def on_device(self, waveform: Tensor) -> Tensor:
        """Samples on the model's device; to a GPU, copied asynchronously."""
        return waveform if self.device.type == "cpu" else waveform.pin_memory().to(self.device, non_blocking=True)
