"""Text to tokens and back with sentencepiece, as characters or byte-pair units.

Token 0 is CTC's blank and padding, 1 unknown, 2 the start (sos) and 3 the end (eos) of a sentence.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asr.errors import TokenizerError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = ["BLANK", "EOS", "SOS", "UNKNOWN", "WORD_START", "Tokenizer"]

BLANK, UNKNOWN, SOS, EOS = 0, 1, 2, 3
WORD_START = "▁"


class Tokenizer:
    """A trained sentencepiece model.

    Args:
        model: the serialised sentencepiece model, as in a checkpoint's `tokenizer.model`.

    Raises:
        TokenizerError: the bytes are not a sentencepiece model, or its special tokens are not 0 to 3.
    """

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self._processor: SentencePieceProcessor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise TokenizerError(f"not a sentencepiece model: {error}") from None
        p = self._processor
        special = (p.pad_id(), p.unk_id(), p.bos_id(), p.eos_id())
        if special != (BLANK, UNKNOWN, SOS, EOS):
            raise TokenizerError(f"tokenizer's pad, unk, bos and eos are {special}: they must be 0, 1, 2 and 3")
        self.word_starts = [p.IdToPiece(i).startswith(WORD_START) for i in range(len(self))]

    def __len__(self) -> int:
        size: int = self._processor.GetPieceSize()
        return size

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.model` file."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise TokenizerError(f"{path}: {error.strerror}") from None
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, kind: Literal["bpe", "char"] = "bpe") -> Tokenizer:
        """Learn from normalised texts.

        Args:
            texts: one sentence each.
            vocab_size: including special tokens; for characters, the upper limit.
            kind: byte-pair units (Sennrich et al. 2016) or single characters.

        Raises:
            TokenizerError: there is no text, or too little for the vocabulary.
        """
        import sentencepiece

        lines, sink = [t for t in texts if t], io.BytesIO()
        if not lines:
            raise TokenizerError("no text to train a tokenizer on")
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(lines),
                model_writer=sink,
                model_type=kind,
                vocab_size=vocab_size,
                hard_vocab_limit=kind != "char",
                character_coverage=1.0,
                normalization_rule_name="identity",
                pad_id=BLANK,
                unk_id=UNKNOWN,
                bos_id=SOS,
                eos_id=EOS,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2]  # the part before is a line of sentencepiece's source
            raise TokenizerError(f"a tokenizer of {vocab_size} {kind} tokens cannot be trained: {reason}") from None
        return cls(sink.getvalue())

    def encode(self, text: str) -> list[int]:
        """Tokens of a normalised text, without sos and eos."""
        tokens: list[int] = self._processor.EncodeAsIds(text)
        return tokens

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        tokens: list[list[int]] = self._processor.EncodeAsIds(texts)
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens, without special ones."""
        text: str = self._processor.DecodeIds([t for t in tokens if t > EOS])
        return " ".join(text.split())

    def piece(self, token: int) -> str:
        """A token as sentencepiece writes it, with ▁ at the start of a word."""
        piece: str = self._processor.IdToPiece(token)
        return piece

    def label(self, token: int) -> str:
        """A token for plots and tables, with _ at the start of a word, since every font has it."""
        return self.piece(token).replace(WORD_START, "_")

    def words(self, tokens: list[int]) -> list[tuple[str, int, int]]:
        """Each word with the range of its tokens: `(text, first, after_last)`."""
        if not tokens:
            return []
        starts = [i for i, t in enumerate(tokens) if self.word_starts[t] or i == 0]
        spans = zip(starts, [*starts[1:], len(tokens)], strict=True)
        words = ((self.decode(tokens[a:b]), a, b) for a, b in spans)
        return [w for w in words if w[0]]
