"""Audio: anything that can be decoded, as 16 kHz mono float32, and where speech is in it."""

from asr.audio.waveform import SAMPLE_RATE, Resampler, Source, blocks, load, source_name

__all__ = ["SAMPLE_RATE", "Resampler", "Source", "blocks", "load", "source_name"]
