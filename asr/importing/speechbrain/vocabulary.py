"""Reordering of SpeechBrain's tokens to ours.

A SpeechBrain recipe chooses the numbers of blank, start and end, which may all be token 0; our special tokens are 0 to
3. The sentencepiece model is reordered, which leaves its segmentation unchanged, and so are the rows of weights. A
token that SpeechBrain lacks gets a very low logit: it never occurs, and all other probabilities stay the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asr.errors import TokenizerError
from asr.importing.speechbrain.recipe import Specials
from asr.text.tokenizer import BLANK, EOS, SOS, UNKNOWN, Tokenizer

__all__ = ["Vocabulary", "convert"]

_NEVER = -1e4  # a logit in the range of float16, with probability 0
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # sentencepiece's types of a piece


class Vocabulary(NamedTuple):
    """For each of our tokens, the number of SpeechBrain's token, or None."""

    ctc_rows: Sequence[int | None]  # of CTC's outputs
    output_rows: Sequence[int | None]  # of the decoder's and the language model's outputs
    input_rows: Sequence[int | None]  # of their inputs
    size: int  # of SpeechBrain's

    def outputs(self, weight: Tensor, bias: Tensor, rows: Sequence[int | None]) -> tuple[Tensor, Tensor]:
        """Weight `(V, D)` and bias `(V,)` of an output layer, reordered from SpeechBrain's tokens to ours."""
        found, missing = _gathered(rows, weight.device)
        biases = bias[found].masked_fill(missing, _NEVER)
        return weight[found].masked_fill(missing[:, None], 0.0), biases

    def inputs(self, weight: Tensor) -> Tensor:
        """An embedding `(V, D)`, reordered from SpeechBrain's tokens to ours."""
        found, missing = _gathered(self.input_rows, weight.device)
        return weight[found].masked_fill(missing[:, None], 0.0)


def _gathered(rows: Sequence[int | None], device: torch.device) -> tuple[Tensor, Tensor]:
    missing = torch.tensor([row is None for row in rows], device=device)
    return torch.tensor([row or 0 for row in rows], device=device), missing


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int

    def serialised(self) -> bytes:
        text = self.text.encode()
        return (
            b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", self.score) + b"\x18" + _varint(self.kind)
        )


def convert(model: bytes, specials: Specials) -> tuple[Tokenizer, Vocabulary]:
    """Our tokenizer and the number of each token, from a serialised sentencepiece model.

    A vocabulary in capitals becomes lower case, like all our recognised text.

    Raises:
        TokenizerError: the bytes are not a sentencepiece model, or a special token has a text.
    """
    try:
        pieces, rest = _parsed(model)
    except (IndexError, ValueError, struct.error):
        raise TokenizerError("not a sentencepiece model") from None
    unknown = [i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN]
    if len(unknown) != 1 or not all(0 <= i < len(pieces) for i in specials):
        raise TokenizerError(f"{len(pieces)} tokens, {len(unknown)} of them unknown: that is not understood")
    special = {unknown[0], *specials}
    for i in special:
        if pieces[i].kind == _NORMAL:
            raise TokenizerError(f"the token {i} is {pieces[i].text!r}, but blank, start or end to the recipe")

    plain = [i for i in range(len(pieces)) if i not in special]
    texts = [pieces[i].text for i in plain]
    if any(text != text.lower() for text in texts) and all(text == text.upper() for text in texts):
        pieces = [
            piece._replace(text=piece.text.lower()) if i not in special else piece for i, piece in enumerate(pieces)
        ]
    ours = [_Piece("<pad>", 0.0, _CONTROL), _Piece("<unk>", 0.0, _UNKNOWN)]
    ours += [_Piece("<s>", 0.0, _CONTROL), _Piece("</s>", 0.0, _CONTROL), *(pieces[i] for i in plain)]
    fields = b"".join(b"\x0a" + _varint(len(raw)) + raw for raw in (piece.serialised() for piece in ours))

    numbers = {BLANK: specials.blank, UNKNOWN: unknown[0], SOS: specials.bos, EOS: specials.eos}
    vocabulary = Vocabulary(
        ctc_rows=[*_once(numbers, (BLANK, EOS, SOS, UNKNOWN)), *plain],
        output_rows=[*_once(numbers, (EOS, SOS, BLANK, UNKNOWN)), *plain],
        input_rows=[*(numbers[token] for token in range(EOS + 1)), *plain],
        size=len(pieces),
    )
    return Tokenizer(fields + rest), vocabulary


def _once(numbers: dict[int, int], order: Sequence[int]) -> list[int | None]:
    """Our special tokens' numbers, each number given to the first token in `order` that has it."""
    taken: dict[int, int] = {}
    for token in order:
        taken.setdefault(numbers[token], token)
    return [numbers[token] if taken[numbers[token]] == token else None for token in range(EOS + 1)]


def _parsed(model: bytes) -> tuple[list[_Piece], bytes]:
    """The pieces of a serialised model, and its other fields unchanged."""
    pieces, rest = [], b""
    for number, value, raw in _fields(model):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        else:
            rest += raw
    if not pieces:
        raise ValueError
    return pieces, rest


def _piece(message: bytes) -> _Piece:
    text, score, kind = "", 0.0, _NORMAL
    for number, value, _ in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return _Piece(text, score, kind)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Number, value and serialised form of each field of a protobuf message."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        value: int | bytes
        if key & 7 == 0:
            value, at = _read_varint(message, at)
        else:
            if key & 7 == 2:
                size, at = _read_varint(message, at)
            else:
                size = {1: 8, 5: 4}[key & 7] if key & 7 in (1, 5) else len(message) + 1
            value, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError
        yield key >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
