"""Voice activity detection: silero-vad on windows of 32 ms, batched over streams, with state passed in and returned."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.errors import DependencyError

__all__ = ["WINDOW_SAMPLES", "Apply", "SpeechDetector", "SpeechState", "StreamDetector", "Windows"]

WINDOW_SAMPLES = 512  # 32 ms: the only window that silero-vad takes at 16 kHz
_CONTEXT_SAMPLES = 64  # end of the previous window, part of the input
_HIDDEN_SIZE = 128
_MOST_WINDOWS = 4_096  # per batch; bounds the memory for a chunk of hours

Windows: TypeAlias = Sequence[Tensor]  # of one stream, one after the other
_InContext: TypeAlias = tuple[Windows, Tensor]  # with the end of the audio before them, `(1, 64)`
_Heard: TypeAlias = tuple[Windows, Tensor]  # with the features of `SpeechDetector.hear`
Apply: TypeAlias = Callable[[Callable[[_InContext], _Heard], Iterable[_InContext]], Iterator[_Heard]]  # as `map`


class SpeechState(NamedTuple):
    """The recurrent state of silero-vad for B streams."""

    hidden: Tensor  # (2, B, 128)
    context: Tensor  # (B, 64)

    @classmethod
    def start(cls, batch_size: int, device: torch.device) -> SpeechState:
        return cls(
            torch.zeros(2, batch_size, _HIDDEN_SIZE, device=device),
            torch.zeros(batch_size, _CONTEXT_SAMPLES, device=device),
        )

    @classmethod
    def stack(cls, states: list[SpeechState]) -> SpeechState:
        return cls(torch.cat([s.hidden for s in states], dim=1), torch.cat([s.context for s in states]))

    def split(self) -> list[SpeechState]:
        pairs = zip(self.hidden.split(1, dim=1), self.context.split(1), strict=True)
        return [SpeechState(h, c) for h, c in pairs]


class SpeechDetector:
    """silero-vad as a function of windows and state; each process loads the weights of the package once.

    The layers that see one window at a time run on all windows at once, in a fifth of the time; only the LSTM runs over
    the windows in turn.
    """

    def __init__(self, device: torch.device) -> None:
        self._model, self._lstm = _load(str(device))

    @torch.inference_mode()
    def run(self, windows: Tensor, counts: Tensor, state: SpeechState) -> tuple[Tensor, SpeechState]:
        """Rate the next windows of B streams.

        Args:
            windows: `(B, W, 512)` at 16 kHz.
            counts: `(B,)` on the CPU, in 1..W: number of windows of each stream; the rest is padding.
            state: after the windows before.

        Returns:
            Probabilities `(B, W)` that a window is speech, and the next state.
        """
        probabilities, hidden = self.rate(self.hear(windows, state.context), counts, state.hidden)
        last = windows[torch.arange(len(windows)), counts - 1]
        return probabilities, SpeechState(hidden, last[:, -_CONTEXT_SAMPLES:])

    @torch.inference_mode()
    def hear(self, windows: Tensor, context: Tensor) -> Tensor:
        """Run the layers that see one window at a time. They take most of the time, and threads can share them.

        Args:
            windows: as in `run`.
            context: `(B, 64)`: end of the audio before the windows.

        Returns:
            Features of each window, `(B, W, 128)`.
        """
        batch, longest, _ = windows.shape
        before = torch.cat([context[:, None], windows[:, :-1, -_CONTEXT_SAMPLES:]], dim=1)
        x = torch.cat([before, windows], dim=2).flatten(0, 1)
        with _plain_execution():
            parts = [self._model.encoder(self._model.run_extractors(part)) for part in x.split(_MOST_WINDOWS)]
        return torch.cat(parts).view(batch, longest, -1)

    @torch.inference_mode()
    def rate(self, heard: Tensor, counts: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Run the LSTM over windows.

        Args:
            heard: features from `hear`.
            counts: as in `run`.
            hidden: `(2, B, 128)`.

        Returns:
            Probabilities `(B, W)`, and the next hidden state.
        """
        batch, longest, _ = heard.shape
        with _plain_execution():
            packed = pack_padded_sequence(heard, counts, batch_first=True, enforce_sorted=False)
            packed, (h, c) = self._lstm(packed, (hidden[:1], hidden[1:]))
            outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=longest)
            probabilities = self._model.decoder.decoder(outputs.flatten(0, 1)[..., None]).view(batch, longest)
        return probabilities, torch.cat([h, c])


class StreamDetector:
    """`SpeechDetector` for a single stream on the CPU; it keeps the state itself."""

    def __init__(self) -> None:
        self._detector = SpeechDetector(torch.device("cpu"))
        self._hidden, self._context = SpeechState.start(1, torch.device("cpu"))

    def run(self, groups: Iterable[Windows], apply: Apply = map) -> Iterator[tuple[Windows, list[float]]]:
        """Rate the next windows, group by group.

        Args:
            groups: windows at 16 kHz, none empty; each of 512 samples, except that the last of all may be shorter.
            apply: runs `hear` for the groups, possibly in several threads, and yields the results in order.

        Yields:
            Each group, and the probability, 0 to 1, of each of its windows that it is speech.
        """
        for group, heard in apply(self._hear, self._with_context(groups)):
            probabilities, self._hidden = self._detector.rate(heard, torch.tensor([len(group)]), self._hidden)
            yield group, probabilities[0].tolist()

    def _with_context(self, groups: Iterable[Windows]) -> Iterator[_InContext]:
        """Each group with the end of the audio before it."""
        for group in groups:
            before, self._context = self._context, group[-1][None, -_CONTEXT_SAMPLES:]
            yield group, before

    def _hear(self, each: _InContext) -> _Heard:
        group, context = each
        samples = torch.cat(list(group))
        padded = torch.nn.functional.pad(samples, (0, -len(samples) % WINDOW_SAMPLES))
        return group, self._detector.hear(padded.view(1, -1, WINDOW_SAMPLES), context)


@functools.cache
def _load(device: str) -> tuple[Any, nn.LSTM]:
    """The network, and its LSTM cell as an LSTM over windows."""
    # The package is located but not imported: importing it limits the whole process to one thread, and in some versions
    # fails if torchaudio cannot be loaded.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise DependencyError("voice detection needs silero-vad: pip install silero-vad")
    network = Path(package.origin).parent / "data" / "silero_vad.jit"
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format of the network
        model = torch.jit.load(str(network), map_location=device).eval()._model
    lstm = nn.LSTM(_HIDDEN_SIZE, _HIDDEN_SIZE, batch_first=True, device=device).eval()
    cell = model.decoder.rnn.state_dict()
    lstm.load_state_dict({f"{name}_l0": value for name, value in cell.items()})
    return model, lstm


@contextlib.contextmanager
def _plain_execution() -> Iterator[None]:
    """Run the network on one thread of torch, which is faster than several for so little work, and not optimised.

    The optimising executor would compile again for every number of windows, and its results are not bit-identical.
    """
    with _one_thread(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
