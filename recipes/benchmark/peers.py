"""Other recognisers to measure beside ours: PocketSphinx, and Whisper through faster-whisper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from asr.archive.manifest import Utterance
from asr.errors import DataError, DependencyError

if TYPE_CHECKING:
    import numpy as np
    from faster_whisper import WhisperModel
    from numpy.typing import NDArray

__all__ = ["BEAM", "SAMPLE_RATE", "Clip", "System", "load_whisper", "peer"]

SAMPLE_RATE = 16_000
BEAM = 5  # Whisper's own default


@dataclass(frozen=True)
class Clip:
    """An utterance with its samples in memory, so that reading the disk is not measured."""

    utterance: Utterance
    pcm: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


@dataclass(frozen=True)
class System:
    """A recogniser under test; `recognise` returns a text for each clip, and gets only one unless `batched`."""

    name: str
    recognise: Callable[[Sequence[Clip]], list[str]]
    batched: bool = False
    version: str = ""


def peer(name: str) -> System:
    """The peer of a given name: `pocketsphinx`, or `faster-whisper:DIR` with a CTranslate2 model in DIR.

    Raises:
        DataError: no such peer, or no model in DIR.
        DependencyError: its package is not installed.
    """
    kind, _, folder = name.partition(":")
    if kind == "pocketsphinx" and not folder:
        return pocketsphinx()
    if kind == "faster-whisper" and folder:
        return faster_whisper(Path(folder))
    raise DataError(f"{name}: no such peer; expected pocketsphinx or faster-whisper:DIR")


def pocketsphinx() -> System:
    """PocketSphinx with the model and language model that it installs with.

    Raises:
        DependencyError: if it is not installed.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise DependencyError("PocketSphinx is not installed: pip install 'spellstream[benchmark]'") from None
    decoder = Decoder(loglevel="FATAL")

    def recognise(clips: Sequence[Clip]) -> list[str]:
        texts = []
        for clip in clips:
            decoder.start_utt()
            decoder.process_raw(clip.pcm.tobytes(), full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            texts.append("" if hypothesis is None else hypothesis.hypstr)
        return texts

    return System("PocketSphinx", recognise, version=f"pocketsphinx {version('pocketsphinx')}")


def faster_whisper(folder: Path) -> System:
    """Whisper in int8 on one thread, English, with its own beam and fallbacks; named after its folder.

    Raises:
        DataError: the folder holds no CTranslate2 model.
        DependencyError: faster-whisper is not installed.
    """
    model = load_whisper(folder)

    def recognise(clips: Sequence[Clip]) -> list[str]:
        texts = []
        for clip in clips:
            waveform = clip.pcm.astype("float32") / 32768
            segments, _ = model.transcribe(waveform, language="en", beam_size=BEAM, without_timestamps=True)
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts

    name = f"Whisper {folder.resolve().name}, beam {BEAM}"
    return System(name, recognise, version=f"faster-whisper {version('faster-whisper')}")


def load_whisper(folder: Path) -> WhisperModel:
    """Whisper in int8 on one thread, by faster-whisper.

    Raises:
        DataError: the folder holds no CTranslate2 model.
        DependencyError: faster-whisper is not installed.
    """
    if not (folder / "model.bin").is_file():  # else the name would be looked up on the network
        raise DataError(f"{folder}: no CTranslate2 model: it has no model.bin")
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise DependencyError("faster-whisper is not installed: pip install 'spellstream[benchmark]'") from None
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
