"""Text normalisation for training and scoring."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.text.normalise import modernise, normalise, plain

EXAMPLES = [
    ("The cat SAT.", "the cat sat"),
    ("  two\t spaces \n", "two spaces"),
    ("don't", "don't"),
    ("don’t", "don't"),
    ("‘quoted’", "quoted"),
    ("'quoted' words", "quoted words"),
    ("the boys' hats", "the boys' hats"),
    ("well-known", "well known"),
    ("stop—now", "stop now"),
    ("salt & pepper", "salt and pepper"),
    ("AT&T", "at and t"),
    ("Mr. Smith, of the U.S.A.!", "mr smith of the u s a"),
    ('"Hello," she said;', "hello she said"),
    ("'", None),
    ("''", None),
    ("...", None),
    ("", None),
    ("chapter 7", None),
    ("привет", None),
]
OLD_SPELLING_PARTS = ["to", "day", "night", "morrow", "any", "every", "one", "body", "thing", "of", "ever", "so", "&c"]


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_normalisation(text: str, expected: str | None) -> None:
    """Lower case a-z, apostrophes within words, single spaces; None if spoken content would be lost."""
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Wait… and – go,” she said.", "wait and go she said"),  # sentences with such were lost
        ("soft\xadly", "softly"),
        ("one – two", "one two"),
        ("'boys'", "boys'"),
        ("s'", "s"),
        ("''s'", "s"),
        ("boys''", "boys"),
    ],
)
def test_normalisation_at_its_edges(text: str, expected: str) -> None:
    """Kinds of quotes and dashes that occur in users' references but not in the corpora."""
    assert normalise(text) == expected


@pytest.mark.parametrize("text", [text for text, _ in EXAMPLES])
def test_normalisation_agrees_with_the_corpora(text: str, speech_dir: Path) -> None:
    """Our rule is the one that the training and test transcripts were made by."""
    path = speech_dir / "build.py"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    spec = importlib.util.spec_from_file_location("speech_build", path)
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert normalise(text) == build.normalise(text)


@pytest.mark.parametrize("apostrophe", "'’‘‛ʼʻ´`′ꞌ＇", ids=ascii)
def test_every_apostrophe_is_one(apostrophe: str) -> None:
    """U+02BC and U+00B4 left a whole utterance out of scoring and of training; U+0060 made one word two."""
    assert normalise(f"Don{apostrophe}t stop, the boys{apostrophe} hats {apostrophe}quoted{apostrophe}") == (
        "don't stop the boys' hats quoted"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café", "cafe"),
        ("cafe\u0301", "cafe"),  # decomposed, as macOS writes names
        ("naïve Zoë, Łódź and Ærø", "naive zoe lodz and aero"),
        ("Straße", "strasse"),
        ("ﬁne ﬂour", "fine flour"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ！", "full width"),
        ("𝐁𝐨𝐥𝐝", "bold"),
        ("İstanbul", "istanbul"),
        ("Windows™ and ®", "windows and"),
        ("½ a pint", None),
        ("２０", None),
        ("№ five", None),
        ("й", None),
        ("ά", None),
        ("☺", None),
    ],
)
def test_accents_ligatures_and_widths_are_folded(text: str, expected: str | None) -> None:
    """A reference with an accent or a ligature was left out, as if it were in another script."""
    assert normalise(text) == expected


def test_what_cannot_be_folded_can_be_shown() -> None:
    """Messages show the characters that exclude a text: those of other scripts, but not accents."""
    assert plain("Café й №") == "cafe й №"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("To-morrow, to-day and to-night's!", "tomorrow today and tonight's"),
        ("to morrow", "tomorrow"),
        ("any one else", "anyone else"),
        ("every thing for ever", "everything forever"),
        ("now-a-days", "nowadays"),
        ("bread, cheese, &c.", "bread cheese et cetera"),
        ("he shewed the connexion", "he showed the connection"),
        ("I can not", "i cannot"),
    ],
)
def test_old_spellings_become_modern(old: str, new: str) -> None:
    """A model that heard "tomorrow" was charged two errors against a novel's "to-morrow"."""
    assert normalise(old) == new
    assert normalise(new) == new


@pytest.mark.parametrize(
    "text",
    [
        "day to day",
        "from night to day",
        "from morning to night",
        "any one of them",
        "some one thing",
        "every body of water",
        "for ever so long",
        "onto day one",
        "many one act plays",
        "into morrow",
        "to days",
    ],
)
def test_two_words_stay_two(text: str) -> None:
    """Pairs that are still two words in modern English are not joined."""
    assert modernise(text) == text


@given(
    st.text(alphabet=st.characters(max_codepoint=0x2020))
    | st.text("as' -’&.S", max_size=12)
    | st.lists(st.sampled_from(OLD_SPELLING_PARTS)).map(" ".join)
)
def test_normalised_text_is_normal(text: str) -> None:
    """Normalisation is idempotent, and gives only words of letters and apostrophes."""
    once = normalise(text)
    if once is not None:
        assert normalise(once) == once
        assert set(once) <= set("abcdefghijklmnopqrstuvwxyz' ")
        assert once.split(" ") == once.split()
