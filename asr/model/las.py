"""Listen, Attend and Spell (Chan et al. 2016) with a CTC head on the encoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.config import Context, ModelConfig
from asr.model.decoder import Decoder
from asr.model.encoder import Encoder
from asr.model.features import build_features, speech_gains

__all__ = ["Encoded", "Model"]


class Encoded(NamedTuple):
    """The input of a search."""

    encoder_out: Tensor  # (B, T, D)
    encoder_out_lengths: Tensor  # (B,)


class Model(nn.Module):
    """Frontend, encoder, decoder and CTC head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = build_features(config.features)
        self.encoder = Encoder(config.encoder, config.features.n_mels, config.features.hop_ms)
        size = config.encoder.output_size
        self.decoder = Decoder(config.vocab_size, size, config.attention, config.decoder)
        self.ctc = nn.Linear(size, config.vocab_size)

    def encode(self, waveform: Tensor, samples: Tensor, context: Context | None = None) -> Encoded:
        """Encode waveforms `(B, N)`, each `samples` `(B,)` long before padding, after `levelled`."""
        features, lengths = self.features(self.levelled(waveform, samples), samples)
        return self.encode_features(features, lengths, context)

    def levelled(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Waveforms `(B, N)`, each `samples` `(B,)` long, with their speech at the level that the config names."""
        target_db = self.config.speech_db
        return waveform if target_db is None else waveform * speech_gains(waveform, samples, target_db)[:, None]

    def encode_features(self, features: Tensor, lengths: Tensor, context: Context | None = None) -> Encoded:
        """Encode features `(B, T, n_mels)`, each `lengths` `(B,)` long before padding."""
        return Encoded(*self.encoder(features.to(self.dtype), lengths, context))

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights; the frontend always computes in float32."""
        return self.ctc.weight.dtype

    def cast(self, dtype: torch.dtype) -> Model:
        """Convert all modules but the frontend to `dtype`, in place."""
        for module in (self.encoder, self.decoder, self.ctc):
            module.to(dtype)
        return self

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """Log-probabilities `(..., vocab_size)` of tokens and the blank in float32, for encoder_out `(..., D)`."""
        logits: Tensor = self.ctc(encoder_out)
        return logits.float().log_softmax(dim=-1)
