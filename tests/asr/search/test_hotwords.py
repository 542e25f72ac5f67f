"""Hotwords in the search: what texts gain against a plain reading of the rule, and the promises of the batch."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.las import Encoded, Model
from asr.search import Automaton, beam_search, search
from asr.search.beam import Prefix
from asr.search.hotwords import HotwordScorer
from asr.search.scorers import View
from asr.text.tokenizer import EOS, SOS, WORD_START
from asr.writing.hotwords import Hotwords, Phrase
from tests.support.pieces import FakePieces
from tests.support.tiny_model import sounds, tiny_lm, tiny_model

CPU = torch.device("cpu")
CONFIG = SearchConfig(beam_size=4, length_bonus=0.3, hotword_weight=0.6)


_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
# fmt: off
PIECES = FakePieces((
    *_SPECIAL, "▁", "▁a", "▁b", "▁c", "▁ab", "▁abc", "a", "b", "c", "ab", "ca", "bc", "abc", "▁aa", "'", "s",
))
# fmt: on


def gained(text: str, phrases: dict[str, float], ended: bool) -> float:
    """The rule of `asr.search.hotwords`, read as it is written there: word by word, by comparing strings."""
    weights = {WORD_START + said.replace(" ", WORD_START): (said, weight) for said, weight in phrases.items()}
    weights |= {f"{key}'s": value for key, value in weights.items()}

    def worth(part: str, key: str) -> float:
        said, weight = weights[key]
        return weight * min(len(part.replace(WORD_START, "")), len(said.replace(" ", "")))

    kept, at = 0.0, text.find(WORD_START)
    while at >= 0:
        rest = text[at:]
        inside = [worth(rest, key) for key in weights if key.startswith(rest)]
        if inside and not ended:
            return kept + max(inside)
        whole = [k for k in weights if rest.startswith(k) and rest[len(k) : len(k) + 1] in (WORD_START, "")]
        if whole:
            longest = max(whole, key=len)
            kept += worth(longest, longest)
            at += len(longest)
            at = at if at < len(text) else -1
        else:
            at = text.find(WORD_START, at + 1)
    return kept


def totals(automaton: Automaton, tokens: list[int]) -> tuple[list[float], list[float]]:
    """What the scorer has added after each token, and what it would have if the text ended there."""
    scorer = HotwordScorer([automaton], CPU)
    state, last, total = scorer.initial_state(torch.zeros(1, dtype=torch.long)), SOS, 0.0
    open_, ended = [], []
    for token in [*tokens, None]:
        view = View(torch.tensor([last]), torch.zeros(1, len(PIECES)), torch.zeros(1, 1))
        scores, state = scorer.score(view, state)
        ended.append(total + float(scores[0, EOS]))
        if token is not None:
            total += float(scores[0, token])
            last = token
            open_.append(total)
    return open_, ended


def random_phrases(random_: random.Random) -> dict[str, float]:
    words = ["a", "b", "ab", "abc", "aab", "ca", "bc", "cab", "abcab"]
    count = random_.randint(1, 7)
    phrases = (" ".join(random_.choices(words, k=random_.randint(1, 3))) for _ in range(count))
    return {phrase: random_.choice([0.5, 1.0, 3.0]) for phrase in phrases}


def test_texts_gain_what_the_rule_says() -> None:
    """Random lists and random texts, however spelled: phrases inside phrases, shared beginnings, possessives."""
    some = random.Random(7)
    for _ in range(25):
        phrases = random_phrases(some)
        hotwords = Hotwords(tuple(Phrase(text, weight) for text, weight in phrases.items()))
        automaton = Automaton.build(hotwords, PIECES)
        for _ in range(4):
            tokens = [some.randint(EOS + 1, len(PIECES) - 1) for _ in range(some.randint(1, 14))]
            if some.random() < 0.8:  # mostly made of the phrases
                said = " ".join(some.choices(list(phrases), k=3))
                tokens = spelled_somehow(WORD_START + said.replace(" ", WORD_START), some)
            open_, ended = totals(automaton, tokens)
            for count in range(len(tokens) + 1):
                text = "".join(map(PIECES.piece, tokens[:count]))
                assert ended[count] == pytest.approx(gained(text, phrases, ended=True), abs=1e-4), (phrases, text)
                if count:
                    assert open_[count - 1] == pytest.approx(gained(text, phrases, ended=False), abs=1e-4)
            steps = [0, *(automaton.walk(0, tokens[:n]) for n in range(1, len(tokens)))]
            assert automaton.walk(steps[-1], tokens[-1:]) == automaton.walk(0, tokens)


def spelled_somehow(text: str, random_: random.Random) -> list[int]:
    """Tokens of a text, each one drawn among those that fit."""
    tokens: list[int] = []
    while text:
        fitting = [t for t in range(EOS + 1, len(PIECES)) if text.startswith(PIECES.piece(t))]
        tokens.append(random_.choice(fitting))
        text = text[len(PIECES.piece(tokens[-1])) :]
    return tokens


def test_a_bonus_is_taken_back_when_the_phrase_is_not_said() -> None:
    automaton = Automaton.build(Hotwords.parse("abc"), PIECES)
    whole, short, longer = ([PIECES.pieces.index(p) for p in said.split()] for said in ("▁ab c", "▁ab", "▁abc a"))
    assert totals(automaton, whole)[0] == [2.0, 3.0]
    assert totals(automaton, whole)[1] == [0.0, 0.0, 3.0]
    assert totals(automaton, short) == ([2.0], [0.0, 0.0])
    assert totals(automaton, longer)[0] == [3.0, 0.0]


def test_what_the_model_cannot_spell_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'naïve 東京'.*'東'") as caught:
        Automaton.build(Hotwords.parse("abc, naïve 東京"), PIECES)
    assert "'京'" in str(caught.value)
    assert "'a'" not in str(caught.value)


def test_the_memory_of_a_list_is_bounded() -> None:
    """A list of a thousand words takes less than a hundredth of the dense table of its nodes and a real vocabulary."""
    words = ["".join(w) for w in itertools.islice(itertools.product("abc", repeat=7), 1000)]
    automaton = Automaton.build(Hotwords.from_phrases(words), PIECES)
    assert automaton.nbytes < 500_000


def encoded(model: Model, count: int) -> Encoded:
    torch.manual_seed(6)
    return model.encode(*sounds(count))


def prefix_of(model: Model, batch: Encoded, nodes: list[int], word_starts: Tensor) -> Prefix:
    memory = model.decoder.prepare(*batch)
    rows = len(batch.encoder_out_lengths)
    last = torch.full((rows,), 5)
    return Prefix(
        last, model.decoder.initial_state(memory), torch.zeros(rows, dtype=torch.long), word_starts, None, nodes
    )


def lists() -> list[Automaton | None]:
    texts = ["abc, a b:3", "", "ca, bc aa, ab", "b:5", "abc, a b:3", "cab c"]
    return [Automaton.build(Hotwords.parse(text), PIECES) if text else None for text in texts]


@pytest.mark.parametrize("with_prefix", [False, True])
def test_the_size_of_the_batch_never_changes_the_answer_with_lists(with_prefix: bool) -> None:
    """Alone or beside streams with other lists and without one: equal tokens, scores within 1e-4."""
    model, lm, some = tiny_model(), tiny_lm(), lists()
    config = replace(CONFIG, lm_weight=0.2)
    batch = encoded(model, len(some))
    starts = torch.tensor(PIECES.word_starts)
    nodes = [a.walk(0, [5, 11]) if a else 0 for a in some]

    def run(rows: list[int]) -> list[tuple[list[int], float]]:
        part = Encoded(*(x[rows] for x in batch))
        part = Encoded(part.encoder_out[:, : int(part.encoder_out_lengths.max())], part.encoder_out_lengths)
        prefix = prefix_of(model, part, [nodes[r] for r in rows], starts) if with_prefix else None
        found = beam_search(model, part, config, lm, prefix, [some[r] for r in rows])
        return [(best.tokens, best.score) for best, *_ in found]

    together, plain = run(list(range(len(some)))), beam_search(model, batch, config, lm)
    alone = [run([r])[0] for r in range(len(some))]
    for (tokens, score), (expected, value) in zip(together, alone, strict=True):
        assert tokens == expected
        assert score == pytest.approx(value, abs=1e-4)
    assert [t for t, _ in run([3, 1, 0])] == [together[3][0], together[1][0], together[0][0]]
    if not with_prefix:
        assert any(best.tokens != tokens for (best, *_), (tokens, _) in zip(plain, together, strict=True))


def test_without_a_list_nothing_changes() -> None:
    """Bit for bit, whether hotwords are not given or another utterance of the batch has some."""
    model = tiny_model()
    batch = encoded(model, 2)
    plain, none = beam_search(model, batch, CONFIG), beam_search(model, batch, CONFIG, hotwords=[None, None])
    mixed = beam_search(model, batch, CONFIG, hotwords=[None, lists()[0]])
    assert plain == none
    assert mixed[0] == plain[0]


def test_greedy_search_refuses_hotwords() -> None:
    model = tiny_model()
    batch = encoded(model, 1)
    with pytest.raises(ConfigError, match=r"beam_size is 1: it must be at least 2 with hotwords"):
        search(model, batch, SearchConfig(beam_size=1), hotwords=lists()[:1])
