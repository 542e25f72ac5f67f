"""Text to tokens and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import TokenizerError
from asr.text.tokenizer import BLANK, EOS, SOS, UNKNOWN, Tokenizer

TEXTS = [
    "the cat sat on the mat",
    "it's the boys' hat and not the cat's",
    "we thank them for the rain in that town",
    "jumping foxes quickly vex a lazy brown dog",
]
sentences = st.lists(st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=9), max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 60)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer.train(TEXTS, 40, "char")


# --- Tokens


def test_special_tokens_come_first(bpe: Tokenizer, characters: Tokenizer) -> None:
    """The blank is token 0, and sos and eos are the tokens that the search expects."""
    for tokenizer in (bpe, characters):
        pieces = [tokenizer.piece(t) for t in (BLANK, UNKNOWN, SOS, EOS)]
        assert pieces == ["<pad>", "<unk>", "<s>", "</s>"]


def test_sizes(bpe: Tokenizer, characters: Tokenizer) -> None:
    """Byte-pair units fill the requested vocabulary; characters are limited by the text."""
    assert len(bpe) == 60
    assert len(characters) == 4 + 26 + len("▁'")
    assert len(Tokenizer.train(["abc cab"], 8, "char")) == 8


@pytest.mark.parametrize("kind", ["bpe", "characters"])
@given(text=sentences)
def test_text_survives_tokens(kind: str, text: str, bpe: Tokenizer, characters: Tokenizer) -> None:
    """Any normalised text, seen in training or not, survives encoding and decoding."""
    tokenizer = bpe if kind == "bpe" else characters
    tokens = tokenizer.encode(text)
    assert all(EOS < t < len(tokenizer) for t in tokens)
    assert tokenizer.decode(tokens) == text


def test_units_are_fewer_than_characters(bpe: Tokenizer, characters: Tokenizer) -> None:
    text = "the cat sat on the mat"
    assert len(bpe.encode(text)) < len(characters.encode(text))
    assert len(characters.encode(text)) == len(text) + 1  # one token for each letter and each start of a word


def test_special_tokens_are_left_out_of_text(bpe: Tokenizer) -> None:
    tokens = bpe.encode("the hat")
    assert bpe.decode([SOS, *tokens, UNKNOWN, BLANK, EOS]) == "the hat"
    assert bpe.decode([]) == ""


def test_unknown_characters_are_unknown_tokens(bpe: Tokenizer) -> None:
    assert UNKNOWN in bpe.encode("café")


def test_labels_mark_word_starts_in_ascii(bpe: Tokenizer) -> None:
    labels = [bpe.label(token) for token in bpe.encode("the hat")]
    assert "".join(labels) == "_the_hat"


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_words_know_their_tokens(kind: str, bpe: Tokenizer, characters: Tokenizer) -> None:
    """Word times depend on the tokens of each word: `words` covers all tokens once, in order."""
    tokenizer = bpe if kind == "bpe" else characters
    text = "it's the boys' jumping cat"
    tokens = tokenizer.encode(text)
    words = tokenizer.words(tokens)
    assert [word for word, _, _ in words] == text.split()
    assert [first for _, first, _ in words] == [0, *(after for _, _, after in words)][:-1]
    assert words[-1][2] == len(tokens)
    assert tokenizer.words([]) == []


def test_words_of_a_cut_hypothesis(bpe: Tokenizer) -> None:
    """A hypothesis may begin within a word: its first part counts as a word."""
    tokens = bpe.encode("jumping cat")[1:]
    words = bpe.words(tokens)
    assert words[-1][0] == "cat"
    assert words[0][1] == 0
    assert "".join(word for word, _, _ in words) == bpe.decode(tokens).replace(" ", "")


def test_a_tokenizer_survives_storage(bpe: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(bpe.model)
    loaded = Tokenizer.load(path)
    assert loaded.model == bpe.model
    assert all(loaded.encode(text) == bpe.encode(text) for text in TEXTS)


def test_training_twice_gives_the_same(bpe: Tokenizer) -> None:
    assert Tokenizer.train(TEXTS * 3, 60).model == bpe.model


# --- Errors


def test_no_text_trains_nothing() -> None:
    with pytest.raises(TokenizerError, match="no text"):
        Tokenizer.train(["", ""], 40)


def test_too_little_text_for_the_vocabulary_is_named() -> None:
    with pytest.raises(TokenizerError, match="300 bpe tokens cannot be trained: Vocabulary size too high"):
        Tokenizer.train(["the cat"], 300)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04K\x01."], ids=["empty", "text", "pickle"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: not a sentencepiece model"):
        Tokenizer.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: No such file"):
        Tokenizer.load(tmp_path / "tokenizer.model")


def test_a_model_with_other_special_tokens_is_refused() -> None:
    """A model with sentencepiece's default tokens, unknown in place of the blank, is refused."""
    import io

    import sentencepiece

    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS), model_writer=sink, model_type="char", vocab_size=40, minloglevel=2
    )
    with pytest.raises(TokenizerError, match="must be 0, 1, 2 and 3"):
        Tokenizer(sink.getvalue())
