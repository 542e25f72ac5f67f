"""Error rates: equality with jiwer's, confidence intervals, and reports of the errors."""

from __future__ import annotations

import io
import json

import jiwer
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from asr.text.error_report import align_text, confusions, table, worst
from asr.text.metrics import ErrorCounts, Scored, score, summarise, to_json

# A busy machine must not fail the test.
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

sentences = st.lists(st.sampled_from(["the", "cat", "a", "hat", "it's", "mat"]), max_size=8).map(" ".join)
spoken = sentences.filter(bool)
corpora = st.lists(st.tuples(st.sampled_from(["one", "two"]), spoken, sentences), min_size=1, max_size=12)


def score_all(rows: list[tuple[str, str, str]]) -> list[Scored]:
    return [score(str(index), corpus, left, right, 1.5) for index, (corpus, left, right) in enumerate(rows)]


def test_counts_of_a_known_pair() -> None:
    scored = score("id", "c", "the cat sat", "the bat sat down", 2.0)
    assert scored.words == ErrorCounts(substitutions=1, deletions=0, insertions=1, reference_length=3)
    assert scored.words.rate == pytest.approx(2 / 3)
    assert scored.characters == ErrorCounts(substitutions=1, deletions=0, insertions=5, reference_length=11)


def test_white_space_is_no_error() -> None:
    assert score("id", "c", " the  cat\n", "the\tcat", 1.0).words.errors == 0


def test_an_empty_reference_makes_every_word_an_insertion() -> None:
    scored = score("id", "c", "", "hello there", 1.0)
    assert scored.words == ErrorCounts(0, 0, 2, 0)
    assert scored.characters == ErrorCounts(0, 0, 11, 0)
    assert scored.words.rate == 2.0
    assert score("id", "c", "", " ", 1.0).words.rate == 0.0
    assert summarise([scored])[-1].words.insertions == 2


def test_an_empty_hypothesis_makes_every_word_a_deletion() -> None:
    assert score("id", "c", "hello there", "", 1.0).words == ErrorCounts(0, 2, 0, 2)


@relaxed
@given(corpora)
def test_pooled_rates_equal_those_of_jiwer(rows: list[tuple[str, str, str]]) -> None:
    references, hypotheses = [row[1] for row in rows], [row[2] for row in rows]
    total = summarise(score_all(rows))[-1]
    assert total.words.rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert total.characters.rate == pytest.approx(jiwer.cer(references, hypotheses))
    assert (total.utterances, total.seconds) == (len(rows), 1.5 * len(rows))


@relaxed
@given(sentences, sentences)
def test_exchanging_the_sides_exchanges_insertions_and_deletions(left: str, right: str) -> None:
    forth, back = score("id", "c", left, right, 1.0), score("id", "c", right, left, 1.0)
    for one, other in ((forth.words, back.words), (forth.characters, back.characters)):
        # The alignment may be any of the shortest; the number of errors and the balance are the same.
        assert one.errors == other.errors
        assert one.insertions - one.deletions == other.deletions - other.insertions
        assert one.insertions - one.deletions == other.reference_length - one.reference_length


@relaxed
@given(corpora)
def test_the_interval_contains_the_rate_and_is_the_same_each_time(rows: list[tuple[str, str, str]]) -> None:
    scored = score_all(rows)
    summaries = summarise(scored)
    for summary in summaries:
        low, high = summary.wer_interval
        assert 0 <= low <= summary.words.rate <= high
    assert summarise(scored) == summaries


def test_the_interval_narrows_with_more_utterances() -> None:
    pair = score_all([("c", "a b c d", "a b c d"), ("c", "a b c d", "a x c d")])
    widths = []
    for repeats in (5, 500, 3000):  # the last is resampled in several blocks
        low, high = summarise(pair * repeats)[-1].wer_interval
        widths.append(high - low)
    assert widths[0] > 5 * widths[1] > 5 * widths[2] > 0
    # Half the utterances have a rate of 1/4, so the pooled rate has a standard error of 1/8 over the root of 1,000.
    assert widths[1] == pytest.approx(2 * 1.96 / 8 / 1000**0.5, rel=0.15)


