"""Encoding of open segments chunk by chunk, the latest chunks again with each new one, many segments as one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.config import Context
from asr.model import fast
from asr.model.encoder import EncoderState
from asr.model.fast.graphs import Graphs
from asr.model.features import FeatureState
from asr.model.las import Model
from asr.model.states import Layout, Row, Rows, Slots, State, Vectors
from streaming.open_segment import OpenSegment

__all__ = ["Carried", "ChunkEncoder"]


@dataclass(frozen=True)
class Carried(State):
    """What the encoder carries on from chunk to chunk."""

    features: FeatureState
    encoder: EncoderState  # after the settled frames
    recent: Tensor  # (B, t, n_mels), the features after that state


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
        # The state of hybrid blocks counts frames, so that its layout does not come again.
        self._fixed = Graphs(self._step) if on_gpu and not model.config.encoder.hybrid.layers else self._step
        encoder, settings = model.encoder, model.config

        chunk_ms, lookahead_ms = encoder.chunk_ms(context), encoder.lookahead_ms(context)
        frontend_ms = 1000 * settings.features.lookahead_samples / SAMPLE_RATE
        self.latency_ms = chunk_ms + lookahead_ms + frontend_ms

        # The first chunk waits for all the audio that it depends on, so that every chunk yields its own frames. Without
        # that, a few missing samples would hold them back until the next chunk is there.
        self.chunk_samples, self.first_samples = (round(ms * SAMPLE_RATE / 1000) for ms in (chunk_ms, self.latency_ms))

        # If no frame depends on later ones, encoding again would change nothing.
        looks_ahead = settings.encoder.bidirectional or settings.encoder.hybrid.layers > 0
        chunks = math.ceil(overlap_ms / chunk_ms) if looks_ahead else 0
        self.overlap_frames = round(chunks * chunk_ms / encoder.frame_ms)
        self.lookahead_frames = math.ceil(lookahead_ms / encoder.frame_ms)

    def start(self) -> Row:
        """What is carried on to the first chunk of a segment."""
        features, encoder = self.model.features.initial_state(1), self.model.encoder.initial_state(1)
        recent = torch.zeros(1, 0, self.model.config.features.n_mels, device=self.device, dtype=self.model.dtype)
        return self.rows.keep(Carried(features, encoder, recent))[0]

    def due(self, segment: OpenSegment | None) -> int | None:
        """Samples of a segment to encode now; None if it has to wait for more."""
        if segment is None or segment.ended:
            return None if segment is None else len(segment.unencoded)
        beyond = len(segment.unencoded) - (self.chunk_samples if segment.begun else self.first_samples)
        return None if beyond < 0 else len(segment.unencoded) - beyond % self.chunk_samples

    def encode(self, segments: Sequence[OpenSegment]) -> tuple[list[OpenSegment], list[bool]]:
        """Encode the segments with a complete chunk, and those that have ended.

        Returns:
            All segments, in order, and for each whether its encoder output changed.
        """
        after, grown = list(segments), [False] * len(segments)

        # Only segments with equally much to encode can be one batch.
        groups: dict[tuple[bool, int, Layout], list[int]] = {}
        for row, segment in enumerate(segments):
            if (samples := self.due(segment)) is not None:
                groups.setdefault((segment.ended, samples, segment.carried.layout), []).append(row)

        for (ended, samples, _), rows in groups.items():
            encoded, new_frames = self._encode_alike([segments[row] for row in rows], samples, ended)
            for row, segment in zip(rows, encoded, strict=True):
                after[row], grown[row] = segment, new_frames
        return after, grown

    def _encode_alike(
        self, segments: Sequence[OpenSegment], samples: int, ended: bool
    ) -> tuple[list[OpenSegment], bool]:
        """Encode the next `samples` of each segment; return the segments, and whether there are new frames."""
        waveform = self.on_device(torch.stack([s.unencoded[:samples] for s in segments]))
        step = self._fixed if not ended and samples in (self.first_samples, self.chunk_samples) else self._step
        out, levels, carried, settled = step(waveform, self.rows.batch([s.carried for s in segments]), ended)

        after = []
        parts = zip(segments, self.rows.keep(carried), out, levels.cpu(), strict=True)
        for segment, row, frames, level in parts:
            ahead = segment.settled - segment.released  # negative if frames were released before they settled
            grown = replace(
                segment,
                begun=True,
                unencoded=segment.unencoded[samples:].clone(),
                carried=row,
                level=torch.cat([segment.level, level]),
                encoder_out=torch.cat([segment.encoder_out[: max(0, ahead)], frames[max(0, -ahead) :]]),
                settled=segment.settled + settled,
            )
            after.append(grown)
        return after, bool(out.shape[1])

    def _step(self, waveform: Tensor, carried: Carried, ended: bool) -> tuple[Tensor, Tensor, Carried, int]:
        """Encode the next samples `(B, n)` of segments.

        Returns:
            The known frames `(B, t, D)` after the settled ones, the level of the new features `(B, t')`, what is
            carried on, and how many of the frames are settled now.
        """
        features, state = self.model.features.step(waveform, carried.features, final=ended)
        recent = torch.cat([carried.recent, features.to(self.model.dtype)], dim=1)
        out, encoder, settled, recent = self._encode_recent(recent, carried.encoder, ended)
        return out, self.model.features.level(features), Carried(state, encoder, recent), settled

    def _encode_recent(
        self, features: Tensor, state: EncoderState, ended: bool
    ) -> tuple[Tensor, EncoderState, int, Tensor]:
        """Encode all `features` `(B, t, n_mels)` after a state.

        Returns:
            The known frames from that state on; the next state; how many of the frames lie before it and are thereby
            settled; and the features after it.
        """
        encoder = self.model.encoder
        if not self.overlap_frames:
            out, state = encoder.step(features, state, self.context, ended)
            return out, state, out.shape[1], features[:, :0]
        if ended:  # the next state is not needed
            out, state = encoder.preview(features, state, 0)
            return out, state, out.shape[1], features[:, :0]

        known = max(0, encoder.frames(features.shape[1]) - self.lookahead_frames)
        settled = max(0, known - self.overlap_frames)
        out, state = encoder.preview(features, state, settled)
        return out[:, :known], state, settled, features[:, settled * encoder.config.reduction :]

    def on_device(self, waveform: Tensor) -> Tensor:
        """Samples on the model's device; to a GPU, copied asynchronously."""
        return waveform if self.device.type == "cpu" else waveform.pin_memory().to(self.device, non_blocking=True)
