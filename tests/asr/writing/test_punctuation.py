"""The tagger for punctuation and capitals: its tags do not depend on batches, and it is saved as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr import checkpoint
from asr.errors import CheckpointError
from asr.writing.parts import MARKS, Utterance
from asr.writing.punctuation import LOOKAHEAD_WORDS, Punctuator
from asr.writing.vocabulary import Pause, pause_kinds, write
from tests.support.tiny_punctuation import tiny_punctuator

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "i", "left", "paris", "with", "an", "iphone", "ærø", "x" * 300]


@pytest.fixture(scope="module")
def punctuator() -> Punctuator:
    return tiny_punctuator()


def utterance(first: int, count: int, final: bool = True, before: int = 0) -> Utterance:
    words = [WORDS[(first + 3 * i + i * i // 7) % len(WORDS)] for i in range(count)]
    pauses = [None if i % 4 == 0 else 0.07 * (i % 9) for i in range(count)]
    return Utterance(words, pauses, [WORDS[i % len(WORDS)] for i in range(before)], final)


BATCH = [utterance(0, 9), utterance(1, 1), utterance(2, 0), utterance(3, 31, before=60), utterance(4, 12, final=False)]


def test_every_word_gets_a_mark_and_a_form_of_itself(punctuator: Punctuator) -> None:
    for one, tags in zip(BATCH, punctuator.tag(BATCH), strict=True):
        assert [tag.text.lower() for tag in tags] == [word.lower() for word in one.words]
        assert {tag.mark for tag in tags} <= set(MARKS)


def test_the_others_of_the_batch_never_change_the_tags(punctuator: Punctuator) -> None:
    together = punctuator.tag(BATCH)

    assert together == [punctuator.tag([one])[0] for one in BATCH]
    assert len({tag.mark for tags in together for tag in tags}) > 2, "the tags must differ for this to say anything"


def test_what_was_said_before_counts(punctuator: Punctuator) -> None:
    plain = utterance(0, 9)
    others = [plain._replace(before=[word] * 3) for word in WORDS]

    assert any(tags != punctuator.tag([plain])[0] for tags in punctuator.tag(others))


def test_the_last_words_of_an_unfinished_utterance_have_no_marks(punctuator: Punctuator) -> None:
    unfinished = [utterance(i, 20, final=False) for i in range(len(WORDS))]

    tagged = punctuator.tag(unfinished)

    assert all(not tag.mark for tags in tagged for tag in tags[-LOOKAHEAD_WORDS:])
    assert any(tag.mark for tags in tagged for tag in tags[:-LOOKAHEAD_WORDS])


def test_hours_are_tagged_in_windows(punctuator: Punctuator) -> None:
    long = utterance(0, 3_000)

    tags = punctuator.tag([long])[0]

    assert [tag.text.lower() for tag in tags] == [word.lower() for word in long.words]
    # Far from the end of a window and of the text, the window makes no difference.
    assert tags[:100] == punctuator.tag([utterance(0, 1_000)])[0][:100]


def test_pauses_must_be_as_many_as_words(punctuator: Punctuator) -> None:
    with pytest.raises(ValueError, match="utterance 1 has 2 words, but 1 pauses"):
        punctuator.tag([utterance(0, 3), Utterance(["a", "b"], [None])])


def test_longer_pauses_are_other_kinds() -> None:
    kinds = pause_kinds([None, 0.0, 0.04, 0.07, 0.5, 3.0, 9.0]).tolist()

    assert kinds[0] == Pause.UNKNOWN
    assert kinds[1] == kinds[2] == Pause.SHORTEST
    assert kinds[2:6] == sorted(set(kinds[2:6]))
    assert kinds[5] == kinds[6]


@pytest.mark.parametrize(
    ("word", "case", "written"),
    [
        ("cat", 0, "cat"),
        ("paris", 1, "Paris"),
        ("i'm", 1, "I'm"),
        ("nasa's", 2, "NASA's"),
        ("iphone", 3, "iPhone"),
        ("iphone's", 3, "iPhone's"),
        ("unknown", 3, "Unknown"),
        ("", 1, ""),
        ("'s", 2, "'S"),
    ],
)
def test_cases_of_words(word: str, case: int, written: str) -> None:
    assert write(word, case, {"iphone": "iPhone"}) == written


def test_offsets_follow_what_is_known_of_the_pause() -> None:
    """One offset for both made too few full stops where pauses are unknown: the text alone is less certain."""
    punctuator = tiny_punctuator()
    known, unknown = (Utterance(WORDS[:9], [pause] * 9) for pause in (0.3, None))
    before = punctuator.tag([known, unknown])

    punctuator.network.offsets[0, MARKS.index("?")] = 1e3
    after = punctuator.tag([known, unknown])

    assert after[0] == before[0]
    # The last word is the end of the segment, which has offsets of its own.
    assert [tag.mark for tag in after[1]] == ["?"] * 8 + [before[1][-1].mark]


def test_what_is_saved_tags_as_before(punctuator: Punctuator, tmp_path: Path) -> None:
    checkpoint.save_punctuation(tmp_path, punctuator)

    loaded = checkpoint.load_punctuation(tmp_path)

    assert checkpoint.has_punctuation(tmp_path)
    assert loaded.vocabulary.words == punctuator.vocabulary.words
    for name, weights in loaded.network.state_dict().items():
        torch.testing.assert_close(weights, punctuator.network.state_dict()[name], rtol=0.01, atol=0.04)
    assert loaded.tag(BATCH[:2]) == punctuator.tag(BATCH[:2])


def test_what_does_not_fit_is_named(punctuator: Punctuator, tmp_path: Path) -> None:
    checkpoint.save_punctuation(tmp_path, punctuator)
    weights, config = tmp_path / "punctuation.safetensors", tmp_path / "punctuation.json"
    described = json.loads(config.read_text(encoding="utf-8"))

    for broken, reason in (
        ({}, "not the description of a punctuation model"),
        ({**described, "words": ["the"]}, "expected words as one string"),
        ({**described, "lexicon": {"a": 1}}, "expected words as one string"),
        ({**described, "words": "w " * 21}, "21 words, but at most 20"),
        ({**described, "punctuation": {"layers": 0}}, r"punctuation\.layers"),
        ({**described, "punctuation": {**described["punctuation"], "hidden_size": 11}}, "has shape"),
    ):
        config.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.load_punctuation(tmp_path)
    config.write_text(json.dumps(described), encoding="utf-8")

    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "marks.bias"}, weights)
    with pytest.raises(CheckpointError, match=r"the tensor marks\.bias is missing"):
        checkpoint.load_punctuation(tmp_path)
    weights.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"punctuation\.safetensors"):
        checkpoint.load_punctuation(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="the file is missing"):
        checkpoint.load_punctuation(tmp_path)


def test_a_model_made_from_another_keeps_its_tagger(tmp_path: Path) -> None:
    """Fine-tuned and averaged models wrote no punctuation: only the language model was copied."""
    (tmp_path / "tuned").mkdir()
    checkpoint.save_punctuation(tmp_path, tiny_punctuator())
    checkpoint.copy_text_models(tmp_path, tmp_path / "tuned")
    assert checkpoint.load_punctuation(tmp_path / "tuned").vocabulary.lexicon == tiny_punctuator().vocabulary.lexicon
