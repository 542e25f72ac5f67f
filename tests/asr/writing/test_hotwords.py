"""Lists of hotwords: accepted and refused phrases, and their spelling in text."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.errors import ConfigError
from asr.writing.hotwords import MAX_PHRASES, Hotwords, Phrase
from asr.writing.parts import Form
from asr.writing.spoken_forms import spoken_forms


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Siobhán", ("siobhan",)),
        ("Nextcloud", ("nextcloud", "next cloud")),
        ("iPhone 15", ("iphone fifteen", "iphone one five", "i phone fifteen", "i phone one five")),
        ("ACME Corp.", ("acme corp", "acme corporation", "a c m e corp", "a c m e corporation")),
        ("AT&T", ("at and t", "a t and t")),
        ("example.com", ("example com", "example dot com")),
        ("O’Brien", ("o'brien",)),
        ("Jean-Luc", ("jean luc",)),
        ("Boeing 747", ("boeing seven hundred forty seven", "boeing seven four seven")),
        ("007", ("zero zero seven",)),
        ("1905", ("nineteen oh five", "one thousand nine hundred five", "one nine zero five")),
        ("!?", ()),
    ],
)
def test_the_ways_to_say_a_phrase(text: str, spoken: tuple[str, ...]) -> None:
    assert spoken_forms(text) == spoken


def test_the_ways_to_say_a_phrase_are_bounded() -> None:
    assert len(spoken_forms("1234 5678 ABC.DEF NextCloud 1999 2001")) == 12


def test_a_list_is_read() -> None:
    found = Hotwords.parse(" Nextcloud, Siobhán:3 ,\nACME  Corp.: 0.5,, Star Trek: Picard,Nextcloud:2")
    assert found.phrases == (
        Phrase("Nextcloud", 2.0),
        Phrase("Siobhán", 3.0),
        Phrase("ACME Corp.", 0.5),
        Phrase("Star Trek: Picard"),
    )
    assert Hotwords.from_phrases(["Smith, John:2"]).phrases == (Phrase("Smith, John", 2.0),)
    assert Hotwords.of(" ,") is Hotwords.of(None) is Hotwords.of([]) is None


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeff# people\r\nSiobhán:3  # with an accent\r\n\r\nSmith, John\r\n".encode())
    expected = (Phrase("Siobhán", 3.0), Phrase("Smith, John"))
    assert Hotwords.read(path).phrases == expected
    given, named = Hotwords.given(str(path)), Hotwords.given("Siobhán:3")
    assert given is not None
    assert given.phrases == expected
    assert named is not None
    assert named.phrases == expected[:1]
    assert Hotwords.given(None) is Hotwords.given("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:0", "the weight of the hotword 'a' is 0.0: it must be above 0"),
        ("a:-1", "must be above 0"),
        ("a:nan", "must be above 0"),
        ("a:1000", "at most 5"),
        ("...", r"hotword is '\.\.\.': it must be a phrase with a word in it"),
        (":3", "a phrase with a word in it"),
        ("a" * 101, "at most 100 characters long"),
        (",".join(f"a{'b' * (n % 9)}{n}" for n in range(MAX_PHRASES + 1)), "the number of hotwords is 10001"),
    ],
)
def test_wrong_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Hotwords.parse(text)


def test_wrong_phrases_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hotword is 3: it must be a string"):
        Hotwords.of([3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"names\.txt: No such file"):
        Hotwords.given(str(tmp_path / "names.txt"))
    with pytest.raises(ConfigError, match="Is a directory"):
        Hotwords.given(str(tmp_path))
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"broken\.txt: a list of hotwords must be text in UTF-8"):
        Hotwords.read(broken)
    broken.write_text("fine\na:99")
    with pytest.raises(ConfigError, match=r"broken\.txt: the weight of the hotword 'a' is 99"):
        Hotwords.read(broken)
    broken.write_bytes(b"a" * (5 << 20))
    with pytest.raises(ConfigError, match=r"broken\.txt: .*at most 4 MB"):
        Hotwords.read(broken)


def test_words_are_written_as_the_list_has_them() -> None:
    hotwords = Hotwords.parse("Nextcloud, Siobhán:3, ACME Corp., ACME, iPhone, New York, York City")
    words = [
        "siobhan's",
        "iphone",
        "has",
        "next",
        "cloud",
        "of",
        "acme",
        "corporation",
        "and",
        "acme",
        "in",
        "new",
        "york",
        "city",
    ]
    assert hotwords.forms(words) == [
        Form(0, 1, "Siobhán's"),
        Form(1, 2, "iPhone"),
        Form(3, 5, "Nextcloud"),
        Form(6, 8, "ACME Corp."),
        Form(9, 10, "ACME"),
        Form(11, 13, "New York"),
    ]
    assert hotwords.forms([]) == hotwords.forms(["new"]) == []


def test_a_name_that_ends_in_an_owners_s_is_written_too() -> None:
    """It was looked up without its 's, but listed with it."""
    hotwords = Hotwords.parse("McDonald's, Lloyd's Bank, Lloyd")
    words = ["mcdonald's", "and", "lloyd's", "bank", "or", "lloyd's", "house"]
    assert hotwords.forms(words) == [Form(0, 1, "McDonald's"), Form(2, 4, "Lloyd's Bank"), Form(5, 6, "Lloyd's")]


def test_the_plain_reading_comes_first() -> None:
    """The plain reading of a phrase is not hidden by another reading of the phrase before it."""
    assert Hotwords.parse("NextCloud, next cloud").forms(["next", "cloud"]) == [Form(0, 2, "next cloud")]
