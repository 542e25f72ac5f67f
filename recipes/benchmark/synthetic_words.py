"""Synthetic speech with the word boundaries reported by the synthesisers festival, espeak-ng and flite.

festival runs as a program. The programs of the other two do not print word times, so their C libraries are called.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import DependencyError

__all__ = ["VOICES", "SpokenWord", "Voice"]

_FESTIVAL = """
(Parameter.set 'Audio_Method nil)
(voice_{voice})
(set! utterance (utt.synth (eval (list 'Utterance 'Text "{text}"))))
(utt.save.wave utterance "{wav}" 'riff)
(mapcar (lambda (word) (format t "%s %f %f\\n" (car word) (car (cdr word)) (car (cdr (cdr word)))))
  (utt.features utterance 'Word '(name R:SylStructure.daughter1.daughter1.segment_start
                                       R:SylStructure.daughtern.daughtern.segment_end)))
"""
_FLITE_START = b"R:SylStructure.daughter1.daughter1.R:Segment.p.end"
_FLITE_END = b"R:SylStructure.daughtern.daughtern.R:Segment.end"

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _CHARACTERS, _UTF8 = 2, 1, 1, 1
_WORD_EVENT, _PHONEME_EVENT = 1, 7


class SpokenWord(NamedTuple):
    """A word and its boundaries."""

    text: str
    start_seconds: float
    end_seconds: float


class Voice(NamedTuple):
    """A synthetic voice.

    Args:
        name: of the synthesiser and its voice.
        fitted: whether the constants of `asr.search.alignment` were fitted on it.
        speak: reads a text aloud into a WAV file.
    """

    name: str
    fitted: bool
    speak: Callable[[str, Path], list[SpokenWord]]


def festival(voice: str) -> Callable[[str, Path], list[SpokenWord]]:
    """A voice of festival."""

    def speak(text: str, wav: Path) -> list[SpokenWord]:
        with tempfile.NamedTemporaryFile("w", suffix=".scm") as script:
            script.write(_FESTIVAL.format(voice=voice, text=text, wav=wav))
            script.flush()
            done = _run("festival", "-b", script.name)
        rows = [line.split() for line in done.splitlines() if line.count(" ") == 2]
        return [SpokenWord(word, float(start), float(end)) for word, start, end in rows]

    return speak


def flite(voice: str) -> Callable[[str, Path], list[SpokenWord]]:
    """A voice of flite."""

    def speak(text: str, wav: Path) -> list[SpokenWord]:
        library, pointer = _library("libflite.so.1"), ctypes.c_void_p
        register = getattr(_library(f"libflite_{voice}.so.1"), f"register_{voice}")
        register.restype, register.argtypes = pointer, [pointer]
        for function in ("flite_synth_text", "utt_relation", "relation_head", "item_next", "utt_wave"):
            getattr(library, function).restype = pointer
        library.ffeature_string.restype, library.ffeature_float.restype = ctypes.c_char_p, ctypes.c_float

        library.flite_init()
        utterance = pointer(library.flite_synth_text(text.encode(), pointer(register(None))))
        library.cst_wave_save_riff(pointer(library.utt_wave(utterance)), str(wav).encode())

        words, item = [], pointer(library.relation_head(pointer(library.utt_relation(utterance, b"Word"))))
        while item:
            start, end = (library.ffeature_float(item, path) for path in (_FLITE_START, _FLITE_END))
            words.append(SpokenWord(library.ffeature_string(item, b"name").decode(), start, end))
            item = pointer(library.item_next(item))
        return words

    return speak


class _EspeakId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("phoneme", ctypes.c_char * 8))


class _EspeakEvent(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EspeakId),
    )


_EspeakCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)


def espeak(voice: str) -> Callable[[str, Path], list[SpokenWord]]:
    """A voice of espeak-ng. A word ends where the next begins, or where the first pause after it does."""

    def speak(text: str, wav: Path) -> list[SpokenWord]:
        library, pcm = _library("libespeak-ng.so.1"), bytearray()
        words: list[SpokenWord] = []
        open_word: list[Any] = []  # text and start of the word that has not ended

        def end_word(seconds: float) -> None:
            if open_word:
                words.append(SpokenWord(*open_word, seconds))
                open_word.clear()

        def receive(samples: Any, count: int, events: Any) -> int:
            if samples and count:
                pcm.extend(ctypes.string_at(samples, 2 * count))
            for event in itertools.takewhile(lambda event: event.type, map(events.__getitem__, itertools.count())):
                seconds = event.audio_position / 1000
                if event.type == _WORD_EVENT:
                    end_word(seconds)
                    first = event.text_position - 1
                    open_word[:] = [text[first : first + event.length], seconds]
                elif event.type == _PHONEME_EVENT and event.id.phoneme.startswith(b"_"):
                    end_word(seconds)
            return 0

        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        library.espeak_SetVoiceByName(voice.encode())
        callback, data = _EspeakCallback(receive), text.encode()
        library.espeak_SetSynthCallback(callback)
        library.espeak_Synth(data, len(data) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        end_word(len(pcm) / 2 / rate)

        with wave.open(str(wav), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(bytes(pcm))
        return words

    return speak


def _library(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise DependencyError(f"{name} is not installed: apt install espeak-ng flite festival") from None


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise DependencyError(f"{command[0]} is not installed: apt install espeak-ng flite festival") from None


VOICES = (
    Voice("festival kal_diphone", True, festival("kal_diphone")),
    Voice("festival cmu_us_slt_arctic_hts", True, festival("cmu_us_slt_arctic_hts")),
    Voice("espeak-ng en-us", True, espeak("en-us")),
    Voice("flite cmu_us_rms", False, flite("cmu_us_rms")),
    Voice("flite cmu_us_awb", False, flite("cmu_us_awb")),
)