def test_corpora_come_in_order_of_appearance_and_the_total_last() -> None:
    scored = score_all([("zebra", "a", "a"), ("ant", "a b c", "a"), ("zebra", "b", "b")])
    summaries = summarise(scored)
    assert [(one.name, one.utterances) for one in summaries] == [("zebra", 2), ("ant", 1), ("total", 3)]
    assert [one.words.rate for one in summaries] == [0.0, 2 / 3, 2 / 5]


def test_nothing_scored_is_an_empty_total() -> None:
    (total,) = summarise([])
    assert (total.name, total.utterances, total.words.rate, total.wer_interval) == ("total", 0, 0.0, (0.0, 0.0))


def test_the_worst_utterances_are_those_that_cost_most() -> None:
    rows = [("c", "a b c d", "a b x y"), ("c", "a", "a"), ("c", "a b", "x y"), ("c", "a b c", "")]
    assert [one.id for one in worst(score_all(rows), 10)] == ["3", "2", "0"]
    assert [one.id for one in worst(score_all(rows), 1)] == ["3"]


def test_the_aligned_view_puts_errors_under_their_words() -> None:
    assert align_text("the cat sat on it all day", "a cat sat it all day now").split("\n") == [
        "REF: the cat sat on  it all day ***",
        "HYP: a   cat sat *** it all day now",
        "     S           D              I",
    ]
    assert align_text("same", "same") == "REF: same\nHYP: same"
    assert align_text("", "") == "REF:\nHYP:"
    assert align_text("", "hi") == "REF: ***\nHYP: hi\n     I"


@relaxed
@given(sentences, sentences)
def test_the_aligned_view_holds_both_texts_and_one_mark_for_each_error(left: str, right: str) -> None:
    reference, hypothesis, *marks = align_text(left, right).split("\n")
    assert [word for word in reference.split()[1:] if word != "***"] == left.split()
    assert [word for word in hypothesis.split()[1:] if word != "***"] == right.split()
    assert len("".join(marks).split()) == score("id", "c", left, right, 1.0).words.errors


def test_the_most_common_errors_come_first() -> None:
    rows = [("c", "the cat", "a cat"), ("c", "the dog", "a dog now"), ("c", "to go", "go"), ("c", "", "now")]
    assert confusions(score_all(rows)) == [
        ("insertion", "", "now", 2),
        ("substitution", "the", "a", 2),
        ("deletion", "to", "", 1),
    ]
    assert confusions(score_all(rows), 1)[0].occurrences == 2


@relaxed
@given(corpora)
def test_confusions_add_up_to_the_errors(rows: list[tuple[str, str, str]]) -> None:
    scored = score_all(rows)
    assert sum(one.occurrences for one in confusions(scored)) == summarise(scored)[-1].words.errors


def test_results_as_json() -> None:
    scored = score_all([("c", "a b", "a x"), ("c", "", "x")])
    plain = to_json(summarise(scored), scored)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["summaries"][-1]["words"] == {  # type: ignore[index]
        "rate": 1.0,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 1,
        "reference_length": 2,
    }
    assert [one["hypothesis"] for one in plain["utterances"]] == ["a x", "x"]  # type: ignore[attr-defined]


def test_the_table_shows_each_corpus_with_its_rate() -> None:
    screen = io.StringIO()
    scored = score_all([("[red]", "a b c d", "a b c x"), ("an4", "go", "go")])
    Console(file=screen, width=120).print(table(summarise(scored), title="test"))
    lines = screen.getvalue().splitlines()
    assert any("[red]" in line and "25.00" in line for line in lines)
    assert any("total" in line and "20.00" in line for line in lines)
